# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Which topics and services each node of the hybrid may use, as an SROS2 policy.

The format is version 0.2.0 of sros2's policies (ros2/sros2, sros2/policy/schemas/policy.xsd): what is not
allowed is denied. See docs/how-to/security.md.
"""

from __future__ import annotations

from collections.abc import Sequence
import re
from typing import NamedTuple
from xml.etree import ElementTree

from kd_perception.errors import ConfigError

POLICY_VERSION = '0.2.0'
ENCLAVES = '/kd_perception'
EXAMPLE_CAMERAS = ('front', 'rear')
# ROS topic names; a `*` in a permission would be a wildcard.
_NAME = re.compile(r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')
_TEACHER = 'teacher'
_HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<!-- Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by `security-policy` for cameras {cameras} below {namespace}; see docs/how-to/security.md. -->
"""


class Access(NamedTuple):
    """Topics of one node, relative to its namespace unless absolute."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


# A node that reads images asks for one of the two.
_IMAGES = ('image_raw', 'image_raw/compressed')
# One class of node runs both models: it publishes the same below each of its cameras.
_DETECTOR = Access(publish=('detections', 'candidates', 'label_info', 'debug_image'), subscribe=_IMAGES)
# Below each camera C of the hybrid; the teacher's cameras are C/teacher.
CAMERA_TOPICS = {
    'student': _DETECTOR,
    'teacher': Access(*(tuple(f'{_TEACHER}/{topic}' for topic in topics) for topics in _DETECTOR)),
    'fallback': Access(
        publish=(*(f'{_TEACHER}/{topic}' for topic in _IMAGES), 'verified_detections', 'provenance'),
        subscribe=(*_IMAGES, 'detections', 'candidates', f'{_TEACHER}/detections')),
}
# What every node of ROS 2 has, and what every lifecycle node of this package has besides.
PLAIN_TOPICS = Access(publish=('/parameter_events', '/rosout'), subscribe=('/clock',))
PLAIN_SERVICES = (
    '~/describe_parameters', '~/get_parameter_types', '~/get_parameters', '~/get_type_description',
    '~/list_parameters', '~/set_parameters', '~/set_parameters_atomically')
NODE_TOPICS = Access(publish=('/diagnostics', *PLAIN_TOPICS.publish, '~/transition_event'),
                     subscribe=PLAIN_TOPICS.subscribe)
NODE_SERVICES = tuple(sorted((
    *PLAIN_SERVICES, '~/change_state', '~/get_available_states', '~/get_available_transitions', '~/get_state',
    '~/get_transition_graph')))
# Reads what the others say of themselves, and tells ROS nothing: its figures go out over HTTP.
METRICS = 'metrics'
METRICS_TOPICS = Access(publish=PLAIN_TOPICS.publish, subscribe=('/diagnostics', *PLAIN_TOPICS.subscribe))


def policy_text(cameras: Sequence[str], namespace: str = '/') -> str:
    """
    Return the policy as XML text.

    :param cameras: namespaces of the cameras, relative to the nodes' namespace unless absolute.
    :param namespace: of the nodes.
    :raises ConfigError: a name is none, or topics of two cameras would be the same.
    """
    namespace = '/' + namespace.strip('/')
    _check(cameras, namespace)
    policy = ElementTree.Element('policy', version=POLICY_VERSION)
    enclaves = ElementTree.SubElement(policy, 'enclaves')
    for node, access in CAMERA_TOPICS.items():
        _profile(enclaves, namespace, node, Access(*(
            (*(f'{camera}/{topic}' for camera in cameras for topic in of_camera), *common)
            for of_camera, common in zip(access, NODE_TOPICS))), NODE_SERVICES)
    _profile(enclaves, namespace, METRICS, METRICS_TOPICS, PLAIN_SERVICES)
    ElementTree.indent(policy)
    header = _HEADER.format(cameras=', '.join(cameras), namespace=namespace)
    return header + ElementTree.tostring(policy, encoding='unicode') + '\n'


def policy_nodes() -> list[str]:
    """Return the enclaves of a policy, one for each node."""
    return [f'{ENCLAVES}/{node}' for node in (*CAMERA_TOPICS, METRICS)]


def _profile(enclaves: ElementTree.Element, namespace: str, node: str, topics: Access,
             services: Sequence[str]) -> None:
    enclave = ElementTree.SubElement(enclaves, 'enclave', path=f'{ENCLAVES}/{node}')
    profiles = ElementTree.SubElement(enclave, 'profiles')
    profile = ElementTree.SubElement(profiles, 'profile', ns=namespace, node=node)
    _add(profile, 'topic', {'publish': 'ALLOW'}, topics.publish)
    _add(profile, 'topic', {'subscribe': 'ALLOW'}, topics.subscribe)
    _add(profile, 'service', {'reply': 'ALLOW'}, services)


def _add(profile: ElementTree.Element, kind: str, rule: dict[str, str], names: Sequence[str]) -> None:
    group = ElementTree.SubElement(profile, f'{kind}s', rule)
    for name in names:
        ElementTree.SubElement(group, kind).text = name


def _check(cameras: Sequence[str], namespace: str) -> None:
    if not cameras:
        raise ConfigError('--cameras: no camera is named')
    for camera in cameras:
        if not _NAME.fullmatch(camera):
            raise ConfigError(
                f'--cameras: {camera!r:.60} is not a topic namespace such as front or robot1/front')
    if namespace != '/' and not _NAME.fullmatch(namespace):
        raise ConfigError(f'--namespace: {namespace!r:.60} is not a namespace such as /robot1')
    full = [camera if camera.startswith('/') else f'{namespace.rstrip("/")}/{camera}' for camera in cameras]
    for name in full:
        # The student of camera C/teacher would publish what only the teacher of camera C may.
        if full.count(name) > 1 or f'{name}/{_TEACHER}' in full:
            raise ConfigError(f'--cameras: the topics of {name} and of another camera would be the same')
