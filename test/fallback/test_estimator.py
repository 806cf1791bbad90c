# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The estimator: its arithmetic, its explanation, its document in the model file."""

import dataclasses
import json
import math

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.errors import ModelError
from kd_perception.fallback.ambiguity import FeatureExtractor, FeatureSettings, FeatureVector
from kd_perception.fallback.estimator import Estimator, FeatureWeight, Z_LIMIT
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec

LABELS = ('Car', 'Pedestrian')
ESTIMATOR = Estimator(
    'logistic', bias=-0.5, settings=FeatureSettings(score_work=0.3), trained={'frames': 10, 'note': 'x'},
    features=(FeatureWeight('empty', 1.0, mean=0.25, scale=0.5),
              FeatureWeight('rejected_mass', 2.0, mean=1.0, scale=0.5, transform='log1p'),
              FeatureWeight('luminance', -0.5, mean=100.0, scale=20.0)),
    share_thresholds=((0.0, 0.9), (0.2, 0.6), (1.0, 0.1)))
NAMES = ('luminance', 'rejected_mass', 'empty')


def vector(luminance, rejected_mass, empty, names=NAMES):
    return FeatureVector(names, np.array([luminance, rejected_mass, empty], dtype=float))


def document(**changes):
    fields = ESTIMATOR.to_document()
    for key, value in changes.items():
        head, _, tail = key.partition('__')
        if tail:
            fields[head][0][tail] = value
        else:
            fields[head] = value
    return fields


def test_arithmetic_by_hand():
    margin = -0.5 + 1.0 * 1.5 + 2.0 * (math.log1p(2.0) - 1) / 0.5 - 0.5 * (80 - 100) / 20
    result = ESTIMATOR.explain(vector(80, 2.0, 1))
    assert result.score == pytest.approx(1 / (1 + math.exp(-margin)))
    assert result.reason == 'empty'
    assert dict(result.contributions)['luminance'] == pytest.approx(0.5)
    assert sum(amount for _, amount in result.contributions) - 0.5 == pytest.approx(margin)
    linear = dataclasses.replace(ESTIMATOR, kind='linear').explain(vector(80, 2.0, 1))
    assert linear.score == pytest.approx(margin)


def test_reason_is_what_raises_the_score_most():
    assert ESTIMATOR.explain(vector(100, 6.0, 0)).reason == 'rejected_mass'
    assert ESTIMATOR.explain(vector(20, math.e - 1, 0.25)).reason == 'luminance'
    calm = ESTIMATOR.explain(vector(140, 0.0, 0))
    assert calm.reason == 'prior' and calm.score < 0.1
    assert [amount for _, amount in calm.contributions] == sorted(
        (amount for _, amount in calm.contributions), reverse=True)


def test_unknown_is_an_ordinary_value():
    known = ESTIMATOR.explain(vector(100.0, 2.0, 1))
    assert ESTIMATOR.explain(vector(math.nan, 2.0, 1)) == known


def test_garbage_cannot_buy_an_unbounded_score():
    parts = dict(ESTIMATOR.explain(vector(-1e30, 1e300, 1)).contributions)
    assert parts['rejected_mass'] == 2 * Z_LIMIT and parts['luminance'] == 0.5 * Z_LIMIT
    assert ESTIMATOR.explain(vector(-math.inf, math.inf, 1)).score <= 1
    assert ESTIMATOR.explain(vector(0, -5, 0)).score == ESTIMATOR.explain(vector(0, 0, 0)).score


def test_many_frames_score_as_one_does():
    rows = np.random.default_rng(0).normal([100, 1, 0.5], [20, 1, 0.5], (20, 3))
    one_by_one = [ESTIMATOR.explain(vector(*row)).score for row in rows]
    np.testing.assert_allclose(ESTIMATOR.scores(NAMES, rows), one_by_one, rtol=1e-12)


def test_order_of_the_vector_does_not_matter():
    expected = ESTIMATOR.explain(vector(80, 2.0, 1))
    reordered = FeatureVector(('empty', 'x', 'luminance', 'rejected_mass'), np.array([1, 5.0, 80, 2]))
    assert ESTIMATOR.explain(reordered) == expected
    assert ESTIMATOR.explain(vector(80, 2.0, 1)) == expected
    with pytest.raises(KeyError):
        ESTIMATOR.explain(FeatureVector(('empty',), np.zeros(1)))


def test_empty_frame_can_score_high():
    extractor = FeatureExtractor(ESTIMATOR.settings, LABELS)
    assert ESTIMATOR.explain(extractor.extract(Detections.empty(), 0)).reason == 'empty'


def test_threshold_for_share():
    assert ESTIMATOR.threshold_for(0.2) == pytest.approx(0.6)
    assert ESTIMATOR.threshold_for(0.1) == pytest.approx(0.75)
    assert ESTIMATOR.threshold_for(1.0) == pytest.approx(0.1)
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match='share'):
            ESTIMATOR.threshold_for(share)
    with pytest.raises(ValueError, match='share'):
        dataclasses.replace(ESTIMATOR, share_thresholds=()).threshold_for(0.2)


def test_round_trip_through_a_model_file():
    text = json.dumps(ESTIMATOR.to_document(), allow_nan=False)
    assert Estimator.from_document(json.loads(text), LABELS, 'm') == ESTIMATOR
    spec = ModelSpec('tiny', LABELS, InputSpec(64, 128), DecoderSpec('gfl', (8,)),
                     documents={'gate': ESTIMATOR.to_document()})
    read = ModelSpec.from_metadata(spec.to_metadata(), 'm.onnx')
    assert Estimator.of_model(read, 'm.onnx') == ESTIMATOR
    assert Estimator.of_model(dataclasses.replace(read, documents={}), 'm.onnx') is None


@pytest.mark.parametrize('change,message', [
    ({'version': 2}, 'version is 2'), ({'kind': 'forest'}, 'kind: expected one of logistic, linear'),
    ({'bias': None}, 'bias: expected float'), ({'bias': math.inf}, 'bias: expected a finite number'),
    ({'features': []}, 'at least one feature'), ({'other': 1}, 'unknown key other'),
    ({'features__name': 'rejected_mass'}, 'each once'),
    ({'features__name': 'bogus'}, 'unknown feature bogus'),
    ({'features__name': 'accepted.Van'}, 'unknown feature accepted.Van'),
    ({'features__name': ''}, 'name'), ({'features__scale': 0}, 'scale must be positive'),
    ({'features__scale': -1}, 'scale must be positive'),
    ({'features__transform': 'sqrt'}, r'features\[0\].transform'),
    ({'features__weight': '1'}, r'features\[0\].weight: expected float'),
    ({'share_thresholds': [[0.2, 0.5], [0.1, 0.4]]}, 'rising shares'),
    ({'share_thresholds': [[0.1, 0.5], [0.1, 0.4]]}, 'rising shares'),
    ({'share_thresholds': [[0.1, 0.5], [1.2, 0.4]]}, 'rising shares'),
    ({'share_thresholds': [[0.1, 0.5], [0.2, 0.6]]}, 'no higher'),
    ({'share_thresholds': [[0.1]]}, 'expected 2 items'),
    ({'settings': {'score_low': 0.9}}, 'score_low'), ({'settings': {'scores': 0.9}}, 'unknown key scores')])
def test_malformed_documents_name_the_field(change, message):
    with pytest.raises(ModelError, match=message) as error:
        Estimator.from_document(document(**change), LABELS, 'm.onnx: kd_perception.gate')
    assert str(error.value).startswith('m.onnx: kd_perception.gate') and '\n' not in str(error.value)


@pytest.mark.parametrize('whole', [None, [], 'text', 3])
def test_a_document_that_is_none(whole):
    with pytest.raises(ModelError, match='expected a mapping'):
        Estimator.from_document(whole, LABELS, 'm')


def test_class_features_of_the_student_are_known():
    fields = document(features__name='accepted.Pedestrian')
    assert Estimator.from_document(fields, LABELS, 'm').features[0].name == 'accepted.Pedestrian'
