# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Messages built and read without ROS."""

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.errors import BagError
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts

hypothesis = pytest.importorskip('hypothesis', reason='hypothesis is not installed')
st = pytest.importorskip('hypothesis.strategies', reason='hypothesis is not installed')

LABELS = ('Car', 'Pedestrian', 'Cyclist')
FOUND = Detections([[1, 2, 11, 22], [0.5, 0.25, 8.5, 4.25]], [0.75, 0.5], [2, 0])


@pytest.mark.parametrize('little_endian', [True, False])
@pytest.mark.parametrize('stamp_ns', [1, 999_999_999, 1_000_000_000, 1_700_000_000_123_456_789])
def test_header_is_read_without_decoding_the_rest(little_endian, stamp_ns):
    message = messages.raw_image(np.zeros((2, 3, 3), np.uint8), stamp_ns, 'camera_äöü')
    raw = ts.typestore().serialize_cdr(message, ts.IMAGE, little_endian=little_endian)
    assert messages.parse_header(bytes(raw)) == (stamp_ns, 'camera_äöü')


@pytest.mark.parametrize('raw', [b'', b'\0\1\0\0', b'\0\1\0\0' + bytes(8), b'\1\1\0\0' + bytes(20),
                                 b'\0\7' + bytes(20), b'\0\1\0\0' + bytes(8) + b'\xff\xff\xff\xff'])
def test_damaged_header_is_an_error(raw):
    with pytest.raises(BagError):
        messages.parse_header(raw)


def test_detections_survive():
    raw = ts.serialize(messages.detection_array(FOUND, LABELS, 1_234_567_890, 'front'))
    stamp_ns, frame_id, boxes, scores, names = messages.parse_detection_array(raw)
    assert (stamp_ns, frame_id, names) == (1_234_567_890, 'front', ('Cyclist', 'Car'))
    np.testing.assert_array_equal(boxes, FOUND.boxes_xyxy)
    np.testing.assert_array_equal(scores, FOUND.scores)


def test_nested_headers_equal_the_images_and_ids_stay_empty():
    message = messages.detection_array(FOUND, LABELS, 5_000_000_007, 'front')
    for item in message.detections:
        assert item.header == message.header and item.id == ''
        assert item.results[0].pose.pose.orientation.w == 1.0
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (5, 7)


def test_no_detections_are_an_ordinary_message():
    raw = ts.serialize(messages.detection_array(Detections.empty(), LABELS, 1, 'c'))
    _, _, boxes, scores, names = messages.parse_detection_array(raw)
    assert boxes.shape == (0, 4) and scores.shape == (0,) and names == ()


def test_the_best_hypothesis_counts_and_none_is_an_error():
    message = messages.detection_array(FOUND.select(slice(0, 1)), LABELS, 1, 'c')
    other = messages.detection_array(Detections([[0, 0, 1, 1]], [0.9], [1]), LABELS, 1, 'c')
    message.detections[0].results.append(other.detections[0].results[0])
    assert messages.parse_detection_array(ts.serialize(message))[4] == ('Pedestrian',)
    message.detections[0].results.clear()
    with pytest.raises(BagError, match='hypothesis'):
        messages.parse_detection_array(ts.serialize(message))


def test_annotations_outline_each_box():
    message = messages.image_annotations(
        FOUND.boxes_xyxy, FOUND.scores, ['Cyclist', 'Car'], 3_000_000_000, LABELS)
    assert [[(p.x, p.y) for p in item.points] for item in message.points] == [
        [(1, 2), (11, 2), (11, 22), (1, 22)], [(0.5, 0.25), (8.5, 0.25), (8.5, 4.25), (0.5, 4.25)]]
    assert all(item.type == 2 and item.timestamp.sec == 3 for item in message.points)
    assert [item.text for item in message.texts] == ['Cyclist 0.75', 'Car 0.50']
    assert message.points[0].outline_color != message.points[1].outline_color
    ts.serialize(message)


@hypothesis.given(st.binary(max_size=200), st.integers(0, 400))
def test_arbitrary_bytes_give_detections_or_a_bag_error(noise, at):
    raw = bytearray(ts.serialize(messages.detection_array(FOUND, LABELS, 7, 'front')))
    raw[at:at + len(noise)] = noise
    try:
        boxes = messages.parse_detection_array(bytes(raw))[2]
        assert boxes.shape[1:] == (4,)
    except BagError:
        pass
