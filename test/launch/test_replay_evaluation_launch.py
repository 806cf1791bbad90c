# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""launch/replay_evaluation.launch.py for real: a labelled recording in, a report out."""

import atexit
import contextlib
import json
from pathlib import Path
import tempfile
import time
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

from kd_perception.benchmark.rectangle_model import write_rectangle_model
from kd_perception.cli.main import run_command
import kitti_drive
from launch import LaunchDescription
from ros_harness import no_traceback, own_domain

_resources = contextlib.ExitStack()
atexit.register(_resources.close)


@pytest.mark.launch_test
def generate_test_description():
    """One camera, labels on a topic of the recording, in a namespace."""
    _resources.enter_context(own_domain())
    folder = Path(_resources.enter_context(tempfile.TemporaryDirectory()))
    bag, out = folder / 'drive.mcap', folder / 'report'
    run_command('convert', ['kitti-to-bag', '--input', str(kitti_drive.write_object(folder / 'kitti')),
                            '--camera', 'front', '--out', str(bag)])
    return LaunchDescription([
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(ROOT / 'launch' / 'replay_evaluation.launch.py')),
            launch_arguments={
                'input': str(bag), 'labels': '/front/ground_truth', 'out': str(out), 'namespace': 'robot',
                'model': str(write_rectangle_model(folder / 'rectangles.onnx')),
                # Else it would all end before the test has looked.
                'shutdown_at_end': 'false',
                'evaluate_arguments': '--bootstrap 20 --gallery 0', 'log_level': 'warn'}.items()),
        launch_testing.actions.ReadyToTest(),
    ]), {'out': out}


class TestReplayEvaluation(unittest.TestCase):
    """While it runs."""

    def test_report_is_written(self, proc_info, out):
        end = time.monotonic() + 90
        # Of a process that has ended proc_info holds the exit.
        while not any(name.startswith('evaluate') and hasattr(proc_info[name], 'returncode')
                      for name in proc_info.process_names()):
            assert time.monotonic() < end, 'the evaluation has not ended'
            time.sleep(0.2)
        report = json.loads((out / 'report.json').read_text())
        assert report['frames']['processed'] == len(kitti_drive.FRAMES) and not report['frames']['dropped']
        assert report['results']['Car']['hard']['valid_ground_truths'] == 3
        assert report['results']['Car']['hard']['ap_r11'] > 0
        assert (out / 'report.html').stat().st_size and (out / 'detections.mcap').stat().st_size


@launch_testing.post_shutdown_test()
class TestAfterShutdown(unittest.TestCase):
    """Once everything has ended."""

    def test_exit_codes(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info, allowable_exit_codes=[0])

    def test_no_traceback(self, proc_output):
        no_traceback(proc_output)
