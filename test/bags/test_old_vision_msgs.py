# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Recordings of vision_msgs before 4: other bytes are refused by name, other field names are none."""

import sqlite3

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

from kd_perception.errors import BagError, EvaluationError
from kd_perception.labels.kitti_bag import read_bag_labels
from kd_perception.labels.label_source import LabelSource
from kd_perception.messages import typestore as ts

TOPIC = '/camera/ground_truth'
# Of ros-perception/vision_msgs: `center` is a geometry_msgs/Pose2D in all releases before 4.
BOX = 'geometry_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n'
HYPOTHESIS = 'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n'
ARRAY = 'std_msgs/Header header\nvision_msgs/Detection2D[] detections\n'
COMMON = {'vision_msgs/msg/BoundingBox2D': BOX, 'vision_msgs/msg/Detection2DArray': ARRAY}
# Release 2, of Foxy: flat hypotheses, and an image in each detection.
FOXY = {**COMMON,
        'vision_msgs/msg/ObjectHypothesisWithPose':
            'string id\nfloat64 score\ngeometry_msgs/PoseWithCovariance pose\n',
        'vision_msgs/msg/Detection2D':
            'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
            'vision_msgs/BoundingBox2D bbox\nsensor_msgs/Image source_img\nbool is_tracking\n'
            'string tracking_id\n'}
# What differs from ours by names alone.
RENAMED = {**COMMON,
           'vision_msgs/msg/ObjectHypothesis': 'string class_id\nfloat64 score\n',
           'vision_msgs/msg/ObjectHypothesisWithPose': HYPOTHESIS,
           'vision_msgs/msg/Detection2D':
               'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
               'vision_msgs/BoundingBox2D bbox\nstring tracking_id\n'}


def store_of(definitions):
    store, types = get_typestore(Stores.ROS2_FOXY), {}
    for name, text in definitions.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store


def zeros(store, msgtype):
    """Return a message with each field zero or empty."""
    def value(kind, content):
        if kind == 1:
            return '' if content[0] == 'string' else 0
        if kind == 2:
            return zeros(store, content)
        (_, item), length = content[0], content[1]
        return np.zeros(length if kind == 3 else 0, item[0]) if item[0] in ('float64', 'uint8') else []
    fields = {name: value(*of) for name, of in store.fielddefs[msgtype][1]}
    return store.types[msgtype](**fields)


def write(path, store, storage):
    """Record three arrays of two cars, as a stock recorder of that release does."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        topic = writer.add_connection(TOPIC, ts.DETECTION_ARRAY, typestore=store)
        for number in range(3):
            found = zeros(store, ts.DETECTION_ARRAY)
            found.header.stamp.sec = number + 1
            for centre in (40.0, 80.0):
                item = zeros(store, 'vision_msgs/msg/Detection2D')
                result = zeros(store, 'vision_msgs/msg/ObjectHypothesisWithPose')
                hypothesis = getattr(result, 'hypothesis', result)
                name = 'id' if hypothesis is result else 'class_id'
                setattr(hypothesis, name, 'Car')
                hypothesis.score = 1.0
                item.results.append(result)
                item.bbox.center.x, item.bbox.center.y = centre, 30.0
                item.bbox.size_x, item.bbox.size_y = 20.0, 10.0
                found.detections.append(item)
            writer.write(topic, found.header.stamp.sec * 10**9,
                         store.serialize_cdr(found, ts.DETECTION_ARRAY))
    return path


@pytest.mark.parametrize('storage', list(StoragePlugin))
def test_an_older_layout_is_refused_by_name(storage, tmp_path):
    path = write(tmp_path / 'bag', store_of(FOXY), storage)
    with pytest.raises(BagError) as refused:
        read_bag_labels(path, TOPIC)
    told = str(refused.value)
    assert str(path) in told and TOPIC in told and 'vision_msgs before 4' in told and '\n' not in told


def test_an_older_layout_without_a_definition_is_never_read(tmp_path):
    """Recorders of Foxy and Humble keep no definitions in sqlite3 files."""
    path = write(tmp_path / 'bag', store_of(FOXY), StoragePlugin.SQLITE3)
    with sqlite3.connect(next(path.glob('*.db3'))) as file:
        file.execute('DELETE FROM message_definitions')
    file.close()
    labels = read_bag_labels(path, TOPIC)
    assert not labels.objects and labels.left_out == {'bad_message': 3}
    with pytest.raises(EvaluationError, match='holds no labels; .* of vision_msgs 4 or later'):
        LabelSource(path, TOPIC)


@pytest.mark.parametrize('storage', list(StoragePlugin))
def test_other_names_for_the_same_bytes_are_read(storage, tmp_path):
    labels = read_bag_labels(write(tmp_path / 'bag', store_of(RENAMED), storage), TOPIC)
    assert not labels.left_out and len(labels.objects) == 3
    for objects in labels.objects.values():
        assert objects.types == ('Car', 'Car')
        np.testing.assert_allclose(objects.boxes_xyxy, [[30, 25, 50, 35], [70, 25, 90, 35]])


def test_a_definition_of_our_own_or_one_that_is_no_definition_tells_nothing():
    own, _ = ts.typestore().generate_msgdef(ts.DETECTION_ARRAY, ros_version=2)
    assert not ts.other_layout(ts.DETECTION_ARRAY, own)
    for text in ('', 'not a definition {', 'unknown_msgs/Thing thing\n'):
        assert not ts.other_layout(ts.DETECTION_ARRAY, text)
