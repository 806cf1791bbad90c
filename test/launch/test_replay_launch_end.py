# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""replay.launch.py as a user starts it: it ends with the replay; and how its arguments become parameters."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from installed import require

require('launch', 'launch_ros', reason='ROS 2 launch is not installed (it is not on PyPI)')
require('vision_msgs', reason='vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

ROOT = Path(__file__).resolve().parents[2]
from test_launch_files import expand, load

from bag_helpers import write_bag
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from ros_harness import own_domain

LAUNCH_FILE = ROOT / 'launch' / 'replay.launch.py'
# What `ros2 launch FILE name:=value ...` does, without ros2cli.
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[item.split(':=', 1) for item in sys.argv[2:]])]))
sys.exit(service.run())
"""


def launch(folder, path=LAUNCH_FILE, **arguments):
    """Run a launch file to its end."""
    with own_domain():
        return subprocess.run(
            [sys.executable, '-c', RUN, str(path), *(f'{k}:={v}' for k, v in arguments.items())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=90, text=True,
            env={**os.environ, 'ROS_LOG_DIR': str(folder)}, check=False)


def replay_parameters(**given):
    """Return the parameters that launch arguments set, the others at their defaults."""
    module = load(LAUNCH_FILE)
    defaults = {name: default for name, (default, _) in module.ARGUMENTS.items()}
    return module.replay_parameters({**defaults, 'input': 'x', **given})


def test_everything_ends_with_the_replay(tmp_path):
    bag = write_bag(tmp_path / 'drive', 4, hw=(96, 128))
    model = write_rectangle_model(tmp_path / 'rectangles.onnx')
    result = launch(tmp_path, input=bag, model=model, rate='0', lockstep='detections')
    assert result.returncode == 0, result.stdout
    assert '"answers": 4, "timeouts": 0' in result.stdout and 'Traceback' not in result.stdout
    assert result.stdout.count('process has finished cleanly') == 2


def test_a_wrong_input_ends_it_too_with_a_clear_line(tmp_path):
    model = write_rectangle_model(tmp_path / 'rectangles.onnx')
    result = launch(tmp_path, input=tmp_path / 'nothing', model=model)
    assert result.returncode == 1
    assert 'nothing: no such folder, video or recording' in result.stdout
    assert 'Traceback' not in result.stdout


@pytest.mark.parametrize('arguments,parameters', [
    ({}, {'publish_clock': True}),
    ({'use_sim_time': 'false'}, {'publish_clock': False}),
    ({'cameras': 'front, rear'}, {'publish_clock': True, 'cameras': ['front', 'rear']}),
    ({'rate': '2', 'loop': 'True', 'lockstep': 'detections'},
     {'publish_clock': True, 'rate': 2.0, 'loop': True, 'lockstep': 'detections'}),
])
def test_arguments_become_parameters(arguments, parameters):
    found = replay_parameters(**arguments)
    assert found == {'input': str(Path('x').absolute()), **parameters}


@pytest.mark.parametrize('arguments,told', [
    ({'rate': 'fast'}, 'rate:=fast: expected a number'), ({'loop': '1'}, 'loop:=1: expected true or false')])
def test_bad_arguments_are_named(arguments, told):
    with pytest.raises(ValueError, match=told):
        replay_parameters(**arguments)


def test_the_detector_watches_the_cameras_of_the_input(tmp_path):
    bag = write_bag(tmp_path / 'drive', 1, ('front', 'rear'))
    cameras_of_input = load(LAUNCH_FILE).cameras_of_input
    assert cameras_of_input({'input': str(bag), 'cameras': ''}) == ['front', 'rear']
    assert cameras_of_input({'input': str(bag), 'cameras': '/rear/image_raw'}) == ['rear']
    assert [node.node_executable for node in expand(LAUNCH_FILE, input=str(bag))] == [
        'replay_node', 'detector_node']
    assert [node.node_executable for node in expand(LAUNCH_FILE, input=str(bag), detector='false')] == [
        'replay_node']
