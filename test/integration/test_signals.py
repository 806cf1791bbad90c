# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Signals at awkward moments: again and again while a node cleans up, and while it still imports."""

import contextlib
import json
import os
import re
import signal
import time

import cv2
import numpy as np
import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from detector_client import CameraClient, image_message
from detector_scenarios import IMAGE
from kd_perception.bags.reader import BagReader
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from ros_harness import TIMEOUT_S

NODES = 'kd_perception.nodes.'


def interrupt_until_it_ends(process, pause_s=0.005, by=signal.SIGINT):
    """Send a signal over and over, as impatient users and launch do; return the exit code."""
    end = time.monotonic() + TIMEOUT_S
    while process.alive and time.monotonic() < end:
        with contextlib.suppress(ProcessLookupError):
            process.process.send_signal(by)
        time.sleep(pause_s)
    return process.wait()


def test_a_replay_that_is_interrupted_again_and_again_keeps_report_and_recording(
        domain, start, start_detector, probe, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    cv2.imwrite(str(images / '0000.png'), np.zeros((96, 128, 3), np.uint8))
    for number in range(1, 5000):       # more than can be played meanwhile
        os.link(images / '0000.png', images / f'{number:04}.png')
    looping = start(NODES + 'replay_node', '--ros-args', '-r', '__node:=looping', '-r', '__ns:=/other', '-p',
                    f'input:={images}', '-p', 'loop:=true', '-p', 'wait_for_subscribers_s:=0.0')
    detector = start_detector()
    replay = start(NODES + 'replay_node', '--ros-args', '-p', f'input:={images}', '-p',
                   'lockstep:=detections', '-p', f'record:={tmp_path / "answers.mcap"}')
    answers = CameraClient(probe).results
    probe.wait_for(lambda: len(answers) > 3, 'some answers')
    probe.wait_for(lambda: probe.node.count_publishers('/other/camera/image_raw'), 'the looping replay')
    for process in (replay, detector, looping):
        assert interrupt_until_it_ends(process) == 0, process.log
        assert 'Traceback' not in process.log and 'KeyboardInterrupt' not in process.log, process.log
    for process in (replay, looping):
        assert json.loads(process.log.strip().splitlines()[-1])['ended'] == 'interrupted', process.log
    report = json.loads(replay.log.strip().splitlines()[-1])
    bag = BagReader(tmp_path / 'answers.mcap')
    assert 0 < bag.topics['/camera/detections'].count == report['answers'] and not bag.problems
    bag.close()


@pytest.mark.parametrize('by', [signal.SIGINT, signal.SIGTERM])
def test_a_detector_finishes_its_frame_whatever_comes_meanwhile(probe, start_detector, tmp_path, by):
    process = start_detector(model=write_rectangle_model(tmp_path / 'slow.onnx', load_steps=3000))
    camera = CameraClient(probe)
    camera.wait_ready()
    for _ in range(3):
        camera.publisher.publish(image_message(IMAGE))
    probe.spin(0.2)
    assert interrupt_until_it_ends(process, by=by) == 0, process.log
    assert 'Traceback' not in process.log and 'ERROR' not in process.log, process.log


def test_a_signal_while_a_node_imports_ends_it_without_a_word(domain, start):
    """Python lists what it has imported: the handler is among the first, and the signal comes then."""
    children = [(node, by, start(NODES + node, environment={'PYTHONPROFILEIMPORTTIME': '1'}))
                for node, by in (('detector_node', signal.SIGINT), ('fallback_node', signal.SIGTERM),
                                 ('metrics_node', signal.SIGTERM), ('replay_node', signal.SIGINT))]
    for node, by, process in children:
        end = time.monotonic() + TIMEOUT_S
        while not re.search(r'kd_perception\.nodes\.shared\.signals\n.*\n', process.log):
            assert process.alive and time.monotonic() < end, process.log
            time.sleep(0.002)
        assert process.stop(by) == 0, (node, process.log)
        assert 'Traceback' not in process.log and f'kd_perception.nodes.{node}' not in process.log
