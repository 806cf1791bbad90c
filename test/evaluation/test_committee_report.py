# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Precision and recall by height, and calibration of scores."""

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.detection.committee import calibrated, MemberSettings
from kd_perception.evaluation.metrics.class_matches import ClassMatches
from kd_perception.evaluation.metrics.committee_report import (
    best_score,
    fit_calibration,
    match_heights,
    report_rows,
)
from kd_perception.labels.kitti_text import KittiObjects

LABELS = ('Car', 'Pedestrian')


def matches(scores, hits, objects):
    return ClassMatches(np.array(scores, float), np.array(hits, bool), np.zeros(len(scores), int),
                        np.array([objects]))


def test_rows_tell_heights_apart():
    boxes = [[0, 0, 40, 30], [100, 0, 180, 70], [200, 0, 400, 150]]
    truth = KittiObjects.from_boxes(['Car'] * 3, np.array(boxes, float))
    # The small one is missed, the middle one found; one alarm where nothing is.
    found = Detections(np.array([boxes[1], boxes[2], [500, 0, 580, 70]], float), np.array([0.9, 0.8, 0.85]),
                       np.zeros(3, int))
    rows = report_rows('one', match_heights([truth], [found], LABELS), {'Car': True, 'Pedestrian': False})
    figures = {tuple(row['height_px']): (row['objects'], row['precision'], row['recall']) for row in rows}
    assert figures == {(25.0, None): (3, 0.6667, 0.6667), (25.0, 50.0): (1, None, 0.0),
                       (50.0, 100.0): (1, 0.5, 1.0), (100.0, None): (1, 1.0, 1.0)}
    assert {row['label'] for row in rows} == {'Car'} and rows[0]['score'] == pytest.approx(0.8)


def test_best_score_is_that_of_the_best_f1():
    assert best_score(matches([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], 2)) == pytest.approx(0.7)
    assert best_score(matches([0.9], [0], 2)) == 1.0


def test_calibrated_scores_say_how_often_they_are_right():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.05, 0.95, 4000)
    truth = 1 / (1 + np.exp(-(2.0 * np.log(scores / (1 - scores)) - 1.0)))   # overconfident below, shifted
    found = matches(scores, rng.uniform(size=4000) < truth, 4000)
    slope, offset = fit_calibration(found)
    assert slope == pytest.approx(2.0, abs=0.15) and offset == pytest.approx(-1.0, abs=0.15)
    member = MemberSettings('m', calibration={'Car': (slope, offset)})
    raw = Detections(np.tile([0, 0, 9, 9], (3, 1)), np.array([0.2, 0.5, 0.9]), np.array([0, 0, 1]))
    new = calibrated(raw, member, LABELS)
    np.testing.assert_allclose(new.scores[:2], [0.0225, 0.269], atol=0.03)
    assert new.scores[2] == pytest.approx(0.9, abs=1e-6), 'a class without a fit keeps its scores'


def test_a_handful_of_hits_is_not_fitted():
    assert fit_calibration(matches([0.9, 0.8, 0.3], [1, 1, 0], 2)) is None
