# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The serialised form (CDR, OMG DDSI-RTPS 10) of the messages that every frame passes, read and written.

A node that forwards images and merges boxes needs a few numbers out of them. Making a Python object of each
nested field first takes tens of ms for 100 detections; reading the numbers where they lie takes about one.
All input is taken for hostile: a length is checked against the message before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import struct

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.errors import BagError

NS_PER_S = 1_000_000_000
_ORIGIN = 4             # the encapsulation header, from whose end fields are aligned
_POSE_BYTES = 43 * 8    # position, orientation and covariance of a hypothesis, which say nothing here
MAX_HYPOTHESES = 1_000
MAX_STRING_BYTES = 4_096


class CdrReader:
    """
    Walks through one message.

    :raises BagError: the bytes are no CDR, or a field leaves them; so do all methods.
    """

    def __init__(self, raw: bytes | memoryview):
        """Stand behind the encapsulation header."""
        if len(raw) < _ORIGIN or raw[0] != 0 or raw[1] > 1:
            raise BagError(f'a message of {len(raw)} bytes is no CDR message')
        self._raw = raw
        self._order = '<' if raw[1] else '>'
        self.offset = _ORIGIN

    def align(self, size: int) -> None:
        """Go on to the next multiple of `size`."""
        self.offset += (_ORIGIN - self.offset) % size

    def numbers(self, code: str, size: int) -> tuple:
        """Return numbers of one size by their `struct` codes."""
        self.align(size)
        try:
            values = struct.unpack_from(self._order + code, self._raw, self.offset)
        except struct.error:
            raise BagError(f'a message of {len(self._raw)} bytes ends too early') from None
        self.offset += size * len(values)
        return values

    def string(self) -> str:
        """Return a string."""
        length, = self.numbers('I', 4)
        if length > MAX_STRING_BYTES or self.offset + length > len(self._raw):
            raise BagError(f'a text of {length} bytes does not fit its message of {len(self._raw)} bytes')
        text = bytes(self._raw[self.offset:self.offset + length])
        self.offset += length
        return text.rstrip(b'\0').decode('utf-8', errors='replace')

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        if self.offset + size > len(self._raw):
            raise BagError(f'a message of {len(self._raw)} bytes ends too early')
        self.offset += size

    def passes(self, expected: bytes) -> bool:
        """Pass over these bytes where they come next, aligned to 4; return whether they did."""
        self.align(4)
        end = self.offset + len(expected)
        same = self._raw[self.offset:end] == expected
        if same:
            self.offset = end
        return same

    def header(self) -> tuple[int, str]:
        """Return (stamp in ns, frame_id) of a `std_msgs/Header`."""
        sec, nanosec = self.numbers('iI', 4)
        if nanosec >= NS_PER_S:
            raise BagError(f'a stamp of {nanosec} ns within its second')
        return sec * NS_PER_S + nanosec, self.string()

    def bytes(self) -> memoryview:
        """Return a sequence of bytes, without copying it."""
        length, = self.numbers('I', 4)
        start = self.offset
        self.skip(length)
        return memoryview(self._raw)[start:self.offset]


@dataclasses.dataclass(frozen=True)
class SerializedImage:
    """
    What a serialised `sensor_msgs/Image` or `CompressedImage` holds; `data` is a view of it.

    :param height, width: px, None for a compressed image.
    :param encoding: or the compressed image's format.
    :param step: bytes of a row, None for a compressed image.
    """

    stamp_ns: int
    frame_id: str
    height: int | None
    width: int | None
    encoding: str
    is_bigendian: int
    step: int | None
    data: memoryview

    @classmethod
    def read(cls, raw: bytes, compressed: bool) -> SerializedImage:
        """
        Read a message.

        :raises BagError: the bytes are not such a message.
        """
        reader = CdrReader(raw)
        stamp_ns, frame_id = reader.header()
        if compressed:
            encoding = reader.string()
            return cls(stamp_ns, frame_id, None, None, encoding, 0, None, reader.bytes())
        height, width = reader.numbers('II', 4)
        encoding = reader.string()
        is_bigendian, = reader.numbers('B', 1)
        step, = reader.numbers('I', 4)
        return cls(stamp_ns, frame_id, height, width, encoding, is_bigendian, step, reader.bytes())


@dataclasses.dataclass(frozen=True)
class SerializedResult:
    """
    The upright boxes of a serialised `vision_msgs/Detection2DArray`; of each detection the best hypothesis.

    :param detections: class ids by the labels that it was read with, px of the image.
    :param rejected: detections that are left out: not finite, not upright, no hypothesis, a score outside
        0..1, or more than were allowed.
    :param unknown: detections left out since their class is none of the labels; `unknown_name` is one such.
    """

    stamp_ns: int
    frame_id: str
    detections: Detections
    rejected: int = 0
    unknown: int = 0
    unknown_name: str = ''


def read_result(raw: bytes, labels: Sequence[str], limit: int) -> SerializedResult:
    """
    Read a result.

    :param labels: class names by id. :param limit: no more detections than this are read.
    :raises BagError: the bytes are not such a message; what is wrong inside it is counted instead.
    """
    reader = CdrReader(raw)
    stamp_ns, frame_id = reader.header()
    head = bytes(raw[_ORIGIN:reader.offset])
    count, = reader.numbers('I', 4)
    ids = {label: index for index, label in enumerate(labels)}
    found: list[tuple[tuple[float, ...], float, int]] = []
    unknown, unknown_name = 0, ''
    read = min(count, limit)
    for _ in range(read):
        name, score, (x, y, theta, w, h) = _read_detection(reader, head)
        if name is None or theta != 0:
            continue
        if name not in ids:
            unknown, unknown_name = unknown + 1, name
            continue
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2) if w >= 0 and h >= 0 else (np.nan,) * 4
        found.append((box, score, ids[name]))
    boxes = np.array([box for box, _, _ in found], np.float64).reshape(-1, 4)
    scores = np.array([score for _, score, _ in found], np.float64)
    class_ids = np.array([class_id for _, _, class_id in found], np.int64)
    # A finite box whose corners are not is one beyond float32; ten million px is further than any image.
    good = (np.abs(boxes) < 1e7).all(axis=1) & (scores >= 0) & (scores <= 1)
    detections = Detections(boxes[good], scores[good], class_ids[good])
    return SerializedResult(
        stamp_ns, frame_id, detections, count - len(detections) - unknown, unknown, unknown_name)


def _read_detection(reader: CdrReader, head: bytes) -> tuple[str | None, float, tuple]:
    """
    Return name and score of the best hypothesis (None where there is none), and the box.

    :param head: the header that it most likely has.
    """
    if not reader.passes(head):
        reader.header()
    hypotheses, = reader.numbers('I', 4)
    if hypotheses > MAX_HYPOTHESES:
        raise BagError(f'{hypotheses} hypotheses of one detection, expected at most {MAX_HYPOTHESES}')
    name, best = None, -np.inf
    for _ in range(hypotheses):
        candidate = reader.string()
        score, = reader.numbers('d', 8)
        reader.skip(_POSE_BYTES)
        if name is None or score > best:
            name, best = candidate, score
    box = reader.numbers('5d', 8)
    reader.string()
    return name, best, box


def write_result(detections: Detections, labels: Sequence[str], stamp_ns: int, frame_id: str,
                 track_ids: Sequence[int] = ()) -> bytes:
    """
    Return a serialised `vision_msgs/Detection2DArray`, little-endian.

    Header, boxes and class names as `nodes.conversions.detections_to_message` sets them.

    :param detections: px of the source image. :param labels: class names by class id.
    :param track_ids: `Detection2D.id` of each; none: they are left empty.
    """
    stamp = struct.pack('<iI', *divmod(stamp_ns, NS_PER_S))
    head = stamp + _packed_string(frame_id)
    out = bytearray(b'\0\1\0\0' + head)
    _pad(out, 4)
    out += struct.pack('<I', len(detections))
    names = [_packed_string(label) for label in labels]
    boxes = detections.boxes_xyxy.astype(np.float64)
    places = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, np.zeros((len(boxes), 1)),
                             boxes[:, 2:] - boxes[:, :2]], axis=1).astype('<f8')
    scores = detections.scores.astype('<f8')
    ids = [_packed_string(str(track)) for track in track_ids] or [_NO_ID] * len(boxes)
    for place, score, class_id, track in zip(places, scores, detections.class_ids.tolist(), ids, strict=True):
        _pad(out, 4)
        out += head
        _pad(out, 4)
        out += b'\1\0\0\0' + names[class_id]
        _pad(out, 8)
        out += score.tobytes() + _NO_POSE + place.tobytes() + track
    return bytes(out)


# Identity orientation, as the message's defaults; and the empty `id`.
_NO_POSE = struct.pack('<43d', *(1.0 if i == 6 else 0.0 for i in range(43)))
_NO_ID = struct.pack('<IB', 1, 0)


def _packed_string(text: str) -> bytes:
    data = text.encode() + b'\0'
    return struct.pack('<I', len(data)) + data


def _pad(out: bytearray, size: int) -> None:
    out += bytes((_ORIGIN - len(out)) % size)
