# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What every node makes of arguments, parameter files and names that ROS or the node refuses."""

import json
import re

import cv2
import numpy as np
import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

NODES = 'kd_perception.nodes.'
NODE_FAULTS = [
    # Node, arguments, what its last line says. Files are made in the test's folder, where the nodes run.
    ('detector_node', ['--params-file', 'level.yaml'], 'level.yaml.*Cannot have a value before ros'),
    ('fallback_node', ['--params-file', 'nothing.yaml'], 'nothing.yaml.*Error opening YAML file'),
    ('replay_node', ['--params-file', 'tab.yaml'], 'tab.yaml.*Error parsing'),
    ('metrics_node', ['--params-file', 'mixed.yaml'], 'mixed.yaml.*Sequence should be of same type'),
    ('replay_node', ['-r', '__node:=my-node'], '__node:=my-node.*letters, digits and _'),
    ('fallback_node', ['-r', '__ns:=car1/'], '__ns:=car1/.*letters, digits and _'),
    ('detector_node', ['--bogus'], 'unknown ROS arguments .*--bogus'),
    ('detector_node', ['-p', 'cameras:=[]'], 'cameras: 0 names, expected 1 to 32'),
    ('fallback_node', ['--params-file', 'empty.yaml'], 'cameras: 0 names, expected 1 to 32'),
    ('fallback_node', ['-p', 'cameras:=[front, /front]'], 'names a camera twice'),
    ('metrics_node', ['-p', 'port:=1.5'], 'port.*INTEGER'),
    ('metrics_node', ['-p', 'nodes:=[]'], 'nodes: names no node'),
]
FILES = {'level.yaml': 'detector:\n  model: student\n', 'tab.yaml': 'replay:\n\tmodel: x\n',
         'mixed.yaml': '/**:\n  ros__parameters:\n    nodes: [front, 2]\n',
         'empty.yaml': '/**:\n  ros__parameters:\n    cameras: []\n'}


def test_what_is_refused_at_start_ends_a_node_with_one_line(domain, start, tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    # Three at a time: most of their time is that of a processor.
    for first in range(0, len(NODE_FAULTS), 3):
        faults = NODE_FAULTS[first:first + 3]
        for (node, arguments, message), process in [
                (fault, start(NODES + fault[0], '--ros-args', *fault[1])) for fault in faults]:
            assert process.wait() == 2, (node, arguments, process.log)
            last = process.log.strip().splitlines()[-1]
            assert re.fullmatch(f'kd_perception: error: .*{message}.*', last), (node, arguments, process.log)
            assert 'Traceback' not in process.log and not re.search(r'\.c:\d', last), process.log


CLASSES = """
class Centre: x = y = theta = 0.0
class Box: center = Centre()
class Detection2D: bbox = Box()
class Detection2DArray: pass
class ObjectHypothesisWithPose: pass
"""
OLD = [
    (CLASSES, "is older than 4 .cannot import name 'LabelInfo'.*"),
    (CLASSES + 'class LabelInfo: pass\nclass VisionClass: pass\n', 'is older than 4 .bbox.center.x in .*'),
    ("raise ModuleNotFoundError('no', name='vision_msgs')", 'is not installed'),
]


@pytest.mark.parametrize('classes,told', OLD, ids=['names', 'layout', 'missing'])
def test_messages_before_vision_msgs_4_end_a_node_with_one_line(domain, start, tmp_path, classes, told):
    package = tmp_path / 'old' / 'vision_msgs'
    (package / 'msg').mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'msg' / '__init__.py').write_text(classes)
    for process in [start(NODES + node, environment={'PYTHONPATH': str(package.parent)})
                    for node in ('detector_node', 'fallback_node', 'replay_node')]:
        assert process.wait() == 2, process.log
        assert re.fullmatch(f'kd_perception: error: vision_msgs in {package} {told}; the nodes need version '
                            '4 or later', process.log.strip()), process.log


def test_a_domain_that_dds_has_no_ports_for_is_named(domain, start):
    process = start(NODES + 'metrics_node', environment={'ROS_DOMAIN_ID': '233'})
    assert process.wait() == 2
    assert process.log.strip() == 'kd_perception: error: ROS_DOMAIN_ID=233: expected 0 to 232'


@pytest.mark.parametrize('by', ['argument', 'file'])
def test_an_empty_list_is_a_list_and_an_integer_is_a_number(domain, start, tmp_path, by):
    images = tmp_path / 'images'
    images.mkdir()
    for number in range(2):
        cv2.imwrite(str(images / f'{number}.png'), np.zeros((8, 8, 3), np.uint8))
    values = {'other_topics': '[]', 'cameras': '[]', 'wait_for_subscribers_s': '0', 'rate': '0'}
    arguments = [part for name, value in values.items() for part in ('-p', f'{name}:={value}')]
    if by == 'file':
        (tmp_path / 'replay.yaml').write_text('/**:\n  ros__parameters:\n' + ''.join(
            f'    {name}: {value}\n' for name, value in values.items()))
        arguments = ['--params-file', 'replay.yaml']
    process = start(NODES + 'replay_node', '--ros-args', *arguments, '-p', f'input:={images}')
    assert process.wait() == 0, process.log
    assert json.loads(process.log.splitlines()[-1])['frames'] == 2
