# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Every launch file loads, explains its arguments, and names executables that exist."""

import importlib.util
from pathlib import Path
import tempfile

import cv2
import numpy as np
import pytest

pytest.importorskip('launch', reason='ROS 2 launch is not installed (it is not on PyPI)')
pytest.importorskip('launch_ros', reason='ROS 2 launch_ros is not installed (it is not on PyPI)')

from launch import LaunchContext, LaunchDescription  # noqa: E402
from launch.actions import DeclareLaunchArgument  # noqa: E402
from launch.launch_description_sources import get_launch_description_from_python_launch_file  # noqa: E402
from launch_ros.actions import Node  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
# An input with one camera, which some launch files look into.
IMAGES = tempfile.TemporaryDirectory()
cv2.imwrite(str(Path(IMAGES.name) / '000000.png'), np.zeros((8, 8, 3), np.uint8))
# Values for arguments that a launch file cannot do without.
REQUIRED = {'replay.launch.py': {'input': IMAGES.name},
            'replay_evaluation.launch.py': {
                'input': IMAGES.name, 'labels': '/ground_truth', 'out': str(ROOT), 'score_threshold': '0.1'}}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem.replace('.', '_'), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expand(path, **arguments):
    """Return every node that a launch file would start with these arguments."""
    context = LaunchContext()
    context.launch_configurations.update({**REQUIRED.get(path.name, {}), **arguments})
    nodes, entities = [], list(get_launch_description_from_python_launch_file(str(path)).entities)
    while entities:
        entity = entities.pop(0)
        if isinstance(entity, Node):
            nodes.append(entity)
            continue        # visiting it would start the process
        entities = list(entity.visit(context) or []) + entities
    return nodes


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_loads_and_explains_every_argument(path):
    description = get_launch_description_from_python_launch_file(str(path))
    assert isinstance(description, LaunchDescription)
    arguments = [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    for argument in arguments:
        assert argument.description.endswith('.'), argument.name


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_starts_executables_of_the_package(path):
    scripts = (ROOT / 'setup.py').read_text()
    nodes = expand(path)
    assert nodes
    for node in nodes:
        assert node.node_package == 'kd_perception'
        assert f"'{node.node_executable}'" in scripts


DETECTOR = ROOT / 'launch' / 'detector.launch.py'
DEFAULTS = {'cameras': '', 'model': '', 'score_threshold': '', 'use_sim_time': 'false', 'compressed': ''}


@pytest.mark.parametrize('arguments,parameters', [
    ({}, {'use_sim_time': False}),
    ({'cameras': 'front,rear'}, {'use_sim_time': False, 'cameras': ['front', 'rear']}),
    ({'cameras': ' front , robot1/rear ,'}, {'use_sim_time': False, 'cameras': ['front', 'robot1/rear']}),
    ({'model': 'teacher', 'use_sim_time': 'True'}, {'use_sim_time': True, 'model': 'teacher'}),
    ({'score_threshold': '0.2'}, {'use_sim_time': False, 'score_threshold': 0.2}),
    ({'compressed': 'true'}, {'use_sim_time': False, 'image_transport': 'compressed'}),
    ({'compressed': 'false'}, {'use_sim_time': False, 'image_transport': 'raw'}),
])
def test_detector_arguments_become_parameters(arguments, parameters):
    assert load(DETECTOR).detector_parameters({**DEFAULTS, **arguments}) == parameters


@pytest.mark.parametrize('arguments', [{'use_sim_time': 'yes'}, {'use_sim_time': ''}, {'compressed': '1'}])
def test_detector_arguments_that_are_no_boolean_are_refused(arguments):
    with pytest.raises(ValueError, match='expected true or false'):
        load(DETECTOR).detector_parameters({**DEFAULTS, **arguments})


def test_a_missing_params_file_is_named():
    with pytest.raises(ValueError, match='params_file:=/nowhere.yaml: no such file'):
        expand(DETECTOR, params_file='/nowhere.yaml')
