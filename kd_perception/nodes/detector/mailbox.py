# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Hand-over of the newest frame of each camera to one worker: slots, not a queue. Free of ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
import statistics
import threading
import time
from typing import Any

# With a slow model, a frame that is about to be replaced is the oldest that could be answered. It is worth
# waiting for its successor when that is due within this share of the camera's interval: a result is then at
# most 0.8 intervals older than transport and the model's own time make it.
PATIENCE = 0.2
# How much later than due a frame may come, as a share of the interval, before the old one is taken after all.
SLACK = 0.1
# Longer waits than this are not worth it, however slow the camera.
MAX_PATIENCE_NS = 50_000_000
_INTERVALS = 5


class Mailbox:
    """
    One slot a camera; a newer frame replaces the one that waits, so that age never builds up.

    `take` serves the cameras in turn, beginning behind the one served last: a fast camera cannot starve a
    slow one. Thread-safe, for any number of producers and one consumer.

    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, cameras: Sequence[Hashable], clock: Callable[[], int] = time.monotonic_ns):
        """Open an empty mailbox."""
        self._cameras = tuple(cameras)
        self._clock = clock
        self._slots: dict[Hashable, Any] = {}
        self._arrived_ns: dict[Hashable, int] = {}
        self._intervals_ns = {camera: deque(maxlen=_INTERVALS) for camera in self._cameras}
        self._next = 0
        self._closed = False
        self._condition = threading.Condition()

    def put(self, camera: Hashable, frame: Any) -> Any:
        """
        Leave a frame (not None).

        :return: the frame that is lost by it: the one that waited, or `frame` itself once closed; else None.
        :raises KeyError: the camera is not one of the mailbox.
        """
        if camera not in self._cameras:
            raise KeyError(camera)
        with self._condition:
            if self._closed:
                return frame
            now_ns = self._clock()
            if camera in self._arrived_ns:
                self._intervals_ns[camera].append(now_ns - self._arrived_ns[camera])
            self._arrived_ns[camera] = now_ns
            replaced = self._slots.get(camera)
            self._slots[camera] = frame
            self._condition.notify()
            return replaced

    def take(self, timeout_s: float | None = None) -> tuple[Hashable, Any] | None:
        """
        Wait for a frame.

        :return: (camera, frame), or None once the mailbox is closed or the time is over.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: self._slots or self._closed, timeout_s) or self._closed:
                return None
            if len(self._slots) == 1:
                (camera, frame), = self._slots.items()
                patience_s = self._patience_ns(camera) / 1e9
                if patience_s > 0:
                    self._condition.wait_for(
                        lambda: self._closed or len(self._slots) > 1 or self._slots[camera] is not frame,
                        patience_s)
                    if self._closed:
                        return None
            camera = self._turn()
            return camera, self._slots.pop(camera)

    def close(self) -> list[tuple[Hashable, Any]]:
        """Wake the consumer for good and return the frames that still waited."""
        with self._condition:
            self._closed = True
            left = list(self._slots.items())
            self._slots.clear()
            self._condition.notify_all()
            return left

    def _turn(self) -> Hashable:
        """Return the camera whose turn it is among those with a frame."""
        count = len(self._cameras)
        index = next(i % count for i in range(self._next, self._next + count)
                     if self._cameras[i % count] in self._slots)
        self._next = (index + 1) % count
        return self._cameras[index]

    def _patience_ns(self, camera: Hashable) -> float:
        """Return how long to wait for the successor of a camera's frame; 0 unless it is due any moment."""
        if len(self._intervals_ns[camera]) < _INTERVALS:
            return 0
        interval_ns = statistics.median(self._intervals_ns[camera])
        due_in_ns = self._arrived_ns[camera] + interval_ns - self._clock()
        slack_ns = SLACK * interval_ns
        if not -slack_ns < due_in_ns <= PATIENCE * interval_ns:
            return 0
        return min(due_in_ns + slack_ns, MAX_PATIENCE_NS)
