# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What `ros2 launch` returns, and what a script that interrupts it twice leaves behind."""

import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from installed import require

require('launch', 'launch_ros', reason='ROS 2 launch is not installed (it is not on PyPI)')
require('vision_msgs', reason='vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

ROOT = Path(__file__).resolve().parents[2]

from test_replay_launch_end import launch, RUN

from kd_perception.bags.reader import BagReader
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from ros_harness import own_domain, Probe
from vision_msgs.msg import Detection2DArray

HYBRID, DETECTOR = ROOT / 'launch' / 'hybrid.launch.py', ROOT / 'launch' / 'detector.launch.py'
EVALUATION, REPLAY = ROOT / 'launch' / 'replay_evaluation.launch.py', ROOT / 'launch' / 'replay.launch.py'


def images_in(folder, count):
    folder.mkdir()
    cv2.imwrite(str(folder / '0000.png'), np.zeros((96, 128, 3), np.uint8))
    for number in range(1, count):
        os.link(folder / '0000.png', folder / f'{number:04}.png')
    return folder


@pytest.mark.parametrize('path,arguments,told', [
    (DETECTOR, {'score_threshold': '7'}, 'detector refused its arguments'),
    # Started again without end by default, if the launch did not end.
    (HYBRID, {'cameras': 'front,/front'}, '(student|fallback|teacher) refused its arguments'),
    (REPLAY, {'input': 'images', 'model': 'model.onnx', 'lockstep': 'never'}, 'replay refused its arguments'),
    (EVALUATION, {'input': 'images', 'model': 'model.onnx', 'labels': '/none', 'out': 'report'},
     'labels:=/none: '),
    (EVALUATION, {'input': 'images', 'model': 'model.onnx', 'labels': 'labels', 'out': 'report',
                  'evaluate_arguments': '--bootstrap many'}, 'evaluate failed with exit code 2'),
])
def test_a_launch_that_cannot_work_fails(tmp_path, monkeypatch, path, arguments, told):
    monkeypatch.chdir(tmp_path)
    images_in(tmp_path / 'images', 2)
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'labels' / '0000.txt').write_text('Car 0 0 0 1 1 30 30 0 0 0 0 0 0 0\n')
    write_rectangle_model(tmp_path / 'model.onnx')
    result = launch(tmp_path, path, **arguments)
    assert result.returncode == 1 and re.search(told, result.stdout), result.stdout
    assert 'Traceback' not in result.stdout, result.stdout
    assert (tmp_path / 'report').exists() == ('evaluate_arguments' in arguments)


def test_a_group_interrupted_and_interrupted_again_by_launch_keeps_its_recording(tmp_path):
    """A script that signals the whole group gives each node two SIGINTs: its own, and launch's."""
    recording = tmp_path / 'answers.mcap'
    arguments = {'input': images_in(tmp_path / 'images', 3000), 'lockstep': 'detections', 'record': recording,
                 'model': write_rectangle_model(tmp_path / 'model.onnx')}
    log = tmp_path / 'log'
    with own_domain() as domain, open(log, 'wb') as output:
        probe = Probe(domain)
        answers = probe.collect(Detection2DArray, '/camera/detections')
        process = subprocess.Popen(
            [sys.executable, '-c', RUN, str(REPLAY), *(f'{k}:={v}' for k, v in arguments.items())],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, 'ROS_LOG_DIR': str(tmp_path)})
        try:
            probe.wait_for(lambda: len(answers) > 3, log.read_text, 60)
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)
        finally:
            probe.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert process.returncode == 0 and 'Traceback' not in text, text
    assert text.count('process has finished cleanly') == 2, text
    report = json.loads(re.search(r'\{"input".*\}', text)[0])
    assert report['ended'] == 'interrupted'
    bag = BagReader(recording)
    topic = bag.topics['/camera/detections']
    assert not bag.problems and topic.count == report['answers'] > 3
    bag.close()
