# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Read hard frames back: out of the recorder's own recordings, and out of any bag that holds the same topics.

Messages of one frame share their header's stamp (in a session's bag their log times differ). The small ones
are read first; images, only of the frames that are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd_perception.bags.reader import BagReader, is_bag
from kd_perception.bags.salvage import Record
from kd_perception.errors import BagError
from kd_perception.files import natural_key
from kd_perception.messages import build as messages
from kd_perception.messages import typestore
from kd_perception.recording.frames import DETECTION_TOPICS, IMAGE_TOPICS, PROVENANCE_TOPIC
from kd_perception.sources.any_source import decode_image_message

# More than any frame holds; comparing two sets takes their product in memory.
MAX_BOXES = 2_000


@dataclasses.dataclass(frozen=True, eq=False)
class Boxes:
    """
    Detections of one model on one frame, as recorded.

    :param boxes_xyxy: (N, 4) float64 px. :param scores: (N,) float64. :param names: N class names.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]

    def above(self, score: float) -> Boxes:
        """Return those with a score of at least `score`."""
        kept = np.flatnonzero(self.scores >= score)
        return Boxes(self.boxes_xyxy[kept], self.scores[kept], tuple(self.names[i] for i in kept))


class FrameKey(NamedTuple):
    """Which frame; `repeat` counts frames of one camera and stamp (a bag that was played in a loop)."""

    bag: str
    camera: str
    stamp_ns: int
    repeat: int


@dataclasses.dataclass(eq=False)
class RecordedFrame:
    """
    One hard frame without its image.

    :param facts: the provenance's keys and values, text.
    :param teacher: None where the teacher has not answered.
    """

    key: FrameKey
    frame_id: str
    facts: dict[str, str]
    student: Boxes
    teacher: Boxes | None = None
    verified: Boxes | None = None

    @property
    def name(self) -> str:
        """Return a name for files: camera, stamp, and the repetition where there is one."""
        camera = self.key.camera.replace('/', '_') or 'camera'
        return f'{camera}_{self.key.stamp_ns}' + (f'_{self.key.repeat}' if self.key.repeat else '')

    def number(self, fact: str) -> float | None:
        """Return a fact as a number; None where it is missing or none."""
        try:
            value = float(self.facts.get(fact, ''))
        except ValueError:
            return None
        return value if np.isfinite(value) else None


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedImage:
    """The image message of a frame."""

    raw: bytes
    msgtype: str

    def decode(self) -> np.ndarray:
        """Return (H, W, 3) uint8 BGR; raise ImageError where that cannot be."""
        return decode_image_message(self.raw, self.msgtype)

    def encoded(self) -> tuple[bytes, str] | None:
        """Return (data, suffix `jpg` or `png`) of a compressed image, None of a raw one; decode it first."""
        if self.msgtype != typestore.COMPRESSED_IMAGE:
            return None
        data = bytes(typestore.deserialize(self.raw, self.msgtype).data)
        return data, 'png' if data.startswith(b'\x89PNG') else 'jpg'


class HardFrameSet:
    """
    The hard frames of one bag, or of a folder of several.

    :raises BagError: there is no recording, or none with hard frames.
    :ivar frames: in the order of bag and stamp.
    :ivar problems: one line for each thing that could not be read.
    """

    def __init__(self, path: Path):
        self.frames: list[RecordedFrame] = []
        self.problems: list[str] = []
        self._paths: dict[str, Path] = {}
        for bag in recordings_in(path):
            name = bag.name if bag != path else ''
            self._paths[name] = bag
            try:
                found = self._read(name, bag)
            except BagError as error:
                self.problems.append(str(error))
                continue
            self.frames += sorted(found, key=lambda frame: (frame.key.stamp_ns, frame.key))
        if not self.frames:
            detail = f' ({self.problems[0]})' if self.problems else ''
            raise BagError(
                f'{path}: holds no hard frames, expected the topics C/{DETECTION_TOPICS["student"]} and '
                f'C/{PROVENANCE_TOPIC} of a camera C, with messages of one stamp{detail}')

    def images(self, frames: Sequence[RecordedFrame]) -> Iterator[tuple[RecordedFrame, RecordedImage | None]]:
        """Yield the frames, each with its image or None where that is missing, in the recordings' order."""
        left = {frame.key: frame for frame in frames}
        for name in dict.fromkeys(frame.key.bag for frame in frames):
            try:
                with BagReader(self._paths[name]) as bag:
                    topics = [topic for topic, item in bag.topics.items() if item.msgtype in IMAGE_TOPICS]
                    for key, record in _keyed(name, bag.messages(topics), []):
                        if key in left:
                            yield left.pop(key), RecordedImage(record.raw, record.msgtype)
            except BagError as error:
                self.problems.append(str(error))
        for frame in left.values():
            yield frame, None

    def _read(self, name: str, path: Path) -> list[RecordedFrame]:
        parts: dict[FrameKey, dict] = {}
        with BagReader(path) as bag:
            topics = [topic for topic, item in bag.topics.items() if item.msgtype not in IMAGE_TOPICS]
            for key, record in _keyed(name, bag.messages(topics), self.problems):
                place = _split(record)
                if place is None:
                    continue
                try:
                    parts.setdefault(key, {})[place[1]] = _parse(record)
                except BagError as error:
                    self.problems.append(f'{path.name}: {record.topic}: {error}')
            self.problems += [problem if path.name in problem else f'{path.name}: {problem}'
                              for problem in bag.problems]
        # A frame that a cut has left without its student or provenance says nothing.
        return [RecordedFrame(key, found['provenance'][0], found['provenance'][1], found['student'],
                              found.get('teacher'), found.get('verified'))
                for key, found in parts.items() if {'provenance', 'student'} <= set(found)]


def recordings_in(path: Path) -> list[Path]:
    """
    Return the recordings at a path: itself, or those in a folder in natural order (hidden ones left out).

    :raises BagError: there is none.
    """
    if not path.exists():
        raise BagError(f'{path}: no such recording or folder of recordings')
    try:
        # Without metadata.yaml, files beside one another need not be parts of one recording.
        if is_bag(path) and (not path.is_dir() or (path / 'metadata.yaml').is_file()):
            return [path]
        found = [item for item in path.iterdir() if not item.name.startswith('.') and is_bag(item)] \
            if path.is_dir() else []
    except OSError as error:
        raise BagError(f'{path}: cannot be read ({error.strerror or error})') from None
    if not found:
        raise BagError(
            f'{path}: holds no recording, expected a rosbag2 folder, .mcap or .db3, or a folder of them')
    return sorted(found, key=lambda item: natural_key(item.name))


_KINDS = {**{topic: kind for kind, topic in DETECTION_TOPICS.items()}, PROVENANCE_TOPIC: 'provenance'}
_TYPES = {**dict.fromkeys(DETECTION_TOPICS, typestore.DETECTION_ARRAY),
          'provenance': typestore.DIAGNOSTIC_ARRAY}


def _split(record: Record) -> tuple[str, str] | None:
    """Return (camera, kind of message) of a record; None for topics that are none of ours."""
    topic = record.topic.strip('/')
    if record.msgtype in IMAGE_TOPICS:
        suffix, kind = IMAGE_TOPICS[record.msgtype], 'image'
    else:
        # The longest first: C/teacher/detections ends like C/detections.
        suffix = next((item for item in sorted(_KINDS, key=len, reverse=True)
                       if topic == item or topic.endswith('/' + item)), '')
        kind = _KINDS.get(suffix, '')
        if not suffix or record.msgtype != _TYPES[kind]:
            return None
    if topic != suffix and not topic.endswith('/' + suffix):
        return None
    return topic[:-len(suffix)].strip('/'), kind


def _keyed(bag: str, records: Iterator[Record], problems: list[str]) -> Iterator[tuple[FrameKey, Record]]:
    repeats: Counter = Counter()
    damaged = 0
    for record in records:
        place = _split(record)
        if place is None:
            continue
        try:
            stamp_ns, _ = messages.parse_header(record.raw)
        except BagError:
            damaged += 1
            continue
        key = FrameKey(bag, place[0], stamp_ns if stamp_ns > 0 else record.log_ns,
                       repeats[record.topic, stamp_ns, record.log_ns if stamp_ns <= 0 else 0])
        repeats[record.topic, stamp_ns, record.log_ns if stamp_ns <= 0 else 0] += 1
        yield key, record
    if damaged:
        problems.append(f'{bag}: {damaged} messages had an unreadable header and were left out')


def _parse(record: Record) -> Boxes | tuple[str, dict[str, str]]:
    if record.msgtype == typestore.DETECTION_ARRAY:
        _, _, boxes, scores, names = messages.parse_detection_array(record.raw)
        if len(names) > MAX_BOXES:
            raise BagError(f'{len(names)} detections on one frame, expected at most {MAX_BOXES}')
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise BagError('a box or score that is not finite')
        return Boxes(boxes, scores, names)
    try:
        message = typestore.deserialize(record.raw, record.msgtype)
    except Exception as error:  # the decoder's errors on hostile bytes are of many kinds
        raise BagError(f'not a {record.msgtype} message: {error}') from None
    facts = {item.key: item.value for status in message.status for item in status.values}
    return message.header.frame_id, facts
