# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The message types of recordings: the hashes that ROS computes; a bad length blows nothing up."""

from pathlib import Path

import pytest
from rosbags.serde import SerdeError
from rosbags.typesys import get_types_from_msg

from kd_perception.boxes.detections import Detections
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts

FOUND = Detections([[1, 2, 11, 22]], [0.75], [0])
MSG_FOLDER = Path(__file__).resolve().parents[2] / 'tools' / 'vision_msgs' / 'msg'


def test_detection_array_has_the_type_hash_of_a_stock_install():
    assert ts.typestore().hash_rihs01(ts.DETECTION_ARRAY) == ts.DETECTION_ARRAY_HASH


@pytest.mark.skipif(not MSG_FOLDER.is_dir(), reason='tools/vision_msgs is not part of this installation')
def test_definitions_equal_those_that_the_wheel_is_built_from():
    store = ts.typestore()
    for name in ts.VISION_MSGS_DEFINITIONS:
        text = (MSG_FOLDER / f'{name.rsplit("/", 1)[1]}.msg').read_text()
        _, fields = get_types_from_msg(text, name)[name]
        assert fields == store.fielddefs[name][1], name


@pytest.mark.parametrize('name', sorted({**ts.VISION_MSGS_DEFINITIONS, **ts.FOXGLOVE_DEFINITIONS}))
def test_every_type_has_a_definition_to_write_into_a_bag(name):
    text, _ = ts.typestore().generate_msgdef(name, ros_version=2)
    assert text and ts.typestore().hash_rihs01(name).startswith('RIHS01_')


def test_one_store_for_the_whole_process():
    assert ts.typestore() is ts.typestore()


def test_padding_of_no_meaning_is_zeroed():
    raw = bytearray(ts.serialize(messages.detection_array(FOUND, ('Car',), 5, 'front')))
    # Encapsulation 4, stamp 8, length 4, `front` and its end 6: two bytes of padding follow.
    assert raw[22:24] == b'\0\0'
    raw[22:24] = b'\xaa\xbb'
    assert ts.canonical(bytes(raw), ts.DETECTION_ARRAY) == ts.serialize(
        messages.detection_array(FOUND, ('Car',), 5, 'front'))


def test_a_length_beyond_any_image_is_refused_before_memory_is_spent():
    raw = bytearray(ts.serialize(messages.compressed_image(b'x' * 16, 'png', 1, 'c')))
    length_at = raw.index((16).to_bytes(4, 'little') + b'x' * 16)
    raw[length_at:length_at + 4] = (2 ** 32 - 1).to_bytes(4, 'little')
    with pytest.raises(SerdeError):
        ts.deserialize(bytes(raw), ts.COMPRESSED_IMAGE)
