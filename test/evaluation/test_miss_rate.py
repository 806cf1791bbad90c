# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import gzip
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.metrics.miss_rate import (
    caltech_frames,
    CALTECH_SUBSETS,
    log_average_miss_rate,
    REFERENCE_FPPI,
    visible_share,
)
from kd_perception.labels.kitti_text import parse_label_text
from kd_perception.labels.object_table import ObjectTable

# Output of the Caltech toolbox's matching and curve.
ORACLE = json.loads(gzip.decompress((Path(__file__).parent / 'data' / 'lamr_oracle.json.gz').read_bytes()))
REST = '1 1 1 1 1 1 0.1'


def arrays(case):
    return [(np.array(truth, dtype=float).reshape(-1, 5), np.array(found, dtype=float).reshape(-1, 5))
            for truth, found in case]


@pytest.mark.parametrize('case', sorted(ORACLE))
def test_every_case_equals_the_toolbox(case):
    result = log_average_miss_rate(arrays(ORACLE[case]['cases']))
    assert result.lamr == pytest.approx(ORACLE[case]['expected']['lamr'], abs=1e-9)
    np.testing.assert_allclose(result.recall_at_fppi, ORACLE[case]['expected']['recall_at_fppi'], rtol=0,
                               atol=1e-9)


def plain(frames, threshold):
    """evalRes and compRoc, line for line."""
    points, total = [], 0
    for truths, found in frames:
        truths = sorted(truths.tolist(), key=lambda row: row[4] != 0)
        found = sorted(found.tolist(), key=lambda row: -row[4])
        state = [-1 if row[4] else 0 for row in truths]
        total += state.count(0)
        for x, y, w, h, score in found:
            best, best_index, kind = threshold, -1, 0
            for g, (gx, gy, gw, gh, _) in enumerate(truths):
                if state[g] == 1:
                    continue
                if kind != 0 and state[g] == -1:
                    break
                iw, ih = min(x + w, gx + gw) - max(x, gx), min(y + h, gy + gh) - max(y, gy)
                inter = iw * ih if iw > 0 and ih > 0 else 0.0
                union = w * h if state[g] == -1 else w * h + gw * gh - inter
                overlap = inter / union if inter else 0.0
                if overlap < best:
                    continue
                best, best_index, kind = overlap, g, 1 if state[g] == 0 else -1
            if kind == 1:
                state[best_index] = 1
            if kind >= 0:
                points.append((score, kind))
    points.sort(key=lambda point: -point[0])
    fp = np.concatenate([[-np.inf], np.cumsum([1 - kind for _, kind in points]) / len(frames)])
    tp = np.concatenate([[0.0], np.cumsum([kind for _, kind in points]) / total if total else
                         np.zeros(len(points))])
    return np.array([tp[np.flatnonzero(fp <= reference)[-1]] for reference in REFERENCE_FPPI])


box = st.tuples(st.integers(0, 6).map(lambda v: v * 10.0), st.integers(0, 6).map(lambda v: v * 10.0),
                st.sampled_from([10.0, 20.0, 30.0, 40.0]), st.sampled_from([20.0, 40.0]))
truth = st.tuples(box, st.sampled_from([0.0, 0.0, 1.0])).map(lambda t: (*t[0], t[1]))
detection = st.tuples(box, st.sampled_from([0.1, 0.3, 0.5, 0.7])).map(lambda t: (*t[0], t[1]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(truth, max_size=5), st.lists(detection, max_size=6)), min_size=1,
                max_size=6))
def test_the_fast_matching_equals_the_toolbox_loops(case):
    frames = arrays(case)
    np.testing.assert_array_equal(log_average_miss_rate(frames).recall_at_fppi, plain(frames, 0.5))


def test_no_detections_and_no_ground_truth():
    box = np.array([[0, 0, 41, 100, 0.0]])
    nothing = np.zeros((0, 5))
    assert log_average_miss_rate([(box, nothing)]).lamr == 1.0
    assert np.isnan(log_average_miss_rate([(nothing, box)]).lamr)
    assert np.isnan(log_average_miss_rate([]).lamr)


def test_wrong_arrays_are_refused():
    with pytest.raises(EvaluationError, match=r'frame 1: ground truths have shape \(1, 4\)'):
        log_average_miss_rate([([], []), (np.zeros((1, 4)), [])])
    with pytest.raises(EvaluationError, match='frame 0: detections hold a value'):
        log_average_miss_rate([([], [[0, 0, 1, 1, np.nan]])])
    with pytest.raises(EvaluationError, match='frame 0: ground truths hold a value'):
        log_average_miss_rate([([[0, 0, -1, 1, 0]], [])])


def table(text, scored=False):
    return ObjectTable.from_objects([parse_label_text(text, 'f', scored)])


class TestSubsets:
    def ignore_flags(self, text, subset, image_hw=None):
        frames = caltech_frames(table(text), table('', True), subset, image_hw=image_hw)
        return frames[0][0][:, 4].tolist()

    def test_heights_and_visible_shares_select_ground_truth(self):
        text = '\n'.join(f'Pedestrian {truncation} {occlusion} 0 10 10 50 {10 + height} {REST}'
                         for height, occlusion, truncation in
                         [(50, 0, 0), (49.9, 0, 0), (19, 0, 0), (60, 1, 0), (60, 2, 0), (60, 3, 0),
                          (60, 0, 0.4)])
        reasonable, whole, heavy = CALTECH_SUBSETS
        assert self.ignore_flags(text, reasonable) == [0, 1, 1, 0, 1, 1, 1]
        assert self.ignore_flags(text, whole) == [0, 0, 1, 0, 0, 1, 0]
        assert self.ignore_flags(text, heavy) == [1, 1, 1, 1, 0, 1, 0]

    def test_sitting_people_and_dont_care_are_ignored_and_others_left_out(self):
        text = '\n'.join(f'{name} 0 0 0 10 10 50 90 {REST}'
                         for name in ('Pedestrian', 'Person_sitting', 'DontCare', 'Car', 'Cyclist'))
        assert self.ignore_flags(text, CALTECH_SUBSETS[0]) == [0, 1, 1]

    def test_the_border_rule_needs_the_image_size(self):
        text = (f'Pedestrian 0 0 0 4 10 50 90 {REST}\nPedestrian 0 0 0 10 10 50 96 {REST}\n'
                f'Pedestrian 0 0 0 10 10 50 95 {REST}')
        assert self.ignore_flags(text, CALTECH_SUBSETS[0]) == [0, 0, 0]
        assert self.ignore_flags(text, CALTECH_SUBSETS[0], np.array([[100, 200]])) == [1, 1, 0]

    def test_widths_become_41_per_cent_of_the_height_about_the_centre(self):
        labels = table(f'Pedestrian 0 0 0 0 0 100 100 {REST}\nDontCare 0 0 0 0 0 100 100 {REST}')
        found = table(f'Pedestrian 0 0 0 0 0 100 100 {REST} 0.5\nPedestrian 0 0 0 0 0 10 39 {REST} 0.6\n'
                      f'Pedestrian 0 0 0 0 0 10 40 {REST} 0.7\nCar 0 0 0 0 0 100 100 {REST} 0.5', True)
        truths, rows = caltech_frames(labels, found, CALTECH_SUBSETS[0])[0]
        np.testing.assert_allclose(truths, [[29.5, 0, 41, 100, 0], [0, 0, 100, 100, 1]])
        np.testing.assert_allclose(rows[:, 4], [0.5, 0.7])  # 39 px is below 50 / 1.25
        np.testing.assert_allclose(rows[0, :4], [29.5, 0, 41, 100])

    def test_unknown_levels_are_ignored_and_labels_without_level_count(self):
        assert visible_share(np.array([0, 3, -1]), np.array([-1.0, 0, -1.0])).tolist() == [1, 0, 1]


def test_the_interval_is_that_of_resampled_frames():
    frames = arrays(ORACLE['rand1']['cases'])[:40]
    from kd_perception.evaluation.metrics.bootstrap import percentile_interval, resampled_weights
    values = []
    for weights in resampled_weights(40, 60, 5):
        picked = np.repeat(np.arange(40), weights.astype(int))
        values.append(log_average_miss_rate([frames[i] for i in picked]).lamr)
    result = log_average_miss_rate(frames, bootstrap=60, seed=5)
    # Equal scores in repeated frames may be told apart by order: far below the interval's width.
    assert result.ci95 == pytest.approx(percentile_interval(np.array(values)), abs=0.01)
    assert result.ci95[0] < result.lamr < result.ci95[1]
