# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Hand-over of the newest frame of each camera to one worker: slots, not a queue. Free of ROS."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
import threading
from typing import Any


class Mailbox:
    """
    One slot a camera; a newer frame replaces the one that waits, so that age never builds up.

    `take` serves the cameras in turn, beginning behind the one served last: a fast camera cannot starve a
    slow one. Thread-safe, for any number of producers and consumers.
    """

    def __init__(self, cameras: Sequence[Hashable]):
        """Open an empty mailbox."""
        self._cameras = tuple(cameras)
        self._slots: dict[Hashable, Any] = {}
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
            count = len(self._cameras)
            for offset in range(count):
                index = (self._next + offset) % count
                camera = self._cameras[index]
                if camera in self._slots:
                    self._next = (index + 1) % count
                    return camera, self._slots.pop(camera)
        raise AssertionError('a slot holds a frame of no camera')

    def close(self) -> list[tuple[Hashable, Any]]:
        """Wake the consumers for good and return the frames that still waited."""
        with self._condition:
            self._closed = True
            left = list(self._slots.items())
            self._slots.clear()
            self._condition.notify_all()
            return left
