# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The windowed tests: as many false alarms as allowed, also on correlated frames; alarms on changes."""
import dataclasses

import numpy as np
import pytest

from drift_world import correlated, frames_of, reference_of
from kd_perception.drift.monitor import Alarm, DriftSettings, DriftTests

# So many alarms are allowed that a few minutes show them.
SETTINGS = DriftSettings(window=300, false_alarms_per_hour=120)
FRAMES, ALLOWED = 4500, 15


def monitor_of(reference, settings=SETTINGS):
    return DriftTests(reference, reference.select(), settings)


def alarms_in(tests, values):
    """Return the alarms raised by a stream of the one quantity."""
    for value in 100 + 10 * values:
        tests.update({'luminance': float(value)})
    return sum(alarm.raised for alarm in tests.alarms.values())


@pytest.mark.parametrize('time, scene_frames', [(0, 1), (8, 20)])
def test_false_alarms_stay_within_the_budget(time, scene_frames):
    rng = np.random.default_rng(time)
    reference = reference_of(frames_of(correlated(4000, time, rng)), scene_frames)
    assert alarms_in(monitor_of(reference), correlated(FRAMES, time, rng)) <= ALLOWED


def test_taken_as_independent_correlated_frames_would_cry_wolf():
    """The same stream against thresholds that do not know of the correlation: the test above can fail."""
    rng = np.random.default_rng(8)
    reference = reference_of(frames_of(correlated(4000, 8, rng)), 20)
    naive = dataclasses.replace(reference, scene_frames=1, quantities=tuple(
        dataclasses.replace(q, scenes=4000, independent=4000.0) for q in reference.quantities))
    assert alarms_in(monitor_of(naive), correlated(FRAMES // 2, 8, rng)) > ALLOWED


@pytest.fixture(scope='module')
def reference():
    """A reference of independent frames, with two boxes each."""
    rng = np.random.default_rng(1)
    return reference_of(frames_of(rng.normal(size=2000), rng.random((2000, 2))), 4)


@pytest.mark.parametrize('shift, scale, expected', [
    (3.0, 1.0, {'ks', 'psi', 'tails'}), (1.0, 1.0, {'ks', 'psi'}), (0.0, 0.1, {'ks', 'psi'})])
def test_changes_of_place_and_of_spread_are_seen_by_what_should_see_them(reference, shift, scale, expected):
    tests, rng = monitor_of(reference, DriftSettings(window=300)), np.random.default_rng(2)
    for frame in frames_of(rng.normal(size=600), rng.random((600, 2))):
        tests.update(frame)
    assert not any(alarm.active for alarm in tests.alarms.values())
    for frame in frames_of(shift + scale * rng.normal(size=300), rng.random((300, 2))):
        tests.update(frame)
    active = {name for name, alarm in tests.alarms.items() if alarm.active}
    assert active == {f'luminance.{test}' for test in expected}, 'and the boxes have not changed'


def test_an_alarm_ends_when_the_frames_are_as_before(reference):
    tests, rng = monitor_of(reference, DriftSettings(window=300)), np.random.default_rng(3)
    for shift, frames in ((4.0, 300), (0.0, 3000)):
        for frame in frames_of(shift + rng.normal(size=frames)):
            tests.update(frame)
        assert any(alarm.active for alarm in tests.alarms.values()) == bool(shift)
    assert sum(alarm.raised for alarm in tests.alarms.values()) == 3


def test_gross_changes_are_seen_before_the_window_is_full_of_them(reference):
    tests, rng = monitor_of(reference, DriftSettings(window=2000)), np.random.default_rng(4)
    for frame in frames_of(rng.normal(size=2000)):
        tests.update(frame)
    for number, frame in enumerate(frames_of(4 + rng.normal(size=1000))):
        tests.update(frame)
        if any(alarm.active for alarm in tests.alarms.values()):
            break
    assert number < 200


def test_unknown_values_and_quiet_roads_are_no_drift(reference):
    """Fewer boxes of the same kind, none at all, and values that are not known."""
    tests, rng = monitor_of(reference), np.random.default_rng(5)
    for i in range(600):
        tests.update({'luminance': float('nan'), 'height': rng.random(int(i % 5 == 0))})
    for _ in range(600):
        tests.update({'height': np.array([np.nan, np.inf])})
    for _ in range(600):
        tests.update({})
    assert not any(alarm.raised for alarm in tests.alarms.values())


def test_the_window_holds_exactly_its_last_frames(reference):
    """The running sums are those of the last rows, after any number of frames; the newest reset forgets."""
    tests, rng = monitor_of(reference, DriftSettings(window=50)), np.random.default_rng(6)
    rows = [tests.bin(frame) for frame in frames_of(rng.normal(size=173), rng.random((173, 3)))]
    for row in rows:
        tests.add(row)
    assert np.array_equal(tests._sums, np.sum(rows[-50:], axis=0, dtype=np.int64))
    tests.reset()
    assert tests.frames == 0 and not tests._sums.any()


def test_hysteresis_of_an_alarm():
    alarm = Alarm('a')
    states = []
    for statistic in (0.9, 1.0, 0.9, 0.81, 0.79, 0.9, 1.1):
        alarm.update(statistic, 1.0)
        states.append(alarm.active)
    assert states == [False, True, True, True, False, False, True] and alarm.raised == 2


@pytest.mark.parametrize('bad', [{'window': 5}, {'window': 10**6}, {'false_alarms_per_hour': 0.0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match='must be in'):
        DriftSettings(**bad)
