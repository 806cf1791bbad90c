# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Streams out of few frames, and what is counted on them."""
import itertools

import numpy as np
import pytest

from kd_perception.drift.fallback_drift import Audit
from kd_perception.drift.monitor import DriftSettings
from kd_perception.drift.reference import build_reference
from kd_perception.evaluation.drift.frames import MeasuredFrames
from kd_perception.evaluation.drift.replay import (
    delays,
    false_alarms,
    monitor_of,
    poisson_interval,
    ReplaySettings,
    SceneStream,
)


def measured(rng, frames=60, shift=0.0, disagreed=1):
    """Return lone pictures."""
    return MeasuredFrames(
        [{'luminance': float(rng.normal() + shift), 'ambiguity.signals': float(rng.random())}
         for _ in range(frames)], list(range(frames)), [Audit(disagreed, 4, 0, 4)] * frames)


def test_a_stream_keeps_scenes_together_and_draws_all_of_them():
    stream = SceneStream([0] * 5 + [1, 2], 3, np.random.default_rng(0))
    found = list(itertools.islice(stream, 3000))
    scenes = [found[i:i + 3] for i in range(0, 3000, 3)]
    assert all(len(set(scene)) == 1 if scene[0] > 4 else all(
        abs(a - b) <= 1 and max(a, b) < 5 for a, b in zip(scene, scene[1:])) for scene in scenes)
    # Two scenes of the drive, and one of each picture.
    share = np.mean([scene[0] <= 4 for scene in scenes])
    assert set(found) == set(range(7)) and share == pytest.approx(0.5, abs=0.06)
    assert list(itertools.islice(SceneStream([0, 0], 9, np.random.default_rng(1)), 9)) in (
        [0, 1, 1, 0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 0, 0, 1, 1, 0])


@pytest.fixture(scope='module')
def world():
    """Unchanged and changed frames, and the reference of others."""
    rng = np.random.default_rng(0)
    other = measured(rng, 200)
    reference = build_reference(other.values, other.drives, 5, 10.0, other.disagreements)
    return reference, measured(rng), measured(rng, shift=5.0, disagreed=4)


def test_unchanged_frames_raise_none_and_changed_ones_do(world):
    reference, unchanged, changed = world
    settings = DriftSettings(window=200)
    replay = ReplaySettings(hours=0.02, runs=2, limit=400, audit_share=0.1)
    quiet = false_alarms(unchanged, reference, settings, replay, 'signals')
    assert quiet['frames'] == 720 and quiet['alarms'] == 0 and quiet['tests'] == 9
    assert quiet['allowed_per_hour'] == pytest.approx(0.2)
    loud = false_alarms(changed, reference, settings, replay, 'signals')
    assert {'luminance.ks', 'luminance.tails', 'disagreement.cusum'} <= set(loud['alarms_by_test'])
    found = delays(unchanged, changed, reference, settings, replay, 'signals')
    assert found['runs_alarmed_before'] == 0
    delay = found['delays']
    assert delay['any']['alarmed'] == delay['ks']['alarmed'] == delay['luminance.ks']['alarmed'] == 2
    assert 0 < delay['any']['p10'] <= delay['any']['median'] <= delay['any']['p90'] <= 400
    assert delay['any']['median'] <= min(delay[name]['median'] for name in ('ks', 'psi', 'tails'))
    assert delay['ambiguity.signals.ks'] == {'alarmed': 0, 'median': None, 'p10': None, 'p90': None,
                                             'alarmed_share_ci95': delay['ambiguity']['alarmed_share_ci95']}
    one = ReplaySettings(runs=1, limit=100)
    assert delays(unchanged, changed, reference, settings, one, 'signals') == delays(
        unchanged, changed, reference, settings, one, 'signals'), 'the same seed, the same figures'


def test_names_and_intervals():
    assert [monitor_of(name) for name in (
        'luminance.ks', 'score.Car.psi', 'ambiguity.signals.tails', 'fallback.more', 'disagreement.cusum')
    ] == ['ks', 'psi', 'ambiguity', 'fallback', 'disagreement']
    # Garwood, Biometrika 28 (1936).
    assert poisson_interval(0) == pytest.approx((0, 3.689), rel=0.02)
    assert poisson_interval(5) == pytest.approx((1.623, 11.668), rel=0.02)
