# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Serialised messages read and written in place: rosbags, and rclpy where it is there, are the oracles."""

import struct
import time

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.errors import BagError
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.messages.wire import (
    CdrReader,
    MAX_STRING_BYTES,
    read_result,
    SerializedImage,
    write_result,
)

hypothesis = pytest.importorskip('hypothesis', reason='hypothesis is not installed')
st = pytest.importorskip('hypothesis.strategies', reason='hypothesis is not installed')

LABELS = ('Car', 'Pedestrian', 'Cyclist')
FOUND = Detections([[1, 2, 11, 22], [0.5, 0.25, 8.5, 4.25]], [0.75, 0.5], [2, 0])
STAMP_NS = 1_700_000_000_123_456_789
IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
# Of any length modulo 8, with a name beyond ASCII: alignment depends on what stands before.
FRAME_IDS = ('', 'c', 'front', 'camera_äöü', 'a/long/frame_id')


def result(found=FOUND, stamp_ns=STAMP_NS, frame_id='front', labels=LABELS):
    return messages.detection_array(found, labels, stamp_ns, frame_id)


def serialized(message, little_endian=True):
    return bytes(ts.typestore().serialize_cdr(message, message.__msgtype__, little_endian=little_endian))


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name))
               for name in ('boxes_xyxy', 'scores', 'class_ids'))


def any_detections(count, seed=0, labels=LABELS):
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(-50, 2000, (count, 2, 2)).astype(np.float32), axis=1)
    return Detections(corners.reshape(count, 4), random.uniform(0, 1, count),
                      random.integers(0, len(labels), count))


# --- written ---

@pytest.mark.parametrize('frame_id', FRAME_IDS)
@pytest.mark.parametrize('count', [0, 1, 2, 3, 50])
def test_written_as_rosbags_writes_it(count, frame_id):
    labels = ('Car', 'Fußgänger', 'a name of another length')
    found = any_detections(count, count)
    want = serialized(messages.detection_array(found, labels, STAMP_NS, frame_id))
    assert write_result(found, labels, STAMP_NS, frame_id) == want


@pytest.mark.parametrize('stamp_ns', [0, 1, 999_999_999, -1, -1_500_000_000, 2**31 * 10**9 - 1])
def test_any_stamp_that_a_header_can_hold_is_written_and_read(stamp_ns):
    raw = write_result(FOUND, LABELS, stamp_ns, 'c')
    assert read_result(raw, LABELS, 10).stamp_ns == stamp_ns == messages.parse_header(raw)[0]


def test_written_as_rclpy_writes_and_reads_it():
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    pytest.importorskip('vision_msgs', reason='vision_msgs is not installed')
    from rclpy.serialization import deserialize_message, serialize_message
    from std_msgs.msg import Header

    from kd_perception.nodes.shared.conversions import detections_to_message, ns_to_stamp
    from vision_msgs.msg import Detection2DArray
    for count, frame_id in ((0, 'c'), (3, 'front'), (20, 'camera_äöü')):
        found = any_detections(count, 7)
        message = detections_to_message(found, LABELS, Header(stamp=ns_to_stamp(STAMP_NS), frame_id=frame_id))
        raw = write_result(found, LABELS, STAMP_NS, frame_id)
        assert deserialize_message(raw, Detection2DArray) == message
        read = read_result(serialize_message(message), LABELS, 100)
        assert same(read.detections, found) and (read.stamp_ns, read.frame_id) == (STAMP_NS, frame_id)
        assert (read.rejected, read.unknown) == (0, 0)


# --- read ---

@pytest.mark.parametrize('little_endian', [True, False])
@pytest.mark.parametrize('frame_id', FRAME_IDS)
def test_results_are_read_in_either_byte_order(frame_id, little_endian):
    found = any_detections(9)
    read = read_result(serialized(result(found, frame_id=frame_id), little_endian), LABELS, 100)
    assert same(read.detections, found) and (read.rejected, read.unknown) == (0, 0)
    assert (read.stamp_ns, read.frame_id) == (STAMP_NS, frame_id)


@pytest.mark.parametrize('little_endian', [True, False])
@pytest.mark.parametrize('frame_id', FRAME_IDS)
def test_images_are_read_without_a_copy(frame_id, little_endian):
    raw = serialized(messages.raw_image(IMAGE, STAMP_NS, frame_id), little_endian)
    image = SerializedImage.read(raw, compressed=False)
    assert (image.stamp_ns, image.frame_id, image.height, image.width) == (STAMP_NS, frame_id, 4, 5)
    assert (image.encoding, image.is_bigendian, image.step) == ('bgr8', 0, 15)
    assert image.data.obj is raw and bytes(image.data) == IMAGE.tobytes()
    raw = serialized(messages.compressed_image(b'\xff\xd8jpeg', 'jpeg', STAMP_NS, frame_id), little_endian)
    image = SerializedImage.read(raw, compressed=True)
    assert (image.stamp_ns, image.frame_id, image.encoding) == (STAMP_NS, frame_id, 'jpeg')
    assert (image.height, image.width, image.step, bytes(image.data)) == (None, None, None, b'\xff\xd8jpeg')


def test_the_best_hypothesis_counts():
    message = result(FOUND.select(slice(0, 1)))
    better = result(Detections([[0, 0, 1, 1]], [0.9], [1])).detections[0].results[0]
    message.detections[0].results.append(better)
    read = read_result(serialized(message), LABELS, 10)
    assert read.detections.class_ids.tolist() == [1] and read.detections.scores[0] == np.float32(0.9)


BAD = {
    'nan_x': lambda d: setattr(d.bbox.center.position, 'x', float('nan')),
    'inf_y': lambda d: setattr(d.bbox.center.position, 'y', float('inf')),
    'nan_width': lambda d: setattr(d.bbox, 'size_x', float('nan')),
    'inf_height': lambda d: setattr(d.bbox, 'size_y', float('inf')),
    'beyond_float32': lambda d: setattr(d.bbox, 'size_x', 1e300),
    'negative_width': lambda d: setattr(d.bbox, 'size_x', -1.0),
    'negative_height': lambda d: setattr(d.bbox, 'size_y', -1e-9),
    'rotated': lambda d: setattr(d.bbox.center, 'theta', 0.1),
    'nan_angle': lambda d: setattr(d.bbox.center, 'theta', float('nan')),
    'nan_score': lambda d: setattr(d.results[0].hypothesis, 'score', float('nan')),
    'inf_score': lambda d: setattr(d.results[0].hypothesis, 'score', float('inf')),
    'negative_score': lambda d: setattr(d.results[0].hypothesis, 'score', -0.01),
    'score_above_1': lambda d: setattr(d.results[0].hypothesis, 'score', 1.01),
    'no_hypothesis': lambda d: d.results.clear(),
}


@pytest.mark.parametrize('kind', BAD)
@pytest.mark.parametrize('which', [0, 1])
def test_what_is_no_box_is_counted_and_left_out(kind, which):
    message = result()
    BAD[kind](message.detections[which])
    read = read_result(serialized(message), LABELS, 10)
    assert (read.rejected, read.unknown, len(read.detections)) == (1, 0, 1)
    assert same(read.detections, FOUND.select(slice(1 - which, 2 - which)))


def test_unknown_classes_are_counted_and_named():
    read = read_result(serialized(result()), ('Car', 'Pedestrian'), 10)
    assert (read.rejected, read.unknown, read.unknown_name) == (0, 1, 'Cyclist')
    assert read.detections.class_ids.tolist() == [0]


def test_no_more_than_allowed_are_read():
    read = read_result(serialized(result(any_detections(9))), LABELS, 4)
    assert (len(read.detections), read.rejected) == (4, 5)


@pytest.mark.parametrize('claim', [5, 1000, 2**31, 2**32 - 1])
def test_a_count_beyond_the_message_is_an_error_and_costs_nothing(claim):
    raw = bytearray(serialized(result()))
    at = len(serialized(result(Detections.empty()))) - 4
    raw[at:at + 4] = struct.pack('<I', claim)
    begin = time.monotonic()
    with pytest.raises(BagError):
        read_result(bytes(raw), LABELS, 1000)
    assert time.monotonic() - begin < 1


# --- damaged ---

def _every_message():
    return {
        'result': (serialized(result()), lambda raw: read_result(raw, LABELS, 10)),
        'image': (serialized(messages.raw_image(IMAGE, STAMP_NS, 'front')),
                  lambda raw: SerializedImage.read(raw, False)),
        'compressed': (serialized(messages.compressed_image(b'12345', 'png', STAMP_NS, 'front')),
                       lambda raw: SerializedImage.read(raw, True)),
    }


@pytest.mark.parametrize('kind', ['result', 'image', 'compressed'])
@pytest.mark.parametrize('form', [bytes, memoryview])
def test_truncated_anywhere_it_is_an_error(kind, form):
    raw, read = _every_message()[kind]
    read(form(raw))
    for length in range(len(raw)):
        with pytest.raises(BagError) as caught:
            read(form(raw[:length]))
        assert '\n' not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize('raw', [
    b'', b'\0', b'\0\1\0\0', b'\0\2' + bytes(40), b'\1\1' + bytes(40), b'\xff' * 40,
    b'\0\1\0\0' + struct.pack('<iII', 1, 1_000_000_000, 1) + bytes(40),     # no part of a second
    b'\0\1\0\0' + struct.pack('<iII', 1, 1, 2**32 - 1) + bytes(40),
    b'\0\1\0\0' + struct.pack('<iII', 1, 1, MAX_STRING_BYTES + 1) + bytes(2 * MAX_STRING_BYTES)])
def test_what_is_no_header_is_an_error(raw):
    with pytest.raises(BagError):
        CdrReader(raw).header()


def test_text_that_is_no_utf8_is_read_all_the_same():
    raw = b'\0\1\0\0' + struct.pack('<iII', 1, 2, 4) + b'\xff\xfea\0'
    stamp_ns, frame_id = CdrReader(raw).header()
    assert stamp_ns == 1_000_000_002 and frame_id.endswith('a')
    write_result(FOUND, LABELS, stamp_ns, frame_id)


def _reads(read, raw):
    """Any bytes give a result or a BagError, soon."""
    begin = time.process_time()
    try:
        have = read(raw)
    except BagError:
        have = None
    assert time.process_time() - begin < 1
    return have


@hypothesis.given(st.sampled_from(['result', 'image', 'compressed']), st.binary(max_size=300))
def test_noise_gives_a_message_or_a_bag_error(kind, noise):
    _, read = _every_message()[kind]
    _reads(read, noise)
    _reads(read, b'\0\1\0\0' + noise)
    _reads(read, b'\0\0\0\0' + noise)


@hypothesis.given(st.sampled_from(['result', 'image', 'compressed']), st.binary(min_size=1, max_size=40),
                  st.integers(0, 1000))
def test_a_damaged_message_gives_a_message_or_a_bag_error(kind, noise, at):
    good, read = _every_message()[kind]
    raw = bytearray(good)
    at %= len(raw)
    raw[at:at + len(noise)] = noise
    have = _reads(read, bytes(raw))
    if kind == 'result' and have is not None:
        # Whatever was believed can be published: finite, known, upright, and within its header.
        again = read_result(write_result(have.detections, LABELS, have.stamp_ns, have.frame_id), LABELS, 10)
        assert len(again.detections) == len(have.detections) and again.stamp_ns == have.stamp_ns


@hypothesis.settings(max_examples=30)     # rosbags takes its time
@hypothesis.given(st.integers(1, 8), st.integers(0, 2**31), st.text(max_size=12), st.booleans())
def test_rosbags_agrees_with_whatever_is_written(count, seed, frame_id, little_endian):
    hypothesis.assume('\0' not in frame_id)
    found = any_detections(count, seed)
    raw = write_result(found, LABELS, STAMP_NS, frame_id)
    have = messages.parse_detection_array(raw)
    assert have[:2] == (STAMP_NS, frame_id) and have[4] == tuple(LABELS[i] for i in found.class_ids)
    np.testing.assert_allclose(have[2], found.boxes_xyxy)
    np.testing.assert_array_equal(have[3], found.scores)
    read = read_result(serialized(result(found, frame_id=frame_id), little_endian), LABELS, 100)
    assert same(read.detections, found)
