# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Single signals and their combination."""

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.scores import CLEAR, DEFAULT_WEIGHTS, SIGNALS, SignalScorer
from kd_perception.images.scene import SceneSignals

GOOD_SCENE = SceneSignals(110.0, 50.0, 0.05, 0.01, 800.0)


def frame(*scores, scene=GOOD_SCENE):
    boxes = [(10 + 40 * i, 40, 40 + 40 * i, 70) for i in range(len(scores))]
    found = Detections(np.array(boxes).reshape(-1, 4), np.array(scores), np.zeros(len(scores)))
    return FeatureExtractor(FeatureSettings(), ('Car',)).extract(found, 0, (375, 1242), scene)


@pytest.mark.parametrize('name', sorted(SIGNALS))
@pytest.mark.parametrize('features', [frame(), frame(scene=None), frame(0.9, 0.5, 0.2), frame(*[0.3] * 12)])
def test_all_signals_are_in_zero_to_one(name, features):
    assert 0 <= SIGNALS[name](features) <= 1


@pytest.mark.parametrize('name,calm,worse', [
    ('empty', frame(0.9), frame(0.3)),
    ('band', frame(0.9, 0.1), frame(0.9, 0.5)),
    ('near_miss', frame(0.9, 0.1), frame(0.9, 0.3)),
    ('rejected', frame(0.9, 0.1), frame(0.9, 0.1, 0.1)),
    ('doubt', frame(0.95), frame(0.7)),
    ('entropy', frame(0.95), frame(0.95, 0.5)),
    ('dark', frame(), frame(scene=SceneSignals(20.0, 10.0, 0.9, 0.0, 800.0))),
    ('saturated', frame(), frame(scene=SceneSignals(200.0, 10.0, 0.0, 0.3, 800.0))),
    ('blurred', frame(), frame(scene=SceneSignals(110.0, 50.0, 0.05, 0.01, 5.0)))])
def test_signals_rise_with_what_they_are_named_after(name, calm, worse):
    assert SIGNALS[name](worse) > SIGNALS[name](calm)


def test_half_points():
    assert SIGNALS['band'](frame(0.5)) == 0.5
    assert SIGNALS['blurred'](frame(scene=SceneSignals(0.0, 0.0, 0.0, 0.0, 20.0))) == 0.5
    assert SIGNALS['blurred'](frame(scene=SceneSignals(0.0, 0.0, 0.0, 0.0, 0.0))) == 1.0
    assert SIGNALS['dark'](frame(scene=SceneSignals(0.0, 0.0, 0.33, 0.0, 9.0))) == 0.5


def test_unknown_is_no_reason_to_worry():
    features = frame(0.9, scene=None)
    for name in ('dark', 'saturated', 'blurred', 'flicker'):
        assert SIGNALS[name](features) == 0


def test_margin_and_flicker():
    extractor = FeatureExtractor(FeatureSettings(), ('Car', 'Van'))
    box = [[10, 40, 40, 70]]
    extractor.extract(Detections(box, [0.9], [0]), 0)
    two = Detections(box * 2, [0.9, 0.8], [1, 0])
    f = extractor.extract(two, 1)
    assert SIGNALS['class_margin'](f) == pytest.approx(0.9)
    assert SIGNALS['flicker'](f) == 0.5     # the Van appeared, the Car stayed


def test_worst_weighted_signal_is_score_and_reason():
    result = SignalScorer({'band': 0.4, 'near_miss': 1.0}).explain(frame(0.9, 0.5, 0.3))
    assert result.score == pytest.approx(0.3) and result.reason == 'near_miss'
    result = SignalScorer({'band': 1.0, 'near_miss': 1.0}).explain(frame(0.9, 0.5, 0.3))
    assert (result.score, result.reason) == (pytest.approx(2 / 3), 'band')
    assert [name for name, _ in result.contributions] == ['band', 'near_miss']
    assert SignalScorer({'band': 1.0}).explain(frame(0.9)).reason == CLEAR


@pytest.mark.parametrize('weights', [
    {'bend': 1.0}, {'band': 1.5}, {'band': -0.1}, {}, {'band': float('nan')}])
def test_refuses(weights):
    with pytest.raises(ValueError, match='expected'):
        SignalScorer(weights)


def test_defaults_tell_an_easy_frame_from_a_hard_one():
    enter, scorer = GateSettings().enter, SignalScorer(DEFAULT_WEIGHTS)
    assert scorer.explain(frame(0.95, 0.9)).score < enter
    assert scorer.explain(frame()).score < enter                # an empty road
    assert scorer.explain(frame(0.95, 0.5)).score >= enter      # one box in doubt
    # Nothing accepted, much nearly seen: an empty answer escalates.
    hard = scorer.explain(frame(*[0.2] * 8))
    assert hard.score >= enter and hard.reason == 'rejected'
    night = scorer.explain(frame(0.9, scene=SceneSignals(15.0, 10.0, 0.95, 0.0, 800.0)))
    assert night.score >= enter and night.reason == 'dark'
