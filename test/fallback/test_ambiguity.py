# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Features: each on a frame where its value is plain."""

import math

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.ambiguity import (
    FeatureExtractor,
    FEATURES,
    features_for,
    FeatureSettings,
    FeatureVector,
    MAX_CLASSES_WITH_FEATURES,
)
from kd_perception.images.scene import SceneSignals

LABELS = ('Car', 'Pedestrian')
HW = (100, 200)
S = 1_000_000_000


def detections(*rows):
    """Rows of (x_min, y_min, x_max, y_max, score, class id)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5])


def features(*rows, hw=HW, scene=None, **settings):
    return FeatureExtractor(FeatureSettings(**settings), LABELS).extract(detections(*rows), 1 * S, hw, scene)


def spread(*scores, class_id=0):
    """One 10 px box a score, far from one another and from the border."""
    return [(10 + 20 * i, 40, 20 + 20 * i, 50, score, class_id) for i, score in enumerate(scores)]


def test_empty_frame():
    f = features()
    assert f['empty'] == 1 and f['class_margin'] == 1
    for name in ('accepted', 'candidates', 'weak_share', 'band', 'top_score', 'best_rejected',
                 'rejected_mass', 'accepted_doubt', 'entropy', 'crowded', 'small', 'edge', 'accepted.Car',
                 'rejected_mass.Car'):
        assert f[name] == 0, name
    for name in ('least_accepted', 'median_height', 'appeared', 'vanished', 'luminance', 'sharpness'):
        assert math.isnan(f[name]), name


def test_a_frame_with_only_weak_boxes_is_empty_and_says_what_it_nearly_saw():
    f = features(*spread(0.39, 0.1))
    assert (f['empty'], f['accepted'], f['candidates'], f['weak_share']) == (1, 0, 2, 1)
    assert f['best_rejected'] == pytest.approx(0.39) and f['rejected_mass'] == pytest.approx(0.49)


def test_scores():
    f = features(*spread(0.1, 0.9, 0.3, 0.5, 0.04))
    assert (f['empty'], f['accepted'], f['candidates'], f['weak_share']) == (0, 2, 4, 0.5)
    assert f['band'] == 2
    assert f['top_score'] == pytest.approx(0.9)
    assert f['best_rejected'] == pytest.approx(0.3)
    assert f['least_accepted'] == pytest.approx(0.5)
    assert f['rejected_mass'] == pytest.approx(0.4)
    assert f['accepted_doubt'] == pytest.approx(0.6)
    entropy = sum(-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in (0.1, 0.9, 0.3, 0.5))
    assert f['entropy'] == pytest.approx(entropy, rel=1e-6)


@pytest.mark.parametrize('score,accepted,candidates,band', [
    (0.4, 1, 1, 1), (0.25, 0, 1, 1), (0.6, 1, 1, 1), (0.05, 0, 1, 0), (0.61, 1, 1, 0), (0.24, 0, 1, 0),
    (0.049, 0, 0, 0), (1.0, 1, 1, 0)])
def test_limits_belong_to_the_inside(score, accepted, candidates, band):
    f = features(*spread(score))
    assert (f['accepted'], f['candidates'], f['band']) == (accepted, candidates, band)


def test_scores_beyond_one_are_taken_as_one():
    f = features(*spread(7.0))
    assert f['top_score'] == 1 and f['accepted_doubt'] == 0 and f['entropy'] == 0


def test_class_margin_of_one_object_under_two_names():
    box = (50, 40, 60, 60)
    assert features((*box, 0.7, 0), (*box, 0.55, 1))['class_margin'] == pytest.approx(0.15)
    assert features((*box, 0.7, 0), (*box, 0.55, 0))['class_margin'] == 1
    assert features((*box, 0.7, 0), (90, 40, 99, 60, 0.55, 1))['class_margin'] == 1


def test_two_faint_names_are_no_conflict():
    box = (50, 40, 60, 60)
    assert features((*box, 0.24, 0), (*box, 0.24, 1))['class_margin'] == 1
    assert features((*box, 0.25, 0), (*box, 0.1, 1))['class_margin'] == pytest.approx(0.15)


def test_least_margin_counts():
    a, b = (10, 40, 20, 60), (50, 40, 60, 60)
    f = features((*a, 0.9, 0), (*a, 0.4, 1), (*b, 0.6, 0), (*b, 0.5, 1))
    assert f['class_margin'] == pytest.approx(0.1)


def test_crowded_counts_each_hidden_box_once():
    f = features((50, 40, 60, 60, 0.9, 0), (51, 40, 61, 60, 0.8, 1), (50, 40, 60, 60, 0.7, 0),
                 (150, 40, 160, 60, 0.6, 0))
    assert f['crowded'] == 2


def test_crowded_counts_the_hidden_not_the_hiding():
    f = features((50, 40, 70, 60, 0.9, 0), (50, 40, 60, 60, 0.5, 0), (60, 40, 70, 60, 0.5, 0))
    assert f['crowded'] == 2


def test_overlap_limits_belong_to_the_inside():
    half = ((50, 40, 60, 60, 0.9, 0), (50, 40, 60, 50, 0.7, 1))         # IoU 0.5
    assert features(*half, conflict_iou=0.5)['class_margin'] == pytest.approx(0.2)
    assert features(*half, conflict_iou=0.51)['class_margin'] == 1
    assert (features(*half, crowd_iou=0.5)['crowded'], features(*half, crowd_iou=0.51)['crowded']) == (1, 0)


@pytest.mark.parametrize('hw', [(0, 200), (100, 0)])
def test_an_image_without_a_size_is_no_image(hw):
    assert math.isnan(features(*spread(0.9), hw=hw)['small'])


def test_sizes():
    f = features((50, 40, 60, 47, 0.9, 0), (90, 40, 95, 48, 0.9, 0), (120, 20, 140, 60, 0.3, 0))
    assert f['small'] == 1      # 7 of 100 px, limit 8
    assert f['median_height'] == pytest.approx(0.08)


@pytest.mark.parametrize('box,edge', [
    ((2, 40, 9, 60), 1), ((3, 40, 9, 60), 0), ((50, 2, 60, 20), 1), ((150, 40, 198, 60), 1),
    ((150, 40, 197, 60), 0), ((50, 40, 60, 98), 1), ((50, 40, 60, 97), 0), ((-5, 40, 9, 60), 1)])
def test_edge(box, edge):
    assert features((*box, 0.9, 0))['edge'] == edge


def test_unknown_image_size():
    f = features(*spread(0.9), hw=None)
    assert all(math.isnan(f[name]) for name in ('small', 'edge', 'median_height'))


def test_scene_passes_through():
    f = features(scene=SceneSignals(90.0, 30.0, 0.2, 0.1, 400.0))
    assert [f[name] for name in ('luminance', 'contrast', 'dark_share', 'saturated_share', 'sharpness')] == [
        90, 30, 0.2, 0.1, 400]


def test_classes():
    f = features(*spread(0.9, 0.2), *[(10, 80, 20, 90, 0.3, 1), (40, 80, 50, 90, 0.1, 1)])
    assert (f['accepted.Car'], f['accepted.Pedestrian']) == (1, 0)
    assert f['rejected_mass.Car'] == pytest.approx(0.2)
    assert f['rejected_mass.Pedestrian'] == pytest.approx(0.4)


def test_an_unknown_class_id_counts_for_no_class():
    f = features(*spread(0.9, class_id=5))
    assert f['accepted'] == 1 and f['accepted.Car'] == f['accepted.Pedestrian'] == 0


def test_many_classes_leave_the_vector_short():
    few = tuple(f'c{i}' for i in range(MAX_CLASSES_WITH_FEATURES))
    assert len(features_for(few)) == len(FEATURES) + 2 * len(few)
    assert features_for((*few, 'one more')) == FEATURES
    vector = FeatureExtractor(FeatureSettings(), (*few, 'x')).extract(detections(*spread(0.9)), 0)
    assert len(vector.values) == len(FEATURES)


class TestFlicker:
    """Against the frames before."""

    @staticmethod
    def run(frames, **settings):
        """Frames are (stamp s, rows); return (appeared, vanished) of the last."""
        extractor = FeatureExtractor(FeatureSettings(**settings), LABELS)
        for stamp, rows in frames:
            f = extractor.extract(detections(*rows), round(stamp * S), HW)
        return f['appeared'], f['vanished']

    A, B = (10, 40, 30, 60), (100, 40, 120, 60)

    def test_steady(self):
        near = (12, 40, 32, 60)
        assert self.run([(0, [(*self.A, 0.9, 0)]), (0.1, [(*near, 0.9, 0)])]) == (0, 0)

    def test_first_frame_knows_nothing(self):
        assert all(map(math.isnan, self.run([(0, [(*self.A, 0.9, 0)])])))

    def test_appears_and_vanishes(self):
        assert self.run([(0, [(*self.A, 0.9, 0)]), (0.1, [(*self.B, 0.9, 0)])]) == (1, 1)
        assert self.run([(0, []), (0.1, [(*self.A, 0.9, 0), (*self.B, 0.9, 0)])]) == (2, 0)
        assert self.run([(0, [(*self.A, 0.9, 0), (*self.B, 0.9, 0)]), (0.1, [])]) == (0, 2)

    def test_falling_below_the_working_threshold_is_vanishing(self):
        assert self.run([(0, [(*self.A, 0.9, 0)]), (0.1, [(*self.A, 0.39, 0)])]) == (0, 1)

    def test_a_change_of_class_is_both(self):
        assert self.run([(0, [(*self.A, 0.9, 0)]), (0.1, [(*self.A, 0.9, 1)])]) == (1, 1)

    def test_mean_over_the_history(self):
        frames = [(0, []), (0.1, [(*self.A, 0.9, 0)]), (0.2, [(*self.A, 0.9, 0)])]
        assert self.run(frames) == (0.5, 0)
        assert self.run(frames, history_frames=1) == (0, 0)
        assert all(map(math.isnan, self.run(frames, history_frames=0)))

    def test_old_frames_do_not_count(self):
        frames = [(7, [(*self.A, 0.9, 0)]), (8.0, [])]
        assert self.run(frames) == (0, 1)
        assert all(map(math.isnan, self.run([frames[0], (8.000001, [])])))

    def test_match_limit_belongs_to_the_inside(self):
        half = (10, 40, 30, 50)     # IoU 0.5 with A
        frames = [(0, [(*self.A, 0.9, 0)]), (0.1, [(*half, 0.9, 0)])]
        assert self.run(frames, match_iou=0.5) == (0, 0)
        assert self.run(frames, match_iou=0.51) == (1, 1)

    @pytest.mark.parametrize('stamp', [5.0, 4.9, 0.0])
    def test_a_loop_starts_a_new_history(self, stamp):
        assert all(map(math.isnan, self.run([(5.0, [(*self.A, 0.9, 0)]), (stamp, [])])))

    def test_reset(self):
        extractor = FeatureExtractor(FeatureSettings(), LABELS)
        extractor.extract(detections(), 0)
        extractor.reset()
        assert math.isnan(extractor.extract(detections(), 1)['appeared'])


def test_work_is_bounded_by_the_best_boxes():
    scores = np.linspace(0.06, 0.99, 3000)
    many = Detections(np.tile([10, 10, 20, 20], (3000, 1)), scores, np.zeros(3000))
    f = FeatureExtractor(FeatureSettings(max_boxes=50), LABELS).extract(many, 0, HW)
    assert f['candidates'] == 50 and f['top_score'] == pytest.approx(0.99) and f['accepted'] == 50


def test_vector():
    f = features(*spread(0.9))
    assert list(f.as_dict()) == list(f.names) == [feature.name for feature in features_for(LABELS)]
    assert f.values.dtype == np.float64 and f.as_dict()['accepted'] == 1
    with pytest.raises(KeyError, match='nothing'):
        FeatureVector(('a',), np.zeros(1))['nothing']


@pytest.mark.parametrize('change,message', [
    ({'score_low': 0.5}, 'score_low'), ({'score_low': 0}, 'score_low'), ({'score_work': 1.1}, 'score_low'),
    ({'band_low': 0.7}, 'band'), ({'conflict_iou': 0}, 'conflict_iou'), ({'match_iou': 1.1}, 'match_iou'),
    ({'crowd_iou': 0}, 'crowd_iou'), ({'small_height': 0}, 'small_height'),
    ({'history_frames': 11}, 'history'), ({'history_age_ns': -1}, 'history'),
    ({'max_boxes': 0}, 'max_boxes'), ({'max_boxes': 1001}, 'max_boxes')])
def test_settings_refuse(change, message):
    with pytest.raises(ValueError, match=message):
        FeatureSettings(**change)


BOX = st.tuples(st.floats(-50, 250, width=32), st.floats(-50, 150, width=32), st.floats(-50, 250, width=32),
                st.floats(-50, 150, width=32), st.floats(0, 1, width=32), st.integers(0, 1))


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(BOX, max_size=8), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_frames_in_any_box_order(frames, random):
    """Features are finite or NaN, counts are consistent, and the order of the boxes says nothing."""
    one, other = (FeatureExtractor(FeatureSettings(), LABELS) for _ in range(2))
    for i, rows in enumerate(frames):
        f = one.extract(detections(*rows), i, HW)
        assert not np.isinf(f.values).any()
        assert f['accepted'] + round(f['weak_share'] * f['candidates']) == pytest.approx(f['candidates'])
        assert f['empty'] == (f['accepted'] == 0)
        assert f['accepted.Car'] + f['accepted.Pedestrian'] == f['accepted']
        assert 0 <= f['class_margin'] <= 1
        shuffled = list(rows)
        random.shuffle(shuffled)
        if len({row[4] for row in rows}) == len(rows):     # ties may fall either way
            again = other.extract(detections(*shuffled), i, HW)
            np.testing.assert_allclose(again.values, f.values, rtol=1e-12)
        else:
            other = FeatureExtractor(FeatureSettings(), LABELS)
            one.reset()
