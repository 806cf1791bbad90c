# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""launch/detector.launch.py for real: the scenarios of the subprocess tests, started by launch."""

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

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_testing
import launch_testing.actions
import launch_testing.asserts

from detector_client import CameraClient, DetectorClient
from detector_scenarios import (
    diagnostics_are_well,
    label_info_is_latched,
    result_is_exact,
    result_of_nothing_is_empty,
)
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from launch import LaunchDescription
from ros_harness import no_traceback, own_domain, Probe

LAUNCH_FILE = Path(__file__).resolve().parents[2] / 'launch' / 'detector.launch.py'
_resources = contextlib.ExitStack()
atexit.register(_resources.close)


@pytest.mark.launch_test
def generate_test_description():
    """Two detectors for two cameras with topics of their own, in a namespace, with a model of the test."""
    domain = _resources.enter_context(own_domain())
    folder = Path(_resources.enter_context(tempfile.TemporaryDirectory()))
    model = write_rectangle_model(folder / 'rectangles.onnx')
    return LaunchDescription([
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
            launch_arguments={'cameras': 'front, rear', 'models': f'student={model},second={model}',
                              'image_topic': '/driver/{camera}/rect', 'namespace': 'robot',
                              'log_level': 'warn'}.items()),
        launch_testing.actions.ReadyToTest(),
    ]), {'domain': domain}


class TestDetectorLaunch(unittest.TestCase):
    """While the node runs."""

    def setUp(self):
        self.resources = contextlib.ExitStack()
        self.addCleanup(self.resources.close)

    def clients(self, domain, camera, detector='student'):
        probe = Probe(domain)
        self.resources.callback(probe.close)
        client = CameraClient(probe, f'/robot/{camera}/{detector}', image_topic=f'/driver/{camera}/rect')
        client.wait_ready()
        return probe, client

    def test_results(self, domain):
        for camera, detector in (('front', 'student'), ('rear', 'second')):
            _, client = self.clients(domain, camera, detector)
            result_is_exact(client, repeat=True)
            result_of_nothing_is_empty(client, repeat=True)

    def test_label_info(self, domain):
        probe, _ = self.clients(domain, 'rear')
        label_info_is_latched(probe, '/robot/rear/student')

    def test_diagnostics(self, domain):
        probe, client = self.clients(domain, 'front')
        client.camera = 'front'
        diagnostics_are_well(DetectorClient(probe, '/robot/student'), client)


@launch_testing.post_shutdown_test()
class TestAfterShutdown(unittest.TestCase):
    """Once launch has stopped the node."""

    def test_exit_code(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info, allowable_exit_codes=[0])

    def test_no_traceback(self, proc_output):
        no_traceback(proc_output)
