# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The nodes use nothing that the shipped SROS2 policy denies, as they themselves say."""

import time

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
pytest.importorskip('prometheus_client', reason='prometheus-client, for metrics_node, is not installed')

from rclpy.context import Context
from rclpy.parameter import Parameter

from kd_perception.nodes.detector_node import DetectorNode
from kd_perception.nodes.fallback_node import FallbackNode
from kd_perception.nodes.metrics_node import MetricsNode
from kd_perception.nodes.shared.security_policy import policy_text
from policy_names import names
from ros_harness import own_domain


def used_names(node, name):
    """Return {rule: names} once the graph shows all publishers and subscriptions that the node has."""
    own = {'publish': {item.topic_name for item in node.publishers},
           'subscribe': {item.topic_name for item in node.subscriptions}}
    ask = {'publish': node.get_publisher_names_and_types_by_node,
           'subscribe': node.get_subscriber_names_and_types_by_node,
           'reply': node.get_service_names_and_types_by_node,
           'request': node.get_client_names_and_types_by_node}
    end = time.monotonic() + 20
    while True:
        found = {rule: {item for item, _ in get(name, '/')} for rule, get in ask.items()}
        if all(own[rule] <= found[rule] for rule in own) or time.monotonic() > end:
            return found
        time.sleep(0.05)


def test_the_nodes_use_nothing_that_the_policy_denies(model):
    """Active, with images raw and compressed."""
    allowed, used = names(policy_text(['front'])), {}
    allowed = {node: {rule: set(found) for rule, found in rules.items()} for node, rules in allowed.items()}
    for name, kind, transport, values in (
            ('student', DetectorNode, 'raw', {'cameras': ['front'], 'model': str(model)}),
            ('teacher', DetectorNode, 'compressed', {'cameras': ['front/teacher'], 'model': str(model)}),
            ('fallback', FallbackNode, 'raw', {'cameras': ['front'], 'student_topic': 'candidates',
                                               'student_model': str(model)}),
            ('fallback', FallbackNode, 'compressed', {'cameras': ['front'], 'student_topic': 'detections',
                                                      'student_model': str(model)})):
        # A domain for each: the graph may mistake a node for one of its name that has just gone.
        with own_domain() as domain:
            context = Context()
            context.init(['--ros-args', '-r', f'__node:={name}'], domain_id=domain)
            values = {**values, 'image_transport': transport, 'autostart': False}
            node = kind(context=context, parameter_overrides=[
                Parameter(key, value=value) for key, value in values.items()])
            try:
                assert (node.get_name(), node.get_namespace()) == (name, '/')
                assert node.trigger_configure() == node.trigger_activate()
                assert node.state == 'active'
                for rule, found in used_names(node, name).items():
                    used.setdefault((name, rule), set()).update(found)
                    assert found <= allowed[name].get(rule, set()), f'{name} {rule}'
            finally:
                node.close()
                node.destroy_node()
                context.try_shutdown()
    with own_domain() as domain:
        context = Context()
        context.init([], domain_id=domain)
        node = MetricsNode(context=context, parameter_overrides=[Parameter('port', value=0)])
        try:
            for rule, found in used_names(node, 'metrics').items():
                assert found <= allowed['metrics'].get(rule, set()), f'metrics {rule}'
                assert rule == 'request' or found >= allowed['metrics'][rule] - {'/clock'}
        finally:
            node.close()
            node.destroy_node()
            context.try_shutdown()
    assert used['fallback', 'subscribe'] == allowed['fallback']['subscribe'] - {'/clock'}
    assert used['fallback', 'publish'] == allowed['fallback']['publish']
    assert used['student', 'reply'] == allowed['student']['reply']
