# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Sliding windows over the recent past: rates, latency percentiles and counts by reason.

Every window is bounded in time and in number, so that a flood of events costs no memory. The caller passes
the time (nanoseconds of a steady clock); nothing here reads a clock. Not thread-safe: the owner locks.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

_QUANTILES = np.array((0.5, 0.95, 0.99))


class RateWindow:
    """Events of the last `span_ns`, at most `capacity` of them."""

    def __init__(self, span_ns: int, capacity: int = 4096):
        self.span_ns = span_ns
        self._times_ns: deque[int] = deque(maxlen=capacity)

    def add(self, now_ns: int) -> None:
        """Count one event at `now_ns`."""
        self._times_ns.append(now_ns)

    def _expire(self, now_ns: int) -> None:
        while self._times_ns and now_ns - self._times_ns[0] > self.span_ns:
            self._times_ns.popleft()

    def count(self, now_ns: int) -> int:
        """Return the number of events in the window."""
        self._expire(now_ns)
        return len(self._times_ns)

    def rate_hz(self, now_ns: int) -> float:
        """
        Return the mean rate from the intervals between events; 0.0 for fewer than two events.

        The time since the last event counts once it exceeds the mean interval, so that the rate of a camera
        that stopped decays instead of standing still until the window is empty.
        """
        self._expire(now_ns)
        n = len(self._times_ns)
        if n < 2:
            return 0.0
        elapsed: float = self._times_ns[-1] - self._times_ns[0]
        if elapsed <= 0:
            return 0.0
        mean = elapsed / (n - 1)
        silent = now_ns - self._times_ns[-1]
        if silent > mean:
            elapsed += silent - mean
        return (n - 1) * 1e9 / elapsed

    def clear(self) -> None:
        """Forget all events."""
        self._times_ns.clear()


@dataclass(frozen=True)
class Summary:
    """Percentiles of a sample window in nanoseconds; all zero where `count` is 0."""

    count: int = 0
    p50_ns: float = 0.0
    p95_ns: float = 0.0
    p99_ns: float = 0.0
    max_ns: float = 0.0


class SampleWindow:
    """Durations of the last `span_ns`, at most the newest `capacity` of them."""

    def __init__(self, span_ns: int, capacity: int = 2048):
        self.span_ns = span_ns
        self._samples: deque[tuple[int, int]] = deque(maxlen=capacity)

    def add(self, now_ns: int, value_ns: int) -> None:
        """Keep one duration seen at `now_ns`; a negative one (a clock jumped) is kept as 0."""
        self._samples.append((now_ns, max(0, int(value_ns))))

    def summary(self, now_ns: int) -> Summary:
        """Return the percentiles of what the window holds now (linear interpolation, as numpy)."""
        while self._samples and now_ns - self._samples[0][0] > self.span_ns:
            self._samples.popleft()
        if not self._samples:
            return Summary()
        values = np.fromiter((v for _, v in self._samples), dtype=np.int64, count=len(self._samples))
        values.sort()
        # np.percentile takes several times as long; this runs for each stage of each camera in a callback.
        p50, p95, p99 = np.interp(_QUANTILES * (len(values) - 1), np.arange(len(values)), values)
        return Summary(len(values), float(p50), float(p95), float(p99), float(values[-1]))

    def clear(self) -> None:
        """Forget all samples."""
        self._samples.clear()


class ReasonCounter:
    """Counts by reason: totals since the start, and those of the last `span_ns`."""

    def __init__(self, span_ns: int, capacity: int = 4096):
        self._recent: dict[str, RateWindow] = {}
        self._totals: dict[str, int] = {}
        self._span_ns = span_ns
        self._capacity = capacity

    def add(self, now_ns: int, reason: str) -> None:
        """Count one event for `reason`; reasons are a small fixed set, never text from outside."""
        self._totals[reason] = self._totals.get(reason, 0) + 1
        if reason not in self._recent:
            self._recent[reason] = RateWindow(self._span_ns, self._capacity)
        self._recent[reason].add(now_ns)

    def totals(self) -> dict[str, int]:
        """Return the counts since the start, by reason in alphabetical order."""
        return dict(sorted(self._totals.items()))

    def recent(self, now_ns: int) -> dict[str, int]:
        """Return the counts of the window, without the reasons that have none."""
        counts = {reason: window.count(now_ns) for reason, window in sorted(self._recent.items())}
        return {reason: count for reason, count in counts.items() if count}

    def clear_recent(self) -> None:
        """Forget the window, keep the totals."""
        self._recent.clear()
