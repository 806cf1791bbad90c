# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy: its form, what each node may, and that the shipped file is the generated one."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kd_perception.cli.main import main
from kd_perception.nodes.shared.security_policy import EXAMPLE_CAMERAS, policy_text
from policy_names import names

SHIPPED = Path(__file__).resolve().parents[2] / 'config' / 'security' / 'kd_perception_policy.xml'
# The table of nodes and topics, for camera C (docs/how-to/security.md).
TABLE = {
    'student': {
        'publish': {'C/detections', 'C/candidates', 'C/label_info', 'C/debug_image'},
        'subscribe': {'C/image_raw', 'C/image_raw/compressed'}},
    'teacher': {
        'publish': {'C/teacher/detections', 'C/teacher/candidates', 'C/teacher/label_info',
                    'C/teacher/debug_image'},
        'subscribe': {'C/teacher/image_raw', 'C/teacher/image_raw/compressed'}},
    'fallback': {
        'publish': {'C/teacher/image_raw', 'C/teacher/image_raw/compressed', 'C/verified_detections',
                    'C/provenance'},
        'subscribe': {'C/image_raw', 'C/image_raw/compressed', 'C/detections', 'C/candidates',
                      'C/teacher/detections'}},
    'metrics': {'publish': set(), 'subscribe': {'/diagnostics'}}}
GLOBAL = {'publish': {'/diagnostics', '/parameter_events', '/rosout'},
          'subscribe': {'/clock'}}
# Element -> (elements inside, in any order, at least one), attributes that must be and that may be there; as
# in policy.xsd of sros2, without what this package does not use (actions, metadata, xml:base).
FORM = {
    'policy': ({'enclaves'}, {'version'}, set()), 'enclaves': ({'enclave'}, set(), set()),
    'enclave': ({'profiles'}, {'path'}, set()), 'profiles': ({'profile'}, set(), {'type'}),
    'profile': ({'topics', 'services'}, {'ns', 'node'}, set()),
    'topics': ({'topic'}, set(), {'publish', 'subscribe'}),
    'services': ({'service'}, set(), {'reply', 'request'}),
    'topic': (set(), set(), set()), 'service': (set(), set(), set())}


def of(table, cameras, prefix='/'):
    return {topic if topic.startswith('/') else f'{prefix}{topic.replace("C", camera, 1)}'
            for topic in table for camera in cameras}


def test_shipped_policy_is_the_generated_one():
    assert SHIPPED.read_text() == policy_text(EXAMPLE_CAMERAS)


def test_form():
    def check(element):
        inside, needed, allowed = FORM[element.tag]
        assert needed <= set(element.attrib) <= needed | allowed
        assert {child.tag for child in element} <= inside and bool(len(element)) == bool(inside)
        assert bool((element.text or '').strip()) == (not inside)
        if allowed:
            assert set(element.attrib.values()) <= {'ALLOW', 'DENY'}
        for child in element:
            check(child)

    root = ElementTree.fromstring(SHIPPED.read_text())
    assert root.tag == 'policy' and root.get('version') == '0.2.0'
    check(root)
    assert [item.get('path') for item in root.iter('enclave')] == [
        '/kd_perception/student', '/kd_perception/teacher', '/kd_perception/fallback',
        '/kd_perception/metrics']


@pytest.mark.parametrize('cameras, namespace, prefix', [
    (['front', 'rear'], '/', '/'), (['a/b'], 'robot1', '/robot1/'),
    ([f'c{i}' for i in range(8)], '/x/y/', '/x/y/')])
def test_each_node_may_what_the_table_says_and_no_more(cameras, namespace, prefix):
    found = names(policy_text(cameras, namespace))
    assert set(found) == set(TABLE)
    for node, rules in found.items():
        assert set(rules) == {'publish', 'subscribe', 'reply'}, 'no node asks for a service of another'
        for rule, topics in TABLE[node].items():
            expected = of(topics, cameras, prefix) | GLOBAL[rule]
            if rule == 'publish':   # metrics_node has no lifecycle, and tells ROS nothing
                expected ^= {'/diagnostics'} if node == 'metrics' else {f'{prefix}{node}/transition_event'}
            assert Counter(rules[rule]) == Counter(expected), f'{node} {rule}: each name once'
        own = f'{prefix}{node}/'
        assert all(name.startswith(own) for name in rules['reply'])
        of_lifecycle = {f'{own}change_state', f'{own}get_state'}
        assert f'{own}set_parameters' in rules['reply']
        assert of_lifecycle & set(rules['reply']) == (set() if node == 'metrics' else of_lifecycle)


def test_who_alone_may_publish():
    found = names(SHIPPED.read_text())
    publishers = {}
    for node, rules in found.items():
        for topic in rules['publish']:
            publishers.setdefault(topic, set()).add(node)
    shared = {topic for topic, nodes in publishers.items() if len(nodes) > 1}
    assert shared == GLOBAL['publish'], 'beside the common topics each has one publisher'
    assert 'metrics' not in publishers['/diagnostics']
    for camera in EXAMPLE_CAMERAS:
        assert publishers[f'/{camera}/verified_detections'] == {'fallback'}
        assert publishers[f'/{camera}/detections'] == {'student'}
        assert publishers[f'/{camera}/teacher/detections'] == {'teacher'}
        assert publishers[f'/{camera}/teacher/image_raw'] == {'fallback'}
        # The driver's alone.
        assert not {f'/{camera}/image_raw', f'/{camera}/image_raw/compressed'} & set(publishers)
    assert '*' not in SHIPPED.read_text() and '/clock' not in publishers


def test_command(tmp_path, capsys):
    out = tmp_path / 'policy.xml'
    assert main(['security-policy', '--cameras', 'front, rear', '--out', str(out)]) == 0
    assert out.read_text() == SHIPPED.read_text()
    capsys.readouterr()
    assert main(['security-policy', '--cameras', 'front', '--out', str(out)]) == 2
    assert 'exists already' in capsys.readouterr().err
    assert main(['security-policy', '--cameras', 'front', '--out', str(out), '--overwrite']) == 0
    capsys.readouterr()
    assert main(['security-policy', '--cameras', 'front']) == 0
    assert capsys.readouterr().out == out.read_text() == policy_text(['front'])


@pytest.mark.parametrize('arguments, words', [
    (['--cameras', ','], 'no camera'), (['--cameras', '*'], 'topic namespace'),
    (['--cameras', 'a--b'], 'topic namespace'),
    (['--cameras', 'front/'], 'topic namespace'), (['--cameras', 'front,front'], 'the same'),
    (['--cameras', 'front,front/teacher'], 'the same'), (['--cameras', 'front,/front'], 'the same'),
    (['--cameras', 'front', '--namespace', 'a b'], 'namespace'), (['--cameras', '<x>'], 'topic namespace')])
def test_names_that_would_widen_or_mix_permissions_are_refused(arguments, words, capsys):
    assert main(['security-policy', *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1
