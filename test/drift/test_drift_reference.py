# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The reference statistics: what they are worth, and their way through a model's metadata."""
import dataclasses
import json

import numpy as np
import pytest

from drift_world import correlated, frames_of, reference_of
from kd_perception.drift.reference import (
    build_reference,
    correlation_frames,
    DOCUMENT,
    DriftReference,
    scenes_of,
)
from kd_perception.errors import ConfigError, ModelError
from kd_perception.models.spec import DecoderSpec, document_text, InputSpec, ModelSpec

SPEC = ModelSpec('m', ('Car',), InputSpec(96, 128), DecoderSpec('boxes_scores'))


@pytest.fixture(scope='module')
def reference():
    """A reference of 600 frames."""
    rng = np.random.default_rng(0)
    return reference_of(frames_of(correlated(600, 3, rng), [rng.random(3) for _ in range(600)]),
                        disagreements=[(1, 4)] * 600, made={'sets': {'a': 600}})


def test_scenes_are_stretches_of_drives_and_lone_pictures():
    found = scenes_of([0] * 7 + [1, 2] + [3] * 3, 3)
    assert [part.tolist() for part in found] == [[0, 1, 2, 3], [4, 5, 6], [7], [8], [9, 10, 11]]


def test_round_trip_through_the_metadata(reference):
    spec = dataclasses.replace(SPEC, documents={DOCUMENT: reference.to_document()})
    again = ModelSpec.from_metadata(spec.to_metadata(), 'm.onnx')
    assert DriftReference.of_model(again, 'm.onnx') == reference
    assert DriftReference.of_model(SPEC, 'm.onnx') is None
    assert len(document_text(reference.to_document())) < 1000
    assert reference.disagreement.share == 0.25 and reference.scenes == 30


def test_deciles_hold_a_tenth_each(reference):
    luminance, height = reference.quantities
    assert luminance.name == 'luminance' and len(luminance.edges) == 9
    assert np.allclose(luminance.shares, 0.1, atol=0.04)
    assert height.per_frame == 3


@pytest.mark.parametrize('time, low, high', [(0, 400, 900), (30, 20, 130)])
def test_correlated_frames_are_worth_fewer(time, low, high):
    """600 frames: all of them where they are independent, some 600 / (2 * 30) where not."""
    rng = np.random.default_rng(5)
    quantity, = reference_of(frames_of(correlated(600, time, rng)), scene_frames=20 if not time else 60
                             ).quantities
    assert low < quantity.independent < high


def test_a_picture_stands_for_a_scene_and_a_scene_counts_once():
    """50 pictures are 50 samples; a drive of one long look among them weighs no more than its scenes."""
    rng = np.random.default_rng(0)
    stills = frames_of(rng.normal(size=50))
    quantity, = build_reference(stills, range(50), 100, 10.0).quantities
    assert quantity.independent == pytest.approx(50, rel=0.15)
    drive = frames_of(np.full(100, 5.0))
    mixed, = build_reference(stills + drive, [*range(50), *[50] * 100], 100, 10.0).quantities
    assert mixed.shares[-1] < 0.15


def test_boxes_of_a_scene_that_agree_count_once():
    rng = np.random.default_rng(1)
    apart = [{'height': rng.random(4)} for _ in range(200)]
    alike = [{'height': np.full(4, rng.random())} for _ in range(200)]
    worth = [build_reference(frames, range(200), 10, 10.0).quantities[0].independent
             for frames in (apart, alike)]
    assert worth[0] == pytest.approx(800, rel=0.2) and worth[1] == pytest.approx(200, rel=0.2)


def test_frames_without_answers_say_nothing_about_them():
    rng = np.random.default_rng(2)
    frames = frames_of(rng.normal(size=40), [rng.random(2) for _ in range(20)])
    luminance, height = build_reference(frames, range(40), 10, 10.0).quantities
    assert (luminance.scenes, height.scenes, height.per_frame) == (40, 20, 2)


def test_too_little_is_refused():
    with pytest.raises(ConfigError, match='7 scenes, expected at least 8'):
        build_reference(frames_of(np.arange(7.0)), range(7), 10, 10.0)
    with pytest.raises(ConfigError, match='nothing to compare'):
        build_reference(frames_of(np.zeros(20)), range(20), 10, 10.0)


def set_at(document, path, value):
    document = json.loads(json.dumps(document))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize('path, value, message', [
    (('version',), 2, 'version is 2'),
    (('rate_hz',), 0.0, 'rate_hz'),
    (('scene_frames',), 0, 'scene_frames'),
    (('quantities',), [], 'quantities'),
    (('more',), 1, 'unknown key more'),
    (('quantities', 0, 'edges'), [2.0, 1.0], 'edges must rise'),
    (('quantities', 0, 'edges'), [float('nan')], 'finite'),
    (('quantities', 0, 'edges'), [float(i) for i in range(1000)], '1 to 9 edges'),
    (('quantities', 0, 'shares', 0), 0.9, 'add up'),
    (('quantities', 0, 'shares', 0), -0.1, 'none below 0'),
    (('quantities', 0, 'independent'), 0.0, 'must be positive'),
    (('quantities', 0, 'scenes'), 3, 'at least 8'),
    (('quantities', 0, 'name'), 'score.Dragon', 'score.Dragon'),
    (('quantities', 1, 'name'), 'luminance', 'each once'),
    (('disagreement', 'share'), 1.5, 'share must be'),
])
def test_bad_documents_are_refused_in_one_line(reference, path, value, message):
    document = set_at(reference.to_document(), path, value)
    with pytest.raises(ModelError, match=message) as error:
        DriftReference.from_document(document, ('Car',), 'm.onnx: kd_perception.drift')
    assert str(error.value).startswith('m.onnx: kd_perception.drift') and '\n' not in str(error.value)


@pytest.mark.parametrize('document', [None, [], 'text', {'quantities': 3}])
def test_documents_of_another_shape_are_refused(document):
    with pytest.raises(ModelError, match='m.onnx'):
        DriftReference.from_document(document, ('Car',), 'm.onnx')


@pytest.mark.parametrize('time', [0, 10, 25])
def test_correlation_is_read_off_drives(time):
    rng = np.random.default_rng(4)
    values = np.concatenate([correlated(600, time, rng) + mean for mean in (0, 50)])
    found = correlation_frames(values, [0] * 600 + [1] * 600)
    assert found == 1 if not time else 0.6 * time < found < 1.5 * time
    assert correlation_frames(np.arange(40.0), range(40)) is None
    assert correlation_frames(np.repeat([0.0, 1.0], 50), [0] * 100) <= 50
