# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Every launch file loads, explains its arguments, and names executables that exist."""

import importlib.util
from pathlib import Path
import tempfile

import cv2
import numpy as np
import pytest

from installed import require
from kd_perception.transport import BUILTIN, PROFILES

require('launch', reason='ROS 2 launch is not installed (it is not on PyPI)')
require('launch_ros', reason='ROS 2 launch_ros is not installed (it is not on PyPI)')

from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launch_ros.actions import Node
from launch_ros.utilities import evaluate_parameters, normalize_parameters

from kd_perception.nodes.launch_nodes import typed
from launch import LaunchContext, LaunchDescription

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
# An input with one camera, which some launch files look into.
IMAGES = tempfile.TemporaryDirectory()
cv2.imwrite(str(Path(IMAGES.name) / '000000.png'), np.zeros((8, 8, 3), np.uint8))
LABELS = tempfile.TemporaryDirectory()
(Path(LABELS.name) / '000000.txt').touch()
# Values for arguments that a launch file cannot do without.
REQUIRED = {'replay.launch.py': {'input': IMAGES.name},
            'replay_evaluation.launch.py': {
                'input': IMAGES.name, 'labels': LABELS.name, 'out': str(ROOT), 'score_threshold': '0.1'}}


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
DEFAULTS = {'cameras': '', 'model': '', 'score_threshold': '', 'use_sim_time': 'false', 'compressed': '',
            'autostart': ''}


@pytest.mark.parametrize('arguments,parameters', [
    ({}, {'use_sim_time': False}),
    ({'cameras': 'front,rear'}, {'use_sim_time': False, 'cameras': ['front', 'rear']}),
    ({'cameras': ' front , robot1/rear ,'}, {'use_sim_time': False, 'cameras': ['front', 'robot1/rear']}),
    ({'model': 'teacher', 'use_sim_time': 'True'}, {'use_sim_time': True, 'model': 'teacher'}),
    ({'score_threshold': '0.2'}, {'use_sim_time': False, 'score_threshold': 0.2}),
    ({'compressed': 'true'}, {'use_sim_time': False, 'image_transport': 'compressed'}),
    ({'compressed': 'false'}, {'use_sim_time': False, 'image_transport': 'raw'}),
    ({'autostart': 'false'}, {'use_sim_time': False, 'autostart': False}),
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


HYBRID = ROOT / 'launch' / 'hybrid.launch.py'
HYBRID_DEFAULTS = {'cameras': '', 'student_model': '', 'teacher_model': '', 'teacher': 'true', 'only': '',
                   'metrics': 'false', 'share': '', 'deadline_ms': '', 'compressed': '',
                   'use_sim_time': 'false', 'autostart': ''}


@pytest.mark.parametrize('arguments,student,fallback,teacher', [
    ({}, {}, {}, {}),
    ({'cameras': ' front , robot1/rear ,'}, {'cameras': ['front', 'robot1/rear']},
     {'cameras': ['front', 'robot1/rear']}, {'cameras': ['front/teacher', 'robot1/rear/teacher']}),
    ({'student_model': 's.onnx'}, {'model': 's.onnx'}, {'student_model': 's.onnx'}, {}),
    ({'teacher_model': 't.onnx'}, {}, {}, {'model': 't.onnx'}),
    ({'share': '0.1', 'deadline_ms': '80'}, {}, {'share': 0.1, 'deadline_ms': 80.0}, {}),
    ({'compressed': 'True'}, *({'image_transport': 'compressed'},) * 3),
    ({'compressed': 'false'}, *({'image_transport': 'raw'},) * 3),
    ({'teacher': 'remote'}, {}, {}, None),
    ({'teacher': 'False'}, {}, {'teacher': False}, None),
    ({'only': 'teacher', 'cameras': 'front'}, None, None, {'cameras': ['front/teacher']}),
    ({'only': 'fallback', 'teacher': 'remote'}, None, {}, None),
    ({'only': 'student', 'teacher': 'false'}, {}, None, None),
    ({'only': 'student', 'metrics': 'true'}, {}, None, None),
    ({'autostart': 'false'}, *({'autostart': False},) * 3),
])
def test_hybrid_arguments_become_the_parameters_of_its_nodes(arguments, student, fallback, teacher):
    for text, sim_time in (('false', False), ('True', True)):
        have = load(HYBRID).hybrid_parameters({**HYBRID_DEFAULTS, **arguments, 'use_sim_time': text})
        want = {'student': student, 'fallback': fallback, 'teacher': teacher}
        assert have == {name: {'use_sim_time': sim_time, **values}
                        for name, values in want.items() if values is not None}


@pytest.mark.parametrize('arguments,reason', [
    ({'teacher': 'maybe'}, 'teacher:=maybe: expected true, false or remote'),
    ({'only': 'camera'}, 'only:=camera: expected one of student, fallback, teacher, metrics'),
    ({'only': 'teacher', 'teacher': 'false'}, 'only:=teacher and teacher:=false contradict each other'),
    ({'share': '1.5'}, 'share:=1.5: expected a number, 0 to 1'),
    ({'share': 'much'}, 'share:=much: expected a number'),
    ({'share': 'nan'}, 'share:=nan: expected a number'),
    ({'deadline_ms': '0'}, 'deadline_ms:=0: expected a number, 1 to 60000'),
    ({'compressed': '1'}, 'compressed:=1: expected true or false'),
    ({'use_sim_time': ''}, 'use_sim_time:=: expected true or false'),
    ({'metrics': '9464'}, 'metrics:=9464: expected true or false'),
])
def test_hybrid_arguments_that_make_no_sense_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        load(HYBRID).hybrid_parameters({**HYBRID_DEFAULTS, **arguments})


@pytest.mark.parametrize('arguments,reason', [
    ({'params_file': '/nowhere.yaml'}, 'params_file:=/nowhere.yaml: no such file'),
    ({'teacher_nice': '20'}, 'teacher_nice:=20: expected a number, 0 to 19'),
    ({'respawn': 'perhaps'}, 'respawn:=perhaps: expected true or false'),
    ({'respawn_delay_s': '-1'}, 'respawn_delay_s:=-1: expected a number'),
])
def test_hybrid_arguments_for_launch_itself_are_checked_too(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        expand(HYBRID, **arguments)


def test_hybrid_starts_what_is_asked_for():
    def started(**arguments):
        # No public accessor gives the name before the process is started.
        return [(node.node_executable, node._Node__node_name) for node in expand(HYBRID, **arguments)]
    student, fallback, teacher = (
        ('detector_node', 'student'), ('fallback_node', 'fallback'), ('detector_node', 'teacher'))
    assert started() == [student, fallback, teacher]
    assert started(teacher='remote') == started(teacher='false') == [student, fallback]
    assert started(only='teacher') == [teacher]
    metrics = ('metrics_node', 'metrics')
    assert started(metrics='true') == [student, fallback, teacher, metrics]
    assert started(metrics='True', teacher='false') == [student, fallback, metrics]
    assert started(only='metrics') == [metrics]


def test_hybrid_lets_the_teacher_wait_for_the_others():
    def prefixes(nice):
        return [''.join(part.perform(LaunchContext()) for part in node.process_description.prefix or [])
                for node in expand(HYBRID, teacher_nice=nice)]
    assert prefixes('5') == ['', '', 'nice -n 5'] and prefixes('0') == ['', '', '']


def text(parts):
    return ''.join(part.perform(LaunchContext()) for part in parts)


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_every_launch_file_takes_what_users_change(path, monkeypatch):
    for name in (*PROFILES, BUILTIN):
        monkeypatch.delenv(name, raising=False)
    arguments = {'cameras': 'camera', 'image_topic': '/driver/rect', 'enclave': '/vehicle', 'respawn': 'true',
                 'autostart': 'false'}
    for node in expand(path, **arguments):
        assert text(node.process_description.name) == node._Node__node_name     # exec_name
        assert node._Node__ros_arguments[-2:] == ['--enclave', f'/vehicle/{node._Node__node_name}']
        environment = {text(key): text(value) for key, value in node.process_description.additional_env or ()}
        assert environment == dict.fromkeys(PROFILES, str(ROOT / 'config' / 'fastdds.xml'))
        remapped = [(text(before), text(after)) for before, after in node._Node__remappings]
        raw = ('camera/image_raw', '/driver/rect')
        assert (raw in remapped) == (node._Node__node_name != 'teacher')
    for node in expand(path, fastdds_profiles=''):
        assert not node.process_description.additional_env
    monkeypatch.setenv(BUILTIN, 'UDPv4')
    for node in expand(path):
        assert not node.process_description.additional_env
    with pytest.raises(ValueError, match='fastdds_profiles:=/nowhere.xml: no such file'):
        expand(path, fastdds_profiles='/nowhere.xml')


@pytest.mark.parametrize('arguments,reason', [
    ({'models': 'a=1.onnx'}, 'models: needs cameras'),
    ({'models': 'a=1.onnx', 'model': 'teacher', 'cameras': 'front'}, 'contradict'),
    ({'models': 'a', 'cameras': 'front'}, 'expected NAME=MODEL'),
    ({'image_topic': '/x'}, 'image_topic: needs cameras'),
    ({'image_topic': '/x', 'cameras': 'a,b'}, '1 topics for 2 cameras'),
    ({'enclave': 'vehicle'}, 'enclave:=vehicle: expected an absolute path'),
])
def test_detector_arguments_that_make_no_sense_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        expand(DETECTOR, **arguments)


def test_a_text_that_looks_like_a_number_stays_a_text():
    parameters = evaluate_parameters(LaunchContext(), normalize_parameters([typed(
        {'model': '0001', 'cameras': ['1', 'on'], 'threads': 2, 'autostart': True})]))
    assert parameters == ({'model': '0001', 'cameras': ['1', 'on'], 'threads': 2, 'autostart': True},)
