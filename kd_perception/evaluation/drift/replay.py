# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Hours of driving out of few frames: drift monitors on measured frames, resampled scene by scene.

A stream is made of scenes drawn with replacement (the block bootstrap): each is a stretch of consecutive
frames of a drive, or one still picture that stands as long. What is correlated stays together, so that a
false alarm is as likely as the scenes allow; what a slow change of light over an hour does is not in it.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_perception.drift.change_tests import chi_squared_quantile, wilson_interval
from kd_perception.drift.fallback_drift import FallbackTests
from kd_perception.drift.monitor import Alarm, DriftSettings, DriftTests
from kd_perception.drift.quantities import AMBIGUITY
from kd_perception.drift.reference import DriftReference, scenes_of
from kd_perception.evaluation.drift.frames import MeasuredFrames

ANY = 'any'
PROGRESS_FRAMES = 1000
LOOK_FRAMES = 10        # the resolution of a delay; most tests are made more rarely


class SceneStream:
    """
    An endless stream of frame indices, in scenes of `scene_frames`.

    A stretch starts anywhere in a drive and goes on at its other end, backwards, where the drive is over.

    :param drives: number of each frame's drive, see `MeasuredFrames`.
    """

    def __init__(self, drives: Sequence[int], scene_frames: int, rng: np.random.Generator):
        self._scene_frames, self._rng = scene_frames, rng
        numbers = np.asarray(drives)
        # A drive is drawn as often as it has scenes.
        self._runs = [np.flatnonzero(numbers == numbers[scene[0]])
                      for scene in scenes_of(drives, scene_frames)]

    def __iter__(self) -> Iterator[int]:
        while True:
            run = self._runs[self._rng.integers(len(self._runs))]
            there_and_back = np.concatenate([run, run[::-1]])
            start = self._rng.integers(len(there_and_back))
            yield from there_and_back[(start + np.arange(self._scene_frames)) % len(there_and_back)].tolist()


@dataclass(frozen=True)
class ReplaySettings:
    """
    How streams are made.

    :ivar hours: of unchanged frames. :ivar runs: changes of each condition.
    :ivar limit: frames after a change that are waited for an alarm.
    :ivar scene_frames: of the streams; 0: the reference's.
    :ivar share, audit_share: of the fallback's gate.
    """

    hours: float = 4.0
    runs: int = 20
    limit: int = 9000
    scene_frames: int = 0
    seed: int = 0
    share: float = 0.2
    audit_share: float = 0.01


class _Monitors:
    """Detector's and fallback's tests over one stream, from frames that are binned once."""

    def __init__(self, reference: DriftReference, settings: DriftSettings, replay: ReplaySettings,
                 scorer: str, rng: np.random.Generator):
        self._rng, self._audit_share = rng, replay.audit_share
        self._detector = DriftTests(reference, reference.select(), settings)
        self._scorer = AMBIGUITY + scorer
        quantities = reference.select(scorer)
        self._fallback = FallbackTests(
            reference, quantities[0], settings, replay.share, replay.audit_share) if quantities else None
        self.alarms: dict[str, Alarm] = {
            **self._detector.alarms, **(self._fallback.alarms if self._fallback else {})}

    def binned(self, frames: MeasuredFrames) -> np.ndarray:
        return np.stack([self._detector.bin(values) for values in frames.values])

    def add(self, frames: MeasuredFrames, rows: np.ndarray, index: int) -> None:
        self._detector.add(rows[index])
        if self._fallback is None:
            return
        self._fallback.add(float(frames.values[index][self._scorer]))
        if self._rng.random() < self._audit_share:
            self._fallback.audited(frames.audits[index])

    def raised(self) -> dict[str, int]:
        return {name: alarm.raised for name, alarm in self.alarms.items()}

    def active(self) -> list[str]:
        return [name for name, alarm in self.alarms.items() if alarm.active]


def false_alarms(frames: MeasuredFrames, reference: DriftReference, settings: DriftSettings,
                 replay: ReplaySettings, scorer: str,
                 tick: Callable[[int], object] = lambda n: None) -> dict[str, Any]:
    """
    Count alarms on unchanged frames.

    :return: frames, hours at the reference's rate, alarms by test, of both components together, and the 95 %
        interval of their rate an hour.
    """
    rng = np.random.default_rng(replay.seed)
    monitors = _Monitors(reference, settings, replay, scorer, rng)
    rows = monitors.binned(frames)
    total = round(replay.hours * 3600 * reference.rate_hz)
    stream = iter(SceneStream(frames.drives, replay.scene_frames or reference.scene_frames, rng))
    for number in range(total):
        monitors.add(frames, rows, next(stream))
        if (number + 1) % PROGRESS_FRAMES == 0:
            tick(PROGRESS_FRAMES)
    raised = monitors.raised()
    alarms = sum(raised.values())
    low, high = poisson_interval(alarms)
    return {'frames': total, 'hours': total / 3600 / reference.rate_hz, 'alarms': alarms,
            'alarms_by_test': {name: count for name, count in raised.items() if count},
            'per_hour': alarms / replay.hours, 'per_hour_ci95': [low / replay.hours, high / replay.hours],
            'allowed_per_hour': settings.false_alarms_per_hour * (2 if reference.select(scorer) else 1),
            'tests': len(raised)}


def poisson_interval(count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson mean (Garwood 1936), to about 1 %."""
    low = chi_squared_quantile(0.025, 2 * count) / 2 if count else 0.0
    return low, chi_squared_quantile(0.975, 2 * count + 2) / 2


def delays(before: MeasuredFrames, after: MeasuredFrames, reference: DriftReference, settings: DriftSettings,
           replay: ReplaySettings, scorer: str,
           tick: Callable[[int], object] = lambda n: None) -> dict[str, Any]:
    """
    Measure how many frames after a change each test raises its first alarm.

    A run is a full window of unchanged frames, then changed ones up to the limit.

    :return: by test, by monitor (the tests of one kind) and for `any`: how often it raised an alarm, and the
        median, 10 % and 90 % of the delays in frames over all runs; None beyond the limit.
    """
    found: list[dict[str, int | None]] = []
    premature = 0
    for run in range(replay.runs):
        rng = np.random.default_rng((replay.seed, run))
        monitors = _Monitors(reference, settings, replay, scorer, rng)
        length = replay.scene_frames or reference.scene_frames
        first, then = (iter(SceneStream(frames.drives, length, rng)) for frames in (before, after))
        rows = [monitors.binned(frames) for frames in (before, after)]
        for _ in range(settings.window):
            monitors.add(before, rows[0], next(first))
        early = set(monitors.active())
        premature += bool(early)
        delay: dict[str, int | None] = dict.fromkeys(monitors.alarms)
        for number in range(1, replay.limit + 1):
            monitors.add(after, rows[1], next(then))
            if number % LOOK_FRAMES:
                continue
            for name, alarm in monitors.alarms.items():
                if delay[name] is None and alarm.active and name not in early:
                    delay[name] = number
        tick(1)
        found.append(delay)
    groups = {name: [name] for name in found[0]}
    for name in found[0]:
        groups.setdefault(monitor_of(name), []).append(name)
    groups[ANY] = list(found[0])
    return {'runs': replay.runs, 'limit': replay.limit, 'runs_alarmed_before': premature,
            'delays': {group: _summary([_first(delay, names) for delay in found])
                       for group, names in groups.items()}}


def monitor_of(test: str) -> str:
    """Return the monitor that a test belongs to: `luminance.ks` to `ks`; the fallback's are by themselves."""
    quantity, _, kind = test.rpartition('.')
    if quantity.startswith(AMBIGUITY.rstrip('.')):
        return 'ambiguity'
    return quantity if quantity in ('fallback', 'disagreement') else kind


def _first(delay: Mapping[str, int | None], names: Sequence[str]) -> int | None:
    known = [frame for frame in map(delay.get, names) if frame is not None]
    return min(known, default=None)


def _summary(values: Sequence[int | None]) -> dict[str, Any]:
    known = np.array([np.inf if value is None else value for value in values])
    alarmed = int(np.isfinite(known).sum())

    def quantile(q: float) -> int | None:
        # By rank: a delay beyond the limit is greater than all others, and has no number.
        value = np.sort(known)[min(len(known) - 1, int(q * len(known)))]
        return int(value) if np.isfinite(value) else None

    low, high = wilson_interval(alarmed / len(known), len(known))
    return {'alarmed': alarmed, 'alarmed_share_ci95': [low, high], 'median': quantile(0.5),
            'p10': quantile(0.1), 'p90': quantile(0.9)}
