# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Which scorer a student gets, with which features, threshold and need of the image."""

import dataclasses

import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.errors import ConfigError, ModelError
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings
from kd_perception.fallback.estimator import Estimator, FeatureWeight
from kd_perception.fallback.judge import Judge, SIGNAL_THRESHOLD
from kd_perception.fallback.scores import DEFAULT_WEIGHTS, SIGNALS, SignalScorer
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, ThresholdSpec

LABELS = ('Car', 'Pedestrian')
ESTIMATOR = Estimator(
    'logistic', bias=-1.0, settings=FeatureSettings(score_low=0.1, score_work=0.3),
    features=(FeatureWeight('rejected_mass', 2.0, transform='log1p'), FeatureWeight('luminance', 0.0)),
    share_thresholds=((0.1, 0.9), (0.3, 0.5)))


def spec(*features, **documents):
    if features:
        documents['gate'] = dataclasses.replace(ESTIMATOR, features=features).to_document()
    return ModelSpec('student', LABELS, InputSpec(64, 64), DecoderSpec('boxes_scores'),
                     ThresholdSpec(score=0.35, score_low=0.05, nms_iou=0.5), documents=documents)


WITH_GATE = spec(gate=ESTIMATOR.to_document())


def test_auto_takes_what_the_model_holds():
    judge = Judge.of_model(WITH_GATE, 'm.onnx')
    assert judge.name == 'learned' and isinstance(judge.scorer, Estimator)
    assert judge.settings == ESTIMATOR.settings, 'the features as it was fitted with, not as the file says'
    assert Judge.of_model(WITH_GATE, 'm.onnx', 'learned').scorer.bias == ESTIMATOR.bias
    judge = Judge.of_model(spec(), 'm.onnx')
    assert judge.name == 'signals' and judge.scorer.weights == dict(DEFAULT_WEIGHTS)
    assert judge.settings == FeatureSettings.of_thresholds(ThresholdSpec(0.35, 0.05))


@pytest.mark.parametrize('choice', ['signals', *SIGNALS])
def test_a_choice_is_kept_whatever_the_model_holds(choice):
    judge = Judge.of_model(WITH_GATE, 'm.onnx', choice)
    assert judge.name == choice and isinstance(judge.scorer, SignalScorer)
    assert choice == 'signals' or judge.scorer.weights == {choice: 1.0}
    assert judge.threshold_for(0.2) == SIGNAL_THRESHOLD
    features = FeatureExtractor(judge.settings, LABELS).extract(Detections.empty(), 1, (64, 64))
    assert 0 <= judge.scorer.explain(features).score <= 1


def test_periodic_takes_every_frame_alike():
    judge = Judge.of_model(WITH_GATE, 'm.onnx', 'periodic')
    features = FeatureExtractor(judge.settings, LABELS).extract(Detections.empty(), 1, (64, 64))
    assert judge.name == judge.scorer.explain(features).reason == 'periodic' and not judge.wants_scene
    assert judge.scorer.explain(features).score >= judge.threshold_for(0.2)


@pytest.mark.parametrize('choice,wanted', [
    ('signals', True), ('dark', True), ('saturated', True), ('blurred', True),
    ('band', False), ('empty', False), ('flicker', False), ('auto', True)])
def test_the_image_is_measured_only_for_signals_that_look_at_it(choice, wanted):
    assert Judge.of_model(spec(), 'm.onnx', choice).wants_scene is wanted


@pytest.mark.parametrize('features,wanted', [
    ((FeatureWeight('luminance', 0.5),), True), ((FeatureWeight('sharpness', -0.5),), True),
    ((FeatureWeight('luminance', 0.0), FeatureWeight('empty', 1.0)), False),
    ((FeatureWeight('accepted.Car', 1.0),), False)])
def test_the_image_is_measured_only_for_features_that_weigh(features, wanted):
    assert Judge.of_model(spec(*features), 'm.onnx').wants_scene is wanted


def test_the_threshold_follows_the_share():
    judge = Judge.of_model(WITH_GATE, 'm.onnx')
    assert judge.threshold_for(0.1) == pytest.approx(0.9)
    assert judge.threshold_for(0.2) == pytest.approx(0.7)
    # Beyond what it was fitted for, and beyond what is a share at all: the nearest that is known.
    for share, score in ((0.0, 0.9), (-0.1, 0.9), (1.0, 0.5), (1.5, 0.5)):
        assert judge.threshold_for(share) == pytest.approx(score)
    without = spec(gate=dataclasses.replace(ESTIMATOR, share_thresholds=()).to_document())
    assert Judge.of_model(without, 'm.onnx').threshold_for(0.2) == SIGNAL_THRESHOLD


def test_what_cannot_be_had_is_said():
    with pytest.raises(ConfigError, match='m.onnx: holds no learned gate; fit one'):
        Judge.of_model(spec(), 'm.onnx', 'learned')
    expected = "scorer 'guess': expected auto, learned, signals, periodic or one of empty"
    with pytest.raises(ConfigError, match=expected):
        Judge.of_model(spec(), 'm.onnx', 'guess')
    malformed = spec(gate={'kind': 'magic'})
    for choice in ('auto', 'learned'):
        with pytest.raises(ModelError, match='m.onnx: kd_perception.gate'):
            Judge.of_model(malformed, 'm.onnx', choice)
    # A file with a gate that this package cannot read still serves whoever asks for the fixed rules.
    assert Judge.of_model(malformed, 'm.onnx', 'signals').name == 'signals'
