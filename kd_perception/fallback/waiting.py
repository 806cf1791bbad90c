# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Frames that the teacher had no time for when they came: what it is asked next, of all its cameras.

Their outputs have left or will leave in time; nothing waits here but the question. The answer is carried
forward. A teacher that is slow, or that many cameras share, so loses no time between two frames and spends
it on those that are most worth it.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from kd_perception.fallback.steady import SteadyTime

# Two frames of a camera of 10 Hz: an older one says less of what comes than the next one will.
STALE_NS = 200_000_000


@dataclasses.dataclass(frozen=True)
class WaitingFrame:
    """One camera's frame that waits; `worth` as its scorer gave it, `since_ns` of the steady clock."""

    camera: str
    sequence: int
    worth: float
    since_ns: int


class WaitingFrames:
    """The best frame of each camera that waits for one teacher. Not thread-safe; one entry a camera."""

    def __init__(self, stale_ns: int = STALE_NS):
        """Start with none."""
        self._stale_ns = stale_ns
        self._time = SteadyTime()
        self._frames: dict[str, WaitingFrame] = {}
        self._asked: dict[str, int] = {}    # which question its last one was
        self._counts = dict.fromkeys(('offered', 'asked', 'stale', 'displaced'), 0)

    @property
    def counts(self) -> dict[str, int]:
        """Totals since the start: frames `offered`; of them `asked`, `stale`, `displaced` by another."""
        return dict(self._counts)

    def offer(self, camera: str, sequence: int, worth: float, now_ns: int) -> bool:
        """Take a frame; return whether it is its camera's best and is kept, in place of the one before."""
        since_ns = self._expire(now_ns)
        self._counts['offered'] += 1
        kept = self._frames.get(camera)
        if kept is not None:
            self._counts['displaced'] += 1
            if kept.worth > worth:
                return False
        self._frames[camera] = WaitingFrame(camera, sequence, worth, since_ns)
        return True

    def ask(self, now_ns: int, send: Callable[[WaitingFrame], bool]) -> bool:
        """
        Offer the frames to a teacher that is free, the most worth first.

        Of equals the camera that was asked about longest ago.

        :param send: asks about a frame; False: it cannot be asked about any more.
        :return: whether one was sent.
        """
        self._expire(now_ns)
        ordered = sorted(self._frames.values(), key=lambda f: (-f.worth, self._asked.get(f.camera, 0)))
        for frame in ordered:
            del self._frames[frame.camera]
            if send(frame):
                self._asked[frame.camera] = self._counts['asked'] + 1
                self._counts['asked'] += 1
                return True
        return False

    def _expire(self, now_ns: int) -> int:
        elapsed_ns = self._time.advance(now_ns)
        for frame in list(self._frames.values()):
            if elapsed_ns - frame.since_ns <= self._stale_ns:
                continue
            del self._frames[frame.camera]
            self._counts['stale'] += 1
        return elapsed_ns
