# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""launch/replay.launch.py for real: a recording of two cameras through a detector, in lockstep."""

import atexit
import contextlib
from pathlib import Path
import tempfile
import unittest

import pytest

from installed import require

require('launch', 'launch_ros', 'launch_testing', reason='ROS 2 launch is not installed (it is not on PyPI)')
require('vision_msgs', reason='vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

ROOT = Path(__file__).resolve().parents[2]
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_testing
import launch_testing.actions
import launch_testing.asserts

from bag_helpers import stamp_of, write_bag
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from launch import LaunchDescription
from ros_harness import no_traceback, own_domain, Probe
from vision_msgs.msg import Detection2DArray

COUNT = 5
_resources = contextlib.ExitStack()
atexit.register(_resources.close)


@pytest.mark.launch_test
def generate_test_description():
    """Cameras are found in the recording; nobody names them. It loops, for the probe may be found late."""
    domain = _resources.enter_context(own_domain())
    folder = Path(_resources.enter_context(tempfile.TemporaryDirectory()))
    model = write_rectangle_model(folder / 'rectangles.onnx')
    bag = write_bag(folder / 'drive', COUNT, ('front', 'rear'), hw=(96, 128))
    probe = Probe(domain)
    _resources.callback(probe.close)
    received = {camera: probe.collect(Detection2DArray, f'/robot/{camera}/detections')
                for camera in ('front', 'rear')}
    return LaunchDescription([
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(ROOT / 'launch' / 'replay.launch.py')),
            launch_arguments={'input': str(bag), 'model': str(model), 'namespace': 'robot',
                              'lockstep': 'detections', 'loop': 'true',
                              'log_level': 'warn'}.items()),
        launch_testing.actions.ReadyToTest(),
    ]), {'probe': probe, 'received': received}


class TestReplayLaunch(unittest.TestCase):
    """While the nodes run."""

    def test_every_frame_of_both_cameras_is_answered(self, probe, received):
        wanted = {camera: {stamp_of(number) + index for number in range(COUNT)}
                  for index, camera in enumerate(('front', 'rear'))}

        def seen():
            return {camera: {message.header.stamp.sec * 10 ** 9 + message.header.stamp.nanosec
                             for message in messages} for camera, messages in received.items()}
        probe.wait_for(lambda: seen() == wanted, lambda: f'{wanted}, got {seen()}', 60)
        for camera, messages in received.items():
            assert {message.header.frame_id for message in messages} == {f'{camera}_optical'}


@launch_testing.post_shutdown_test()
class TestAfterShutdown(unittest.TestCase):
    """Once everything has ended."""

    def test_exit_codes(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info, allowable_exit_codes=[0])

    def test_no_traceback(self, proc_output):
        no_traceback(proc_output)
