# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Records hard frames from a thread of its own: whoever offers a frame never waits for the disk."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
import shutil
import threading
import time
from typing import Any

from kd_perception.bags.writer import BagWriter
from kd_perception.recording.frames import HardFrame, MIB, RecorderSettings
from kd_perception.recording.storage import RecordingFolder

DROP_REASONS = ('queue_full', 'rate', 'disk_full', 'total_full', 'stopped', 'write_error')
# A recording is completed at this age: it can be collected, and a power cut costs no more.
MAX_FILE_AGE_NS = 600 * 1_000_000_000
_WAKE_S = 1.0
_NS_PER_S = 1_000_000_000


def disk_free_bytes(folder: str) -> int:
    """Return the bytes that a process without privileges can still write there."""
    return shutil.disk_usage(folder).free


class HardFrameRecorder:
    """
    Records frames within the bounds of its settings. Thread-safe.

    Every offered frame is, in the end, counted once: as `written`, or under `dropped.<reason>`.

    :param clock: steady clock, nanoseconds.
    :param free_bytes: free space of the disk that holds a folder.
    :param open_bag, wall_s: see `RecordingFolder`.
    """

    def __init__(self, settings: RecorderSettings, clock: Callable[[], int] = time.monotonic_ns,
                 free_bytes: Callable[[str], int] = disk_free_bytes,
                 open_bag: Callable[..., Any] = BagWriter, wall_s: Callable[[], float] = time.time):
        """Create the recorder; the folder is not touched before the first frame is written."""
        self._settings, self._clock, self._free_bytes = settings, clock, free_bytes
        self._folder = RecordingFolder(
            settings.folder, settings.max_total_mib * MIB, settings.max_file_mib * MIB, open_bag, wall_s)
        self._interval_ns = _NS_PER_S / settings.max_rate_hz
        self._condition = threading.Condition()
        # Guarded by the condition:
        self._queue: deque[HardFrame] = deque()
        self._running = False
        self._thread: threading.Thread | None = None
        self._taken_ns: dict[str, int] = {}
        self._offered = self._written = self._bytes = self._stored_bytes = 0
        self._dropped: Counter[str] = Counter()
        self._problem = ''
        # The thread's own:
        self._file_since_ns: int | None = None
        self._disk_full = False

    def start(self) -> None:
        """Start the thread; harmless while it runs. A recorder that was stopped may be started again."""
        with self._condition:
            if self._running:
                return
            before, self._running = self._thread, True
            # A daemon: a hung disk must not keep a process alive that was told to end.
            self._thread = threading.Thread(
                target=self._run, args=(before,), name='kd_perception_recorder', daemon=True)
            self._thread.start()

    def offer(self, frame: HardFrame) -> bool:
        """
        Hand a frame over; never blocks on the disk and never raises.

        :return: whether it waits to be written; False: it is dropped and counted.
        """
        now_ns = self._clock()
        with self._condition:
            self._offered += 1
            since_ns = now_ns - self._taken_ns.get(frame.camera, now_ns)
            reason = ''
            if not self._running:
                reason = 'stopped'
            elif frame.camera in self._taken_ns and 0 <= since_ns < self._interval_ns:
                reason = 'rate'
            elif len(self._queue) >= self._settings.queue_frames:
                reason = 'queue_full'
            if reason:
                self._dropped[reason] += 1
                return False
            self._taken_ns[frame.camera] = now_ns
            self._queue.append(frame)
            self._condition.notify_all()
            return True

    def stop(self, timeout_s: float) -> bool:
        """
        Write what waits, complete the recording and end the thread.

        :param timeout_s: what still waits after that is dropped.
        :return: whether the thread has ended.
        """
        with self._condition:
            self._running = False
            thread = self._thread
            self._condition.notify_all()
        if thread is None:
            return True
        thread.join(timeout_s)
        with self._condition:
            self._dropped['stopped'] += len(self._queue)
            self._queue.clear()
        return not thread.is_alive()

    def counts(self) -> Mapping[str, int]:
        """
        Return what was done since the recorder was made.

        `offered`, `written` and `waiting` frames, `dropped.<reason>` for each reason; `bytes` of messages
        that were written; recordings completed (`files`) and removed to make room (`deleted_files`);
        `stored_bytes` that the recordings take on the disk now. The frames of a recording that had to be
        abandoned move from `written` to `dropped.write_error`. offered = written + all dropped + waiting, but
        for one frame in work.
        """
        with self._condition:
            return {
                'offered': self._offered, 'written': self._written, 'waiting': len(self._queue),
                'bytes': self._bytes, 'files': self._folder.finished,
                'deleted_files': self._folder.deleted, 'stored_bytes': self._stored_bytes,
                **{f'dropped.{reason}': self._dropped[reason] for reason in DROP_REASONS}}

    def problem(self) -> str:
        """Return why frames are not recorded now, on one line; empty while all is well."""
        with self._condition:
            return self._problem

    def _run(self, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()   # it may hang on the disk still, and there is one writer at a time
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or not self._running, _WAKE_S)
                frame = self._queue.popleft() if self._queue else None
                running = self._running
            if frame is not None:
                self._guard(self._record, frame)
            elif running:
                self._guard(self._idle, None)
            else:
                self._guard(self._end, None)
                return
            del frame   # do not keep the last image alive while waiting for the next

    def _guard(self, work: Callable[[Any], None], frame: HardFrame | None) -> None:
        """Do a piece of work; whatever it raises costs the open recording, never the thread."""
        try:
            work(frame)
        except Exception as error:
            lost = self._folder.abandon()
            self._file_since_ns = None
            with self._condition:
                self._written -= lost
                self._dropped['write_error'] += lost + (frame is not None)
                self._problem = ' '.join(str(error).split())[:300] or type(error).__name__
        with self._condition:
            self._stored_bytes = self._folder.stored_bytes

    def _record(self, frame: HardFrame) -> None:
        self._folder.open()
        self._finish_if_old()
        found = frame.messages(self._settings.jpeg_quality)
        size = sum(len(raw) for _, _, raw in found)
        if not self._has_space(size):
            self._finish()
            self._drop('disk_full')
            return
        done_before = self._folder.finished
        if not self._folder.write(found, max(0, frame.stamp_ns)):
            self._drop('total_full', f'{self._settings.folder}: a frame of {size / MIB:.3g} MiB does not fit '
                                     f'max_total_mib {self._settings.max_total_mib:g}')
            return
        if self._file_since_ns is None or self._folder.finished != done_before:
            self._file_since_ns = self._clock()
        with self._condition:
            self._written += 1
            self._bytes += size
            self._problem = ''

    def _idle(self, _: None) -> None:
        self._finish_if_old()
        if self._disk_full:
            self._has_space(0)

    def _end(self, _: None) -> None:
        try:
            self._finish()
        finally:
            self._folder.release()

    def _has_space(self, size: int) -> bool:
        """Tell whether the disk may take `size` bytes more, and keep the problem up to date."""
        free = self._free_bytes(self._settings.folder) - size
        was, self._disk_full = self._disk_full, free < self._settings.min_free_mib * MIB
        with self._condition:
            if self._disk_full:
                self._problem = (f'{self._settings.folder}: {max(0, free) / MIB:.0f} MiB free, nothing is '
                                 f'recorded below min_free_mib {self._settings.min_free_mib:g}')
            elif was:
                self._problem = ''
        return not self._disk_full

    def _finish_if_old(self) -> None:
        since_ns = self._file_since_ns
        if since_ns is not None and self._clock() - since_ns >= MAX_FILE_AGE_NS:
            self._finish()

    def _finish(self) -> None:
        self._folder.finish()
        self._file_since_ns = None

    def _drop(self, reason: str, problem: str = '') -> None:
        with self._condition:
            self._dropped[reason] += 1
            self._problem = problem or self._problem
