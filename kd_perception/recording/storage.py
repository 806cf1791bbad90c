# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A folder of recordings that never outgrows its bound: hard_<utc time>_<number>, each a rosbag2 folder.

A folder with its metadata.yaml, and not a bare .mcap file, since `ros2 bag play`, Foxglove and rosbags all
open it as it is; to rotate a recording is to remove its folder. One is written beside its place under a
hidden name (`.hard_<...>.<random>`) and moved when it is complete: whatever has the name is whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
import re
import shutil
import time
from typing import Any, IO

from kd_perception.bags.writer import BagWriter
from kd_perception.errors import BagError
from kd_perception.files import sync_path, take_lock

_DONE = re.compile(r'hard_\d{8}T\d{6}Z_(\d{6,})')
_UNFINISHED = re.compile(r'\.(hard_\d{8}T\d{6}Z_(\d{6,}))\.[a-z0-9_]{8}')
_LOCK = '.hard_frames.lock'
# What a recording holds beside its messages: definitions twice (6 KiB measured), a topic's channels and
# metadata (2.2 KiB), a message's record and index (47 bytes). Rounded up: the bound on the total rests on it.
_FILE_BYTES, _TOPIC_BYTES, _MESSAGE_BYTES = 24 << 10, 4 << 10, 64

Messages = Sequence[tuple[str, str, bytes]]


class RecordingFolder:
    """
    The recordings of one recorder; used from one thread.

    :param max_total: bytes on disk of all recordings, the open one included. :param max_file: of one.
    :param open_bag: makes a writer of a path; a seam for tests.
    :param wall_s: seconds since the epoch, for names alone; numbers, not times, decide which is the oldest.
    :ivar deleted: recordings removed to make room. :ivar finished: recordings completed.
    :raises BagError: as `open` says.
    """

    def __init__(self, folder: str, max_total: float, max_file: float,
                 open_bag: Callable[[Path], Any] = BagWriter, wall_s: Callable[[], float] = time.time):
        self._folder, self._max_total, self._max_file = Path(folder), max_total, max_file
        self._open_bag, self._wall_s = open_bag, wall_s
        self._lock_file: IO[str] | None = None
        self._done: OrderedDict[str, int] = OrderedDict()     # name -> bytes, oldest first
        self._number = 0
        self._writer: Any = None
        self._topics: set[str] = set()
        self._open_bytes = 0
        self.open_frames = 0
        self.deleted = self.finished = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk of all recordings; of the open one an upper bound."""
        return sum(self._done.values()) + self._open_bytes

    def open(self) -> None:
        """
        Take the folder: lock it, list what is there, put what a crash has left in its place.

        :raises BagError: it cannot be made or written, or another recorder has it.
        """
        if self._lock_file is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = take_lock(self._folder / _LOCK)
        except OSError as error:
            raise BagError(f'{self._folder}: cannot be written: {error.strerror or error}') from None
        if self._lock_file is None:
            raise BagError(f'{self._folder}: another recorder writes here; give each its own folder')
        try:
            self._take_stock()
        except OSError as error:
            self.release()
            raise BagError(f'{self._folder}: cannot be read: {error.strerror or error}') from None

    def release(self) -> None:
        """Give the folder back; an open recording must be finished or abandoned before."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def write(self, messages: Messages, stamp_ns: int) -> bool:
        """
        Write one frame, after making room for it.

        :param stamp_ns: log time of all messages, at least 0.
        :return: False where the frame does not fit the total however much is removed.
        :raises BagError: writing failed; call `abandon`.
        """
        if self._writer is not None and self._open_bytes + self._needed(messages) > self._max_file:
            self.finish()
        if not self._make_room(messages):
            return False
        needed = self._needed(messages)
        if self._writer is None:
            self._number += 1
            moment = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self._wall_s()))
            self._writer = self._open_bag(self._folder / f'hard_{moment}_{self._number:06d}')
        # Counted before it is written: what fails half-way lies on the disk too.
        self._open_bytes += needed
        self._topics.update(topic for topic, _, _ in messages)
        for topic, kind, raw in messages:
            self._writer.write_raw(topic, kind, raw, stamp_ns)
        self.open_frames += 1
        return True

    def finish(self) -> None:
        """
        Complete the open recording, if there is one.

        :raises BagError: that failed; call `abandon`.
        """
        if self._writer is None:
            return
        self._writer.close()
        path = self._writer.path
        self._forget()
        self.finished += 1
        try:
            # Without it, a power cut can leave a complete name with no content.
            _sync(path)
            self._done[path.name] = _size(path)
        except OSError as error:
            self._done[path.name] = 0
            raise BagError(f'{path}: cannot be written: {error}') from None

    def abandon(self) -> int:
        """Drop the open recording with all its frames; return how many whole ones it held."""
        writer, lost = self._writer, self.open_frames
        self._forget()
        if writer is not None:
            # On a full disk even closing a file fails, when its buffer is flushed.
            with suppress(OSError, BagError):
                writer.abort()
            for path in self._folder.glob(f'.{writer.path.name}.*'):
                shutil.rmtree(path, ignore_errors=True)
        return lost

    def _forget(self) -> None:
        self._writer, self._topics, self._open_bytes, self.open_frames = None, set(), 0, 0

    def _needed(self, messages: Messages) -> int:
        """Return an upper bound of the bytes that a frame adds to the open recording, or to a new one."""
        new = {topic for topic, _, _ in messages} - self._topics
        return (sum(len(raw) + _MESSAGE_BYTES for _, _, raw in messages)
                + sum(_TOPIC_BYTES + 8 * len(topic) for topic in new)
                + (_FILE_BYTES if self._writer is None else 0))

    def _make_room(self, messages: Messages) -> bool:
        """Remove the oldest recordings until a frame fits; nothing, if it cannot fit at all."""
        alone = sum(len(raw) + _MESSAGE_BYTES + _TOPIC_BYTES + 8 * len(topic) for topic, _, raw in messages)
        if alone + _FILE_BYTES > self._max_total:
            return False
        while self.stored_bytes + self._needed(messages) > self._max_total:
            if not self._delete_oldest():
                if self._writer is None:
                    return False
                self.finish()
        return True

    def _delete_oldest(self) -> bool:
        for name in list(self._done):
            if _remove(self._folder / name):
                del self._done[name]
                self.deleted += 1
                return True
        return False

    def _take_stock(self) -> None:
        for path in sorted(self._folder.iterdir()):
            match = _UNFINISHED.fullmatch(path.name)
            if match and path.is_dir() and not path.is_symlink():
                self._recover(path, match.group(1))
                self._number = max(self._number, int(match.group(2)))
        numbers = {}
        for path in self._folder.iterdir():
            match = _DONE.fullmatch(path.name)
            if match and path.is_dir() and not path.is_symlink():
                numbers[path.name] = int(match.group(1))
        names = sorted(numbers, key=lambda name: (numbers[name], name))
        self._done = OrderedDict((name, _size(self._folder / name)) for name in names)
        self._number = max([self._number, *numbers.values()])

    def _recover(self, path: Path, name: str) -> None:
        """Move what a crash has left to its place, without metadata.yaml; remove it where that is nothing."""
        inner, target = path / name, self._folder / name
        if inner.is_dir() and not target.exists() and any(
                item.suffix == '.mcap' and item.stat().st_size for item in inner.iterdir()):
            inner.replace(target)
        shutil.rmtree(path, ignore_errors=True)


def _size(path: Path) -> int:
    return sum(item.stat().st_size for item in path.iterdir() if item.is_file())


def _sync(path: Path) -> None:
    """Have the content of a recording, and then its name, reach the disk."""
    for item in [*path.iterdir(), path, path.parent]:
        sync_path(item)


def _remove(path: Path) -> bool:
    """Remove a recording: its own files and the folder, so that notes somebody left in it stay."""
    try:
        for item in (path / 'metadata.yaml', path / 'metadata.yaml.tmp', path / f'{path.name}.mcap'):
            item.unlink(missing_ok=True)
        with suppress(OSError):     # holds files of others, and is a recording no more
            path.rmdir()
        return True
    except OSError:
        return False
