# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A foreign detector of five classes goes through the node, recordings and the evaluation."""

import json

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

import cv2
import numpy as np

from constant_model import attached_constant
from kd_perception.bags.reader import BagReader
from kd_perception.cli.main import run_command
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.messages.build import parse_detection_array

# With fewer objects than recall points no AP is 100.
HW, FRAMES, TRAMS = (96, 160), 45, 42
# Name, the network's, box, score. The last frames have no tram: there it is a false alarm.
OBJECTS = (('Car', 'car', (4, 10, 44, 60), .9), ('Pedestrian', 'person', (50, 8, 70, 62), .85),
           ('Cyclist', 'rider', (76, 6, 100, 66), .8), ('Truck', 'truck', (104, 4, 154, 48), .75),
           ('Tram', 'tram', (104, 50, 154, 94), .7))
TOPIC = '/front/detections'
CLASSES = [word for name in ('Car=0.7', 'Pedestrian=0.5', 'Cyclist=0.5', 'Truck=0.7', 'Tram=0.7')
           for word in ('--class', name)]


@pytest.fixture
def model(tmp_path):
    (tmp_path / 'names.txt').write_text('\n'.join(network for _, network, *_ in OBJECTS))
    renamed = ', '.join(f'{network}: {name}' for name, network, *_ in OBJECTS)
    (tmp_path / 'five.yaml').write_text(f'to: {{{renamed}}}\n')
    rows = [[*box, score, number] for number, (_, _, box, score) in enumerate(OBJECTS)]
    return attached_constant(tmp_path, 'five', HW, rows, '--names', str(tmp_path / 'names.txt'),
                             '--class-map', str(tmp_path / 'five.yaml'))


@pytest.fixture
def bag(tmp_path):
    root = tmp_path / 'kitti' / 'training'
    for name in ('image_2', 'label_2', 'calib'):
        (root / name).mkdir(parents=True)
    for i in range(FRAMES):
        assert cv2.imwrite(str(root / 'image_2' / f'{i:06d}.png'), np.full((*HW, 3), 90, np.uint8))
        (root / 'calib' / f'{i:06d}.txt').write_text('P2: 100 0 64 4.5 0 100 48 -0.3 0 0 1 0.005\n')
        (root / 'label_2' / f'{i:06d}.txt').write_text(''.join(
            f'{name} 0 0 0 {" ".join(map(str, box))} 1.5 1.6 3.9 1 1.6 20 0.1\n'
            for name, _, box, _ in OBJECTS if i < TRAMS or name != 'Tram'))
    out = tmp_path / 'drive.mcap'
    assert run_command('convert', ['kitti-to-bag', '--input', str(tmp_path / 'kitti'), '--camera', 'front',
                                   '--out', str(out)]) == 0
    return out


def results(bag, out, *words):
    assert run_command('evaluate', ['--bag', str(bag), '--labels', '/front/ground_truth', '--out', str(out),
                                    '--bootstrap', '0', '--no-html', *CLASSES, *words]) == 0
    report = json.loads((out / 'report.json').read_text())['results']
    return {name: (figures['moderate']['valid_ground_truths'], figures['moderate']['ap_r40'])
            for name, figures in report.items()}


def test_five_classes_through_node_bag_and_evaluation(probe, start, start_detector, model, bag, tmp_path):
    assert OnnxDetector.load(model).spec.labels == tuple(name for name, *_ in OBJECTS)
    offline = results(bag, tmp_path / 'offline', '--model', str(model))
    assert {name: count for name, (count, _) in offline.items()} == {
        **{name: FRAMES for name, *_ in OBJECTS}, 'Tram': TRAMS}
    assert all(ap == 100 for name, (_, ap) in offline.items() if name != 'Tram')
    assert 0 < offline['Tram'][1] < 100     # false alarms of the same score
    start_detector(model=model, cameras=['front'])
    answers = tmp_path / 'answers.mcap'
    replay = start('kd_perception.nodes.replay_node', '--ros-args', '-p', f'input:={bag}', '-p',
                   'lockstep:=detections', '-p', f'record:={answers}')
    assert replay.wait(60) == 0, replay.log
    with BagReader(answers) as recorded:
        read = [parse_detection_array(record.raw) for record in recorded.messages([TOPIC])]
    assert len(read) == FRAMES
    for _, _, boxes, _, names in read:
        assert list(names) == [name for name, *_ in OBJECTS]
        np.testing.assert_allclose(boxes, [box for _, _, box, _ in OBJECTS], atol=1e-3)
    online = results(bag, tmp_path / 'online', '--recorded', str(answers), '--detections', TOPIC)
    assert online == offline
