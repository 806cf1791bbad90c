# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What every source of camera frames has in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from kd_perception.errors import BagError
from kd_perception.images.compressed import orientation_of

NS_PER_S = 1_000_000_000
# Stamp 0 means "not set" in ROS, so that a made-up timeline begins at one second.
START_STAMP_NS = NS_PER_S
DEFAULT_CAMERA = 'camera'
DEFAULT_FPS = 10.0
_TURNED = 'images were turned upright, as their EXIF data say; boxes are those of the upright image'


@dataclasses.dataclass(frozen=True)
class Frame:
    """
    One image of one camera; its pixels are decoded only when asked for.

    :param camera: the camera's namespace without leading slash, for example `front`.
    :param stamp_ns: the header's stamp (bags), the time stamp on record (video, `timestamps.txt`), else made
        up from the frame rate.
    :param frame_id: the header's frame_id; the camera's name where the source has none.
    :param name: name for files made from this frame: the image's name without suffix, else a running number.
    :param index: position within its camera, from 0.
    :param log_ns: when it was recorded; equals `stamp_ns` outside bags.
    :param topic, msgtype, raw_cdr: the message as recorded; empty outside bags.
    """

    camera: str
    stamp_ns: int
    frame_id: str
    name: str
    index: int
    log_ns: int
    topic: str = ''
    msgtype: str = ''
    raw_cdr: bytes = dataclasses.field(default=b'', repr=False)
    _decode: Callable[[], np.ndarray] | None = dataclasses.field(default=None, repr=False, compare=False)
    _encoded: Callable[[], tuple] | None = dataclasses.field(default=None, repr=False, compare=False)

    def decode(self) -> np.ndarray:
        """
        Return the image, (H, W, 3) uint8 BGR; treat it as read-only.

        :raises ImageError: it cannot be decoded.
        """
        if self._decode is None:
            raise ValueError(f'{self.name}: a frame without a decoder')
        return self._decode()

    def encoded(self) -> tuple[bytes, str] | None:
        """Return (data, `jpeg` or `png`) where the source holds the image compressed, else None."""
        return self._encoded() if self._encoded else None


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera of a source: name, topic and type in a bag (else empty), frames if known (else None)."""

    name: str
    topic: str = ''
    msgtype: str = ''
    count: int | None = None


class FrameSource:
    """
    Frames of one or more cameras in stamp order; can be iterated more than once. A context manager.

    :ivar path: where the frames come from.
    :ivar kind: `folder`, `video` or `bag`.
    :ivar cameras: tuple of `Camera`.
    :ivar problems: one line for each thing that was missing or made up; complete after an iteration.
    :ivar lost: frames known to be missing; None where that cannot be known.
    """

    kind = ''

    def __init__(self, path: Path):
        self.path = path
        self.cameras: tuple[Camera, ...] = ()
        self.problems: list[str] = []
        self.lost: int | None = 0
        self._turned: set = set()

    @property
    def frame_count(self) -> int | None:
        """Frames of all cameras, None if unknown; an estimate for video."""
        counts = [camera.count for camera in self.cameras]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames."""
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Release files; harmless when called twice."""

    def note_orientation(self, key, encoded) -> None:
        """Remember an encoded image that does not lie upright; `key` tells it from others."""
        if orientation_of(encoded) != 1:
            self._turned.add(key)

    def note_turned(self) -> None:
        """Say how many images were turned upright."""
        if self._turned:
            self.problems = [line for line in self.problems if not line.endswith(_TURNED)]
            self.note(f'{len(self._turned)} {_TURNED}')

    def note(self, problem: str) -> None:
        """Keep a problem once, however often the source is iterated."""
        if problem not in self.problems:
            self.problems.append(problem)


def one_camera(cameras, path) -> str:
    """
    Return the name for the only camera of a folder or video.

    :raises BagError: more than one was asked for, or the name is empty.
    """
    if not cameras:
        return DEFAULT_CAMERA
    if len(cameras) > 1:
        raise BagError(f'{path}: holds one camera, {len(cameras)} were asked for ({", ".join(cameras)})')
    name = cameras[0].strip('/')
    if not name:
        raise BagError(f'{path}: a camera needs a name')
    return name


def folder_names(cameras: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """
    Name a folder for each camera, all different, on file systems that ignore case too.

    `/` becomes `_`; where that makes two names one, a few digits that the camera's own name gives are added.

    :param taken: names that are in use for something else.
    """
    names = list(dict.fromkeys(cameras))
    plain = {name: name.replace('/', '_') for name in names}
    counts = Counter(text.casefold() for text in (*plain.values(), *taken))
    found = {}
    for name, text in plain.items():
        if counts[text.casefold()] > 1 or not text.strip('.'):
            text += '_' + hashlib.sha256(name.encode()).hexdigest()[:6]
        found[name] = text
    return found
