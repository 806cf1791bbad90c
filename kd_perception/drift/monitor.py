# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Windowed drift tests over a camera's frames, with one budget of false alarms for all of them together.

Three tests a quantity: Kolmogorov-Smirnov and population stability index over the last `window` frames, and
a CUSUM on the share of samples in the reference's outer deciles, which finds gross changes before a window is
full of them. All thresholds follow from the budget by the union bound: K tests that are made E times an hour
each get a level of budget / (K E), whatever their correlation with one another.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from kd_perception.drift.change_tests import (
    Cusum,
    cusum_threshold,
    ks_statistic,
    ks_threshold,
    psi_statistic,
    psi_threshold,
    wilson_interval,
)
from kd_perception.drift.quantities import finite, Values
from kd_perception.drift.reference import DriftReference, QuantityReference

KS, PSI, TAILS = 'ks', 'psi', 'tails'
STEPS_A_WINDOW = 10         # the windowed tests are made so often while a window goes by
LEAVE_SHARE = 0.8           # an alarm ends below this share of its threshold
MIN_INDEPENDENT = 4.0       # with fewer independent samples in the window neither test can say anything
TAILS_SOUGHT = 0.9          # share of samples in the outer deciles that the CUSUM is to find soonest
BOUND = 0.9                 # the reference's own shares are known to within an interval of this confidence


@dataclasses.dataclass(frozen=True)
class DriftSettings:
    """
    What a user may tune.

    :param window: frames that the windowed tests look back.
    :param false_alarms_per_hour: greatest mean number of alarms of one component while nothing has changed,
        at the reference's frame rate.
    """

    enabled: bool = True
    window: int = 1800
    false_alarms_per_hour: float = 0.1

    def __post_init__(self):
        """Check ranges."""
        if not 10 <= self.window <= 100_000:
            raise ValueError('window must be in 10..100000 frames')
        if not 0 < self.false_alarms_per_hour <= 1000:
            raise ValueError('false_alarms_per_hour must be in (0, 1000]')


@dataclasses.dataclass
class Alarm:
    """
    One test's statistic and its threshold; active from the threshold on, until below `LEAVE_SHARE` of it.

    :ivar raised: how often it became active.
    """

    name: str
    threshold: float = float('inf')
    statistic: float = 0.0
    active: bool = False
    raised: int = 0

    def update(self, statistic: float, threshold: float) -> None:
        """Take the statistic, and the threshold that belongs to it."""
        self.statistic, self.threshold = statistic, threshold
        if not self.active and statistic >= threshold:
            self.active = True
            self.raised += 1
        elif self.active and statistic < LEAVE_SHARE * threshold:
            self.active = False


class DriftTests:
    """
    The tests of one camera. Not thread-safe; memory: `window` times some ten bytes a quantity.

    :param extra: tests besides these that share the budget.
    :raises ValueError: no quantity.
    """

    def __init__(self, reference: DriftReference, quantities: Sequence[QuantityReference],
                 settings: DriftSettings, extra: int = 0):
        """Start with an empty window."""
        if not quantities:
            raise ValueError('expected at least one quantity')
        self.reference, self.settings = reference, settings
        self._quantities = tuple(quantities)
        self._edges = [np.array(q.edges) for q in quantities]
        self._shares = [np.array(q.shares) / sum(q.shares) for q in quantities]
        ends = np.cumsum([len(q.shares) for q in quantities]).tolist()
        self._slices = [slice(end - len(q.shares), end) for q, end in zip(quantities, ends)]
        self._ring = np.zeros((settings.window, ends[-1]), dtype=np.uint8)
        self._sums = np.zeros(ends[-1], dtype=np.int64)
        self.frames = 0
        self._step = max(1, settings.window // STEPS_A_WINDOW)
        per_hour = 3600 * reference.rate_hz
        # Every test has the same part of the budget.
        self.budget = settings.false_alarms_per_hour / (3 * len(quantities) + extra)
        self._alpha = min(0.5, self.budget / (per_hour / self._step))
        self.frames_per_alarm = per_hour / self.budget
        self.alarms = {f'{q.name}.{test}': Alarm(f'{q.name}.{test}')
                       for q in quantities for test in (KS, PSI)}
        self._tails: list[tuple[int, Cusum, Alarm]] = []
        for i, q in enumerate(quantities):
            p0 = wilson_interval(self._shares[i][0] + self._shares[i][-1], q.independent, BOUND)[1]
            # With few distinct values the outer bins are no tails.
            if p0 < 0.5 * TAILS_SOUGHT:
                alarm = self.alarms[f'{q.name}.{TAILS}'] = Alarm(f'{q.name}.{TAILS}')
                self._tails.append((i, self.cusum(p0, TAILS_SOUGHT), alarm))

    def cusum(self, p0: float, p1: float) -> Cusum:
        """Return a CUSUM over frames with a test's part of the budget."""
        correlated = self.reference.scene_frames
        return Cusum(p0, p1, correlated, cusum_threshold(self.frames_per_alarm, correlated))

    def reset(self) -> None:
        """Forget all frames."""
        self._ring[:] = 0
        self._sums[:] = 0
        self.frames = 0
        for alarm in self.alarms.values():
            alarm.active, alarm.statistic = False, 0.0
        for _, cusum, _ in self._tails:
            cusum.value = 0.0

    def bin(self, values: Values) -> np.ndarray:
        """Return a frame's histograms, one behind the other, uint8; a missing quantity has no samples."""
        row = np.zeros(self._ring.shape[1], dtype=np.uint8)
        for q, edges, part in zip(self._quantities, self._edges, self._slices):
            samples = values.get(q.name)
            if samples is None:
                continue
            if isinstance(samples, float):
                if samples == samples:
                    row[part.start + edges.searchsorted(samples)] = 1
                continue
            samples = finite(samples)
            if len(samples):
                counts = np.bincount(edges.searchsorted(samples), minlength=len(edges) + 1)
                row[part] = np.minimum(counts, 255)
        return row

    def update(self, values: Values) -> None:
        """Take the next frame; see `drift_quantities`."""
        self.add(self.bin(values))

    def add(self, row: np.ndarray) -> None:
        """Take the next frame, binned."""
        place = self.frames % len(self._ring)
        self._sums += row
        self._sums -= self._ring[place]
        self._ring[place] = row
        self.frames += 1
        for i, cusum, alarm in self._tails:
            part = row[self._slices[i]]
            count = int(part.sum())
            if count:
                cusum.add((int(part[0]) + int(part[-1])) / count)
                alarm.update(cusum.value, cusum.threshold)
        if self.frames % self._step == 0:
            self._test()

    def _test(self) -> None:
        frames = min(self.frames, len(self._ring))
        scenes = frames / self.reference.scene_frames
        for q, shares, part in zip(self._quantities, self._shares, self._slices):
            counts = self._sums[part]
            total = counts.sum()
            # A quiet camera has fewer boxes than the reference, and knows less of them.
            n = scenes / q.scenes * q.independent * min(1.0, total / (frames * q.per_frame))
            ks, psi = self.alarms[f'{q.name}.{KS}'], self.alarms[f'{q.name}.{PSI}']
            if n < MIN_INDEPENDENT:
                ks.update(0.0, float('inf'))
                psi.update(0.0, float('inf'))
                continue
            found, m = counts / total, q.independent
            ks.update(ks_statistic(found, shares), ks_threshold(self._alpha, n, m))
            psi.update(psi_statistic(found, shares, n, m), psi_threshold(self._alpha, n, m, len(shares)))
