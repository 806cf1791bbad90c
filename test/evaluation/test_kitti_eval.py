# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import gzip
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.metrics.kitti_eval import (
    average_precision,
    ClassProtocol,
    Difficulty,
    evaluate_kitti,
    KITTI_CLASSES,
    KittiEvaluator,
    recall_indices,
)
from kd_perception.labels.kitti_text import KittiObjects, parse_label_text
from kd_perception.labels.object_table import ObjectTable
from kitti_reference import precision_points

# Output of the official C++ program, precision printed with 6 digits and AP with 4.
ORACLE = json.loads(gzip.decompress((Path(__file__).parent / 'data' / 'kitti_oracle.json.gz').read_bytes()))
LEVELS = ('easy', 'moderate', 'hard')
REST = '1 1 1 1 1 1 0.1'


def parse(texts, scores):
    return [parse_label_text(text, f'frame{i}', scores) for i, text in enumerate(texts)]


@pytest.mark.parametrize('case', sorted(ORACLE))
def test_every_point_equals_the_official_program(case):
    texts = ORACLE[case]['cases']
    results = evaluate_kitti(parse(texts['label_2'], False), parse(texts['det'], True))
    for name, levels in ORACLE[case]['expected'].items():
        for level, expected in levels.items():
            result = results[name.capitalize()][level]
            np.testing.assert_allclose(result.precision, expected['precision41'], rtol=0, atol=1e-6)
            # The oracle's AP is the mean of printed precisions, printed with 4 digits.
            assert result.ap_r40 == pytest.approx(expected['R40'], abs=1.01e-4)
            assert result.ap_r11 == pytest.approx(expected['R11'], abs=1.01e-4)
            assert average_precision(np.round(result.precision, 6))[0] == pytest.approx(
                expected['R40'], abs=5.1e-5)


def test_a_class_that_is_never_detected_has_no_result():
    labels = parse([f'Car 0 0 0 0 0 100 100 {REST}\nCyclist 0 0 0 200 0 300 100 {REST}'], False)
    results = evaluate_kitti(labels, parse([f'Car 0 0 0 0 0 100 100 {REST} 0.5'], True))
    assert results['Cyclist']['easy'].ap_r40 is None
    assert results['Cyclist']['easy'].precision is None
    assert results['Cyclist']['easy'].valid_ground_truths == 1
    assert results['Car']['easy'].precision[0] == 1
    # The official program counts a class as detected only by a box that starts inside the image.
    results = evaluate_kitti(labels, parse([f'Car 0 0 0 -1 0 100 100 {REST} 0.5'], True))
    assert results['Car']['easy'].ap_r40 is None


@pytest.mark.parametrize('count, r40', [(1, 0.0), (10, 22.5), (40, 97.5), (41, 100.0)])
def test_a_perfect_detector_is_limited_by_the_number_of_ground_truths(count, r40):
    labels = parse([f'Car 0 0 0 0 0 100 100 {REST}'] * count, False)
    detections = parse([f'Car 0 0 0 0 0 100 100 {REST} {1 - i / 100}' for i in range(count)], True)
    result = evaluate_kitti(labels, detections)['Car']['easy']
    assert result.ap_r40 == pytest.approx(r40)
    assert result.valid_ground_truths == count
    assert result.few_ground_truths == (count < 41)


def test_nothing_counted_at_a_threshold_stays_undefined_as_in_the_official_program():
    # Passes disagree: by score the van takes the small box, by overlap the large one. Output of the program.
    labels = f'Van 0 0 0 0 0 100 26 {REST}\nCar 0 0 0 0 0 100 28 {REST}\nCar 0 0 0 200 0 300 60 {REST}'
    found = (f'Car 0 0 0 0 0 100 24.9 {REST} 0.9\nCar 0 0 0 0 0 100 27 {REST} 0.5\n'
             f'Car 0 0 0 200 0 300 60 {REST} 0.3')
    results = evaluate_kitti(parse([labels], False), parse([found], True))['Car']
    assert np.isnan(results['moderate'].precision[0])
    assert results['moderate'].precision[1] == 1
    assert results['easy'].precision.tolist() == [1.0] + [0.0] * 40


SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.75, -1.0, 3.5, -2e7])
COORDINATE = st.integers(0, 12).map(lambda value: value * 10.0)
SIZE = st.sampled_from([20.0, 24.9, 25.0, 25.1, 30.0, 40.0, 40.5, 60.0])
NAMES = ['Car', 'car', 'VAN', 'Pedestrian', 'Person_sitting', 'Cyclist', 'DontCare', 'Truck']
OBJECT = st.tuples(st.sampled_from(NAMES), COORDINATE, COORDINATE, SIZE, SIZE,
                   st.sampled_from([0.0, 0.15, 0.2, 0.3, 0.5, 0.6]), st.sampled_from([0, 0, 1, 2, 3, -1]),
                   SCORES)


def frame_of(rows, scored):
    lines = [f'{name} {truncation} {occlusion} 0 {x - 10} {y} {x - 10 + w} {y + h} {REST}'
             + (f' {score}' if scored else '') for name, x, y, w, h, truncation, occlusion, score in rows]
    return parse_label_text('\n'.join(lines), 'generated', scored)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.lists(OBJECT, max_size=6), st.lists(OBJECT, max_size=8)), min_size=1,
                max_size=5))
def test_the_vectorised_matching_equals_the_plain_one(frames):
    frames = [(frame_of(labels, False), frame_of(detections, True)) for labels, detections in frames]
    results = evaluate_kitti([frame[0] for frame in frames], [frame[1] for frame in frames])
    for protocol in KITTI_CLASSES:
        for level, difficulty in enumerate(LEVELS):
            precision = results[protocol.name][difficulty].precision
            if precision is not None:
                expected = precision_points(frames, protocol.name.lower(), level, protocol.min_iou)
                np.testing.assert_array_equal(precision, expected)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 3000))
def test_thresholds_are_picked_as_the_official_loop_picks_them(count, total):
    count = min(count, total)
    expected, recall = [], 0.0
    for i in range(count):
        left = (i + 1) / total
        right = (i + 2) / total if i < count - 1 else left
        if right - recall < recall - left and i < count - 1:
            continue
        expected.append(i)
        recall += 1.0 / 40.0
    assert recall_indices(count, total).tolist() == expected


def test_frame_order_does_not_matter():
    texts = ORACLE['rand_b_ties']['cases']
    labels, detections = parse(texts['label_2'], False), parse(texts['det'], True)
    forward = evaluate_kitti(labels, detections)
    backward = evaluate_kitti(labels[::-1], detections[::-1])
    for name in forward:
        for level in LEVELS:
            np.testing.assert_array_equal(forward[name][level].precision, backward[name][level].precision)


def test_other_classes_and_overlaps_can_be_configured():
    labels = parse([f'Forklift 0 0 0 0 0 100 100 {REST}'] * 41, False)
    detections = parse([f'forklift 0 0 0 0 0 100 35 {REST} 0.5'] * 41, True)
    easy = Difficulty('all', 10, 3, 1.0)
    for iou, expected in ((0.3, 100.0), (0.4, 0.0)):
        protocol = ClassProtocol('Forklift', iou)
        assert evaluate_kitti(labels, detections, [protocol], [easy])['Forklift']['all'].ap_r40 == expected
    with pytest.raises(EvaluationError, match='IoU is 1.5'):
        ClassProtocol('Car', 1.5)
    with pytest.raises(EvaluationError, match='given twice'):
        evaluate_kitti(labels, detections, [ClassProtocol('Car', 0.7), ClassProtocol('car', 0.5)])
    with pytest.raises(EvaluationError, match='41 frames of labels, 1 of detections'):
        evaluate_kitti(labels, detections[:1])
    table = ObjectTable.from_objects(labels)
    with pytest.raises(EvaluationError, match='below the evaluator'):
        KittiEvaluator(table, table, 0.5).pairs(ClassProtocol('Car', 0.3))


def test_height_bins_count_only_their_own_heights():
    labels = parse([f'Car 0 0 0 0 0 100 60 {REST}\nCar 0 0 0 200 0 300 200 {REST}'] * 41, False)
    found = parse([f'Car 0 0 0 0 0 100 60 {REST} 0.5'] * 41, True)
    low, high = Difficulty('low', 25, 2, 0.5, 100, 1.25), Difficulty('high', 100, 2, 0.5, slack=1.25)
    results = evaluate_kitti(labels, found, KITTI_CLASSES, [low, high])['Car']
    assert (results['low'].ap_r40, results['low'].valid_ground_truths) == (100.0, 41)
    assert (results['high'].ap_r40, results['high'].valid_ground_truths) == (0.0, 41)


def test_no_frames_and_empty_frames():
    assert evaluate_kitti([], [])['Car']['easy'].ap_r40 is None
    empty = evaluate_kitti([KittiObjects.empty()], [KittiObjects.empty(True)])
    assert empty['Car']['easy'].valid_ground_truths == 0


class TestBootstrap:
    def frames(self, count=60, groups=1, seed=3):
        rng = np.random.default_rng(seed)
        labels, detections = [], []
        for _ in range(count):
            labels.append(f'Car 0 0 0 0 0 100 100 {REST}')
            hit = rng.random() < 0.7
            box = '0 0 100 100' if hit else '300 0 400 100'
            detections.append(f'Car 0 0 0 {box} {REST} {rng.random():.6f}')
        return parse(labels * groups, False), parse(detections * groups, True)

    def test_the_interval_holds_the_figure_and_is_reproducible(self):
        labels, detections = self.frames()
        first = evaluate_kitti(labels, detections, bootstrap=300, seed=1)['Car']['easy']
        again = evaluate_kitti(labels, detections, bootstrap=300, seed=1)['Car']['easy']
        assert first.ci95 == again.ci95
        assert first.ci95[0] < first.ap_r40 < first.ci95[1]
        assert first.ap_r40 == evaluate_kitti(labels, detections)['Car']['easy'].ap_r40

    def test_resamples_are_exact_where_scores_are_few(self):
        """Each resample's AP must be what the evaluator gives for the repeated frames themselves."""
        labels, detections = self.frames(12)
        from kd_perception.evaluation.metrics.bootstrap import percentile_interval, resampled_weights
        values = []
        for weights in resampled_weights(12, 50, 7):
            picked = np.repeat(np.arange(12), weights.astype(int))
            values.append(evaluate_kitti([labels[i] for i in picked], [detections[i] for i in picked])
                          ['Car']['easy'].ap_r40)
        expected = percentile_interval(np.array(values))
        result = evaluate_kitti(labels, detections, bootstrap=50, seed=7)['Car']['easy']
        assert result.ci95 == pytest.approx(expected, abs=1e-3)

    def test_interpolated_resamples_come_close_where_scores_are_many(self):
        texts = ORACLE['rand_d_clean']['cases']
        labels, detections = parse(texts['label_2'], False), parse(texts['det'], True)
        table, found = ObjectTable.from_objects(labels), ObjectTable.from_objects(detections)
        from kd_perception.evaluation.metrics.bootstrap import percentile_interval, resampled_weights
        values = []
        for weights in resampled_weights(500, 40, 7):
            picked = np.repeat(np.arange(500), weights.astype(int))
            evaluator = KittiEvaluator(table.take_frames(picked), found.take_frames(picked))
            values.append(evaluator.evaluate(KITTI_CLASSES[0], Difficulty('easy', 40, 0, 0.15)).ap_r40)
        result = evaluate_kitti(labels, detections, bootstrap=40, seed=7)['Car']['easy']
        assert result.ci95 == pytest.approx(percentile_interval(np.array(values)), abs=0.3)

    def test_a_detector_that_finds_nothing_has_no_spread(self):
        labels, detections = self.frames(5)
        wrong = parse([f'Car 0 0 0 300 0 400 100 {REST} 0.5'] * 5, True)
        result = evaluate_kitti(labels, wrong, bootstrap=10)['Car']['easy']
        assert (result.ap_r40, result.ci95) == (0.0, (0.0, 0.0))

    def test_whole_groups_are_drawn(self):
        labels, detections = self.frames(30, groups=2)
        groups = np.arange(60) % 30
        by_frame = evaluate_kitti(labels, detections, bootstrap=200)['Car']['easy'].ci95
        by_group = evaluate_kitti(labels, detections, bootstrap=200, groups=groups)['Car']['easy'].ci95
        assert by_group[1] - by_group[0] > 1.15 * (by_frame[1] - by_frame[0])
        one = evaluate_kitti(labels, detections, bootstrap=50, groups=np.zeros(60, dtype=int))['Car']['easy']
        assert one.ci95 is None
