# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Scores of two detectors come onto one scale, and `model calibrate` writes it into the file."""

import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.boxes.score_calibration import calibrated_scores, least_raw_score, onto_scale
from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector

pytest.importorskip('onnx', reason='the models are made here')
from constant_model import attached_constant

HEIGHT, WIDTH, IMAGES = 128, 192, 60
PLACES = [(8 + 26 * column, 6 + 30 * row) for row in range(4) for column in range(7)]
RIGHT = np.linspace(.1, .95, len(PLACES))       # how often there is an object at a place
CURVES = st.tuples(st.floats(.2, 5), st.floats(-3, 3))


def odd(p, a, b):
    return 1 / (1 + np.exp(-(a * np.log(p / (1 - p)) + b)))


@given(CURVES, CURVES, st.floats(.05, .95))
def test_a_score_keeps_its_probability_on_the_others_scale(own, other, score):
    moved = onto_scale({'Car': own}, {'Car': other, 'Pedestrian': other})
    assert set(moved) == {'Car'}
    ids, labels = np.zeros(1, int), ('Car',)
    on_other = calibrated_scores(np.array([score]), ids, moved, labels)
    p = calibrated_scores(np.array([score]), ids, {'Car': own}, labels)
    if .001 < on_other[0] < .999:
        np.testing.assert_allclose(calibrated_scores(on_other, ids, {'Car': other}, labels), p, atol=1e-6)


@given(st.dictionaries(st.sampled_from(('Car', 'Pedestrian')), CURVES), st.floats(.05, .95))
def test_nothing_that_reaches_a_threshold_is_left_out_before(curves, threshold):
    labels = ('Car', 'Pedestrian', 'Cyclist')
    raw = np.linspace(.001, .999, 400)
    least = least_raw_score(threshold, curves, labels)
    for number in range(3):
        after = calibrated_scores(raw, np.full(len(raw), number), curves, labels)
        assert (raw[after >= threshold + 1e-9] >= least - 1e-9).all()
        assert (np.diff(after) > -1e-12).all()


def model(folder, name, scores):
    """A detector that finds these boxes of cars in any image."""
    rows = [[x, y, x + 20, y + 24, score, 2] for (x, y), score in zip(PLACES, scores)]
    return attached_constant(folder, name, (HEIGHT, WIDTH), rows)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Images with cars as often as `RIGHT` says; a student that says so, and a teacher on an odd scale."""
    folder, rng = tmp_path_factory.mktemp('world'), np.random.default_rng(1)
    for part in ('images', 'label_2'):
        (folder / 'set' / part).mkdir(parents=True)
    for i in range(IMAGES):
        path = folder / 'set' / 'images' / f'{i}.png'
        assert cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        (folder / 'set' / 'label_2' / f'{i}.txt').write_text(''.join(
            f'Car 0 0 0 {x} {y} {x + 20} {y + 24} 0 0 0 0 0 0 0\n'
            for (x, y), p in zip(PLACES, RIGHT) if rng.random() < p))
    return folder, model(folder, 'student', odd(RIGHT, 1, .5)), model(folder, 'teacher', odd(RIGHT, .5, -2))


def scores(path):
    found = OnnxDetector.load(path).detect(np.zeros((HEIGHT, WIDTH, 3), np.uint8), .03).detections
    order = np.lexsort((found.boxes_xyxy[:, 0], found.boxes_xyxy[:, 1]))
    return found.boxes_xyxy[order], found.scores[order]


@pytest.mark.parametrize('like, wanted', [([], RIGHT), (['--like', 'student.onnx'], odd(RIGHT, 1, .5))])
def test_scores_mean_what_they_are_asked_to(like, wanted, world, tmp_path, capsys):
    folder, _, teacher = world
    out = tmp_path / 'out.onnx'
    like = [str(folder / each) if each.endswith('.onnx') else each for each in like]
    options = [*like, '--input', str(folder / 'set'), '--out']
    assert main(['model', 'calibrate', str(teacher), *options, str(out)]) == 0
    assert 'Pedestrian' in capsys.readouterr().out
    boxes, found = scores(out)
    assert len(found) == len(PLACES)
    np.testing.assert_allclose(boxes[:, :2], PLACES, atol=1e-3)
    np.testing.assert_allclose(found, wanted, atol=.08)
    assert np.abs(scores(teacher)[1][-5:] - wanted[-5:]).min() > .2
    assert main(['model', 'verify', str(out)]) == 0
    # Once more: what a file holds already is no part of the fit.
    again = tmp_path / 'again.onnx'
    assert main(['model', 'calibrate', str(out), *options, str(again)]) == 0
    np.testing.assert_allclose(scores(again)[1], found, atol=1e-6)


def test_too_few_objects_are_refused(world, tmp_path, capsys):
    folder, _, teacher = world
    for part, name in (('images', '0.png'), ('label_2', '0.txt')):
        (tmp_path / 'one' / part).mkdir(parents=True)
        (tmp_path / 'one' / part / name).write_bytes((folder / 'set' / part / name).read_bytes())
    (tmp_path / 'one' / 'label_2' / '0.txt').write_text('Car 0 0 0 8 6 28 30 0 0 0 0 0 0 0\n')
    out = tmp_path / 'out.onnx'
    few = ['--input', str(tmp_path / 'one'), '--out', str(out)]
    assert main(['model', 'calibrate', str(teacher), *few]) == 2
    assert 'too few objects that the model finds' in capsys.readouterr().err and not out.exists()
