# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.metrics.calibration import class_calibration, detection_ece, reliability
from kd_perception.evaluation.metrics.kitti_eval import KITTI_CLASSES, KITTI_DIFFICULTIES, KittiEvaluator
from kd_perception.labels.kitti_text import parse_label_text
from kd_perception.labels.object_table import ObjectTable

# Made with netcal 1.4.0 on random scores and features, several of them on the bins' edges:
# ECE(bins, detection=True, sample_threshold=n).measure(np.column_stack([scores, features]), matched)
NETCAL = json.loads(gzip.decompress((Path(__file__).parent / 'data' / 'd_ece_netcal.json.gz').read_bytes()))
REST = '1 1 1 1 1 1 0.1'


@pytest.mark.parametrize('case', sorted(NETCAL['cases']))
def test_d_ece_equals_netcal(case):
    case = NETCAL['cases'][case]
    features = np.array(case['features'])
    result = detection_ece(np.array(case['scores']), np.array(case['matched']),
                           features if features.size else None, case['bins'], case['sample_threshold'])
    assert result == pytest.approx(case['d_ece'], abs=1e-12)
    if not features.size and case['sample_threshold'] == 1:
        curve = reliability(np.array(case['scores']), np.array(case['matched']), case['bins'][0])
        assert curve.d_ece == pytest.approx(case['d_ece'], abs=1e-12)
        gaps = np.nan_to_num(np.abs(curve.precision - curve.mean_score)) * curve.counts
        assert gaps.sum() / curve.counts.sum() == pytest.approx(case['d_ece'], abs=1e-12)


def test_a_calibrated_detector_scores_zero_and_an_overconfident_one_does_not():
    scores = np.repeat([0.2, 0.8], 10)
    matched = np.array([1] * 2 + [0] * 8 + [1] * 8 + [0] * 2)
    assert detection_ece(scores, matched) == pytest.approx(0)
    assert detection_ece(np.full(20, 0.95), matched) == pytest.approx(0.45)


def test_what_cannot_be_calibrated_says_why():
    assert reliability(np.zeros(0), np.zeros(0)).reason == 'no detections'
    assert reliability(np.array([3.5]), np.array([1])).reason == 'scores outside 0 to 1'
    with pytest.raises(EvaluationError, match='outside 0 to 1'):
        detection_ece(np.array([1.5]), np.array([1]))
    with pytest.raises(EvaluationError, match='0 scores'):
        detection_ece(np.zeros(0), np.zeros(0))
    with pytest.raises(EvaluationError, match='2 quantities for 1 bin numbers'):
        detection_ece(np.array([0.5]), np.array([1]), np.array([[0.5]]))


def test_only_detections_that_can_be_right_or_wrong_count():
    labels = parse_label_text('\n'.join([
        f'Car 0 0 0 0 0 100 100 {REST}', f'Van 0 0 0 200 0 300 100 {REST}',
        f'DontCare -1 -1 0 400 0 500 100 {REST}']), 'labels', False)
    found = parse_label_text('\n'.join([
        f'Car 0 0 0 0 0 100 95 {REST} 0.9',      # right
        f'Car 0 0 0 0 0 100 100 {REST} 0.65',    # a second one on the same car: wrong
        f'Car 0 0 0 200 0 300 100 {REST} 0.5',   # on a van: left out
        f'Car 0 0 0 410 10 490 90 {REST} 0.4',   # in a DontCare region: left out
        f'Car 0 0 0 600 0 620 20 {REST} 0.3',    # below the least height: left out
        f'Car 0 0 0 600 0 700 100 {REST} 0.2',   # wrong
        f'Cyclist 0 0 0 0 0 100 100 {REST} 0.7']), 'detections', True)
    evaluator = KittiEvaluator(ObjectTable.from_objects([labels]), ObjectTable.from_objects([found]))
    result = class_calibration(evaluator, KITTI_CLASSES[0], KITTI_DIFFICULTIES[1])
    assert result.counts.tolist() == [0, 0, 1, 0, 0, 0, 1, 0, 0, 1]
    assert result.precision[[2, 6, 9]].tolist() == [0, 0, 1]
