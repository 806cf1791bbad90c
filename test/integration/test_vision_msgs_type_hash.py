# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""vision_msgs as installed here: the type hash of a stock install, and messages that survive DDS."""

import json
import os
from pathlib import Path
import sys

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from rclpy.serialization import deserialize_message, serialize_message

from kd_perception.messages.typestore import serialize, typestore
from ros_harness import LATCHED
from vision_msgs import msg as vision_msgs
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
    VisionClass,
)

STOCK_HASH = 'RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968'


def detections():
    """A message in which no field has its default value."""
    array = Detection2DArray()
    array.header.stamp.sec, array.header.stamp.nanosec, array.header.frame_id = 12, 345678901, 'front ü'
    for index in range(3):
        box = BoundingBox2D(center=Pose2D(position=Point2D(x=10.25 + index, y=-3.5), theta=0.125),
                            size_x=64.5, size_y=1e-3)
        first = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id='Car', score=0.875))
        first.pose.pose.position.z = 7.75
        first.pose.covariance[5] = 0.5
        second = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id='Cyclist', score=0.0625))
        array.detections.append(Detection2D(
            header=array.header, results=[first, second], bbox=box, id=f'track {index}'))
    return array


def all_types():
    return [getattr(vision_msgs, name) for name in vision_msgs.__dict__ if name[0].isupper()]


def test_hash_in_the_generated_description():
    for prefix in filter(None, [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]):
        path = Path(prefix) / 'share' / 'vision_msgs' / 'msg' / 'Detection2DArray.json'
        if path.is_file():
            break
    else:
        pytest.fail('no prefix in AMENT_PREFIX_PATH has share/vision_msgs/msg/Detection2DArray.json')
    entries = json.loads(path.read_text())['type_hashes']
    hashes = {entry['type_name']: entry['hash_string'] for entry in entries}
    assert hashes['vision_msgs/msg/Detection2DArray'] == STOCK_HASH


def test_hash_of_the_live_type_support(probe):
    """What a peer sees: the hash that DDS discovery carries for a publisher and a subscription."""
    publisher = probe.publisher(Detection2DArray, 'detections')
    probe.collect(Detection2DArray, 'detections')
    probe.wait_matched(publisher)
    endpoints = [*probe.node.get_publishers_info_by_topic('/detections'),
                 *probe.node.get_subscriptions_info_by_topic('/detections')]
    assert len(endpoints) == 2
    assert {str(endpoint.topic_type_hash) for endpoint in endpoints} == {STOCK_HASH}


def test_every_type_can_be_published(probe):
    types = all_types()
    assert len(types) >= 16
    for message_type in types:
        topic = f'every/{message_type.__name__.lower()}'
        received = probe.collect(message_type, topic)
        publisher = probe.publisher(message_type, topic)
        probe.wait_matched(publisher)
        publisher.publish(message_type())
        probe.wait_for(lambda: received, f'a message on {topic}')
        assert received == [message_type()]


ECHO = """
import rclpy
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

rclpy.init()
node = Node('echo')
publisher = node.create_publisher(Detection2DArray, 'answer', 10)


def copied(value):
    if isinstance(value, list):
        return [copied(item) for item in value]
    if not hasattr(value, 'get_fields_and_field_types'):
        return value
    names = value.get_fields_and_field_types()
    return type(value)(**{name: copied(getattr(value, name)) for name in names})


def answer(message):
    # Rebuilt field by field out of Python values: what either direction lost, shows.
    publisher.publish(copied(message))


node.create_subscription(Detection2DArray, 'question', answer, 10)
rclpy.spin(node)
"""


def test_round_trip_through_another_process(probe, start, tmp_path):
    (tmp_path / 'echo_detections.py').write_text(ECHO)
    echo = start('echo_detections', environment={'PYTHONPATH': str(tmp_path)})
    received = probe.collect(Detection2DArray, 'answer')
    publisher = probe.publisher(Detection2DArray, 'question')
    probe.wait_matched(publisher)
    sent = detections()
    probe.wait_for(lambda: received, lambda: f'an answer; the other process says:\n{echo.log}',
                   every=lambda: publisher.publish(sent))
    assert received[0] == sent


def test_latched_label_info_reaches_a_late_subscriber(probe):
    sent = LabelInfo(class_map=[VisionClass(class_id=2, class_name='Cyclist')], threshold=0.25)
    publisher = probe.publisher(LabelInfo, 'label_info', LATCHED)
    publisher.publish(sent)
    received = probe.collect(LabelInfo, 'label_info', LATCHED)
    probe.wait_for(lambda: received, 'the latched message')
    assert received == [sent]


def test_bytes_and_rosbags_agree():
    """Two implementations of the layout read each other's bytes."""
    array = detections()
    raw = serialize_message(array)
    types = typestore().types
    read = typestore().deserialize_cdr(raw, 'vision_msgs/msg/Detection2DArray')
    assert type(read) is types['vision_msgs/msg/Detection2DArray']
    assert [d.results[1].hypothesis.class_id for d in read.detections] == ['Cyclist'] * 3
    # Not compared byte by byte: Fast CDR leaves the padding between fields as it finds it.
    assert len(serialize(read)) == len(raw)
    assert deserialize_message(serialize(read), Detection2DArray) == array
