# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A recording through the real nodes gives the figures of the evaluation without DDS, to the last digit."""

import json

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from kd_perception.bags.reader import BagReader
from kd_perception.cli.main import run_command
from kd_perception.detection.onnx_detector import OnnxDetector
import kitti_drive

TOPIC = '/front/detections'


def evaluate(bag, out, *words):
    """Evaluate one way; return the report."""
    assert run_command('evaluate', ['--bag', str(bag), '--labels', '/front/ground_truth', '--out', str(out),
                                    '--bootstrap', '20', '--no-html', *words]) == 0
    return json.loads((out / 'report.json').read_text())


@pytest.fixture
def bag(tmp_path):
    """A labelled recording."""
    folder = kitti_drive.write_object(tmp_path / 'kitti')
    assert run_command('convert', ['kitti-to-bag', '--input', str(folder), '--camera', 'front',
                                   '--out', str(tmp_path / 'drive.mcap')]) == 0
    return tmp_path / 'drive.mcap'


def test_offline_and_online_agree(probe, start, start_detector, model, bag, tmp_path):
    offline = evaluate(bag, tmp_path / 'offline', '--model', str(model))
    start_detector(cameras=['front'], score_threshold=OnnxDetector.load(model).spec.thresholds.score_low)
    answers = tmp_path / 'answers.mcap'
    replay = start('kd_perception.nodes.replay_node', '--ros-args', '-p', f'input:={bag}', '-p',
                   'lockstep:=detections', '-p', f'record:={answers}')
    assert replay.wait(60) == 0, replay.log
    with BagReader(answers) as recorded:
        assert {name: topic.count for name, topic in recorded.topics.items()} == {
            TOPIC: len(kitti_drive.FRAMES)}
    online = evaluate(bag, tmp_path / 'online', '--recorded', str(answers), '--detections', TOPIC)
    assert online['frames'] == offline['frames']
    assert online['results'] == offline['results'] and online['miss_rate'] == offline['miss_rate']
    # Not the agreement of two empty reports.
    assert offline['results']['Car']['easy']['valid_ground_truths'] == 1
    assert offline['results']['Car']['hard']['valid_ground_truths'] == 3
    assert offline['results']['Cyclist']['moderate']['ap_r11'] > 0
    assert online['latency_ms']['recorded']['p50'] > 0


@pytest.mark.parametrize('parameters,told', [
    (('lockstep:=none',), 'record: needs lockstep'),
    (('lockstep:=detections', 'loop:=true'), 'record: loop would record every frame several times'),
])
def test_recording_without_lockstep_or_in_a_loop_is_refused(start, bag, tmp_path, parameters, told):
    arguments = [word for parameter in parameters for word in ('-p', parameter)]
    replay = start('kd_perception.nodes.replay_node', '--ros-args', '-p', f'input:={bag}', *arguments,
                   '-p', f'record:={tmp_path / "answers.mcap"}')
    assert replay.wait(60) == 2
    assert told in replay.log and not (tmp_path / 'answers.mcap').exists()


def test_an_existing_recording_is_not_touched(start, bag, tmp_path):
    (tmp_path / 'answers.mcap').write_bytes(b'precious')
    replay = start('kd_perception.nodes.replay_node', '--ros-args', '-p', f'input:={bag}', '-p',
                   'lockstep:=detections', '-p', f'record:={tmp_path / "answers.mcap"}')
    assert replay.wait(60) == 2
    assert 'exists already' in replay.log
    assert (tmp_path / 'answers.mcap').read_bytes() == b'precious'
