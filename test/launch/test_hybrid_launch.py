# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""launch/hybrid.launch.py for real: who answers, and what launch and fallback make of parts that die."""

import atexit
import contextlib
import os
from pathlib import Path
import re
import signal
import tempfile
import unittest
import urllib.request

import pytest

from installed import require

require('launch', 'launch_ros', 'launch_testing', reason='ROS 2 launch is not installed (it is not on PyPI)')
require('vision_msgs', reason='vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
pytest.importorskip('prometheus_client', reason='prometheus-client, for metrics_node, is not installed')

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_testing
import launch_testing.actions
import yaml

from detector_client import DetectorClient
from hybrid_client import HybridClient, PARAMETERS, STUDENT_LABELS, TEACHER_LABELS
from hybrid_scenarios import (
    both_answer,
    camera_stops_and_returns,
    student_dies_and_returns,
    teacher_dies_and_returns,
)
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from launch import LaunchDescription
from ros_harness import no_traceback, own_domain, Probe

LAUNCH_FILE = Path(__file__).resolve().parents[2] / 'launch' / 'hybrid.launch.py'
DEADLINE_MS = 500.0
_resources = contextlib.ExitStack()
atexit.register(_resources.close)


def _params_file(folder):
    """What the shipped file says, and what makes the tests quick and exact."""
    parts = yaml.safe_load((LAUNCH_FILE.parents[1] / 'config' / 'hybrid.yaml').read_text())
    changes = {key: value for key, value in PARAMETERS.items() if key != 'deadline_ms'}
    parts['/**/fallback']['ros__parameters'].update(changes)
    parts['/**/student']['ros__parameters'].update(image_reliability='reliable')
    parts['/**/metrics'] = {'ros__parameters': {'port': 0}}
    path = folder / 'hybrid.yaml'
    path.write_text(yaml.safe_dump(parts))
    return path


@pytest.mark.launch_test
def generate_test_description():
    """The whole hybrid in a namespace, with models of the test's own."""
    domain = _resources.enter_context(own_domain())
    folder = Path(_resources.enter_context(tempfile.TemporaryDirectory()))
    student = write_rectangle_model(folder / 'student.onnx', labels=STUDENT_LABELS)
    teacher = write_rectangle_model(folder / 'teacher.onnx', labels=TEACHER_LABELS)
    return LaunchDescription([
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
            launch_arguments={
                'cameras': 'front', 'student_model': str(student), 'teacher_model': str(teacher),
                'namespace': 'robot', 'deadline_ms': str(DEADLINE_MS), 'respawn_delay_s': '3.0',
                'metrics': 'true', 'params_file': str(_params_file(folder))}.items()),
        launch_testing.actions.ReadyToTest(),
    ]), {'domain': domain}


def pid_of(proc_info, name):
    """Return the process id of the newest process of a node, which runs."""
    newest = None
    for process in proc_info.processes():
        details = process.process_details
        if details and f'__node:={name}' in details['cmd']:
            newest = max(newest or 0, details['pid'])
    assert newest, f'no process of {name}'
    return newest


class TestHybridLaunch(unittest.TestCase):
    """While the nodes run; in alphabetical order, each leaves a hybrid that works."""

    def setUp(self):
        self.resources = contextlib.ExitStack()
        self.addCleanup(self.resources.close)

    def clients(self, domain):
        probe = Probe(domain)
        self.resources.callback(probe.close)
        client = HybridClient(probe, '/robot/front', student=False, teacher=False)
        client.wait_ready(60.0)
        return client, DetectorClient(probe, '/robot/fallback')

    def test_1_answers(self, domain):
        client, fallback = self.clients(domain)
        both_answer(client, DEADLINE_MS)
        camera_stops_and_returns(client, fallback, DEADLINE_MS)

    def test_2_teacher_is_started_again(self, domain, proc_info):
        client, fallback = self.clients(domain)
        both_answer(client, DEADLINE_MS)
        teacher_dies_and_returns(client, fallback, DEADLINE_MS, revive=lambda: None,
                                 kill=lambda: os.kill(pid_of(proc_info, 'teacher'), signal.SIGKILL))
        both_answer(client, DEADLINE_MS)

    def test_3_student_is_started_again(self, domain, proc_info):
        client, fallback = self.clients(domain)
        both_answer(client, DEADLINE_MS)
        student_dies_and_returns(client, fallback, DEADLINE_MS, revive=lambda: None,
                                 kill=lambda: os.kill(pid_of(proc_info, 'student'), signal.SIGKILL))

    def test_4_metrics_are_served(self, domain, proc_output):
        client, _ = self.clients(domain)
        both_answer(client, DEADLINE_MS)
        proc_output.assertWaitFor('metrics on http://127.0.0.1:', timeout=30)
        text = ''.join(line.text.decode() for process in proc_output.processes()
                       for line in proc_output[process])
        url = re.findall(r'metrics on (http://127.0.0.1:\d+/metrics)', text)[-1]

        def up():
            with urllib.request.urlopen(url, timeout=10) as response:
                found = response.read().decode()
            return all(f'kd_perception_node_up{{node="/robot/{name}"}} 1.0' in found
                       for name in ('student', 'fallback', 'teacher'))
        client.probe.wait_for(up, 'all nodes to be up', 30.0)


@launch_testing.post_shutdown_test()
class TestAfterShutdown(unittest.TestCase):
    """Once launch has stopped the nodes."""

    def test_exit_codes(self, proc_info):
        """None failed of itself; two were killed by the tests."""
        codes = sorted(proc_info[process].returncode for process in proc_info.processes())
        assert set(codes) <= {0, -signal.SIGKILL}, codes

    def test_no_traceback(self, proc_output):
        no_traceback(proc_output)
