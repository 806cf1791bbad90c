# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Weighted boxes fusion: worked examples, and what holds for any members."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.fusion import weighted_boxes_fusion

EVEN = np.ones((3, 2))
NOTHING = Detections.empty()


def found(*rows):
    """(class, score, box) -> detections."""
    return Detections(np.array([row[2] for row in rows], float).reshape(-1, 4),
                      np.array([row[1] for row in rows], float), np.array([row[0] for row in rows], int))


def test_boxes_are_means_by_score_and_scores_means_over_all_members():
    members = [found((0, 0.9, (0, 0, 10, 10))), found((0, 0.3, (0, 0, 14, 10))), NOTHING]
    fused = weighted_boxes_fusion(members, EVEN)
    np.testing.assert_allclose(fused.detections.boxes_xyxy, [[0, 0, 11, 10]], atol=1e-5)
    np.testing.assert_allclose(fused.detections.scores, [(0.9 + 0.3) / 3], atol=1e-6)
    assert fused.votes.tolist() == [2]


def test_classes_and_distant_boxes_stay_apart():
    fused = weighted_boxes_fusion([found((0, 0.9, (0, 0, 10, 10)), (0, 0.6, (20, 0, 30, 10))),
                                   found((1, 0.9, (0, 0, 10, 10))), NOTHING], EVEN)
    assert fused.detections.class_ids.tolist() == [0, 1, 0] and fused.votes.tolist() == [1, 1, 1]


def test_a_member_that_does_not_know_a_class_is_not_asked():
    weights = np.array([[1, 1], [1, 0], [2, 0]], float)
    box = (0, 0, 10, 20)
    fused = weighted_boxes_fusion([found((1, 0.8, box)), found((1, 1.0, box)), NOTHING], weights)
    np.testing.assert_allclose(fused.detections.scores, [0.8], atol=1e-6)
    fused = weighted_boxes_fusion([found((0, 0.8, box)), found((0, 0.4, box)), found((0, 0.5, box))], weights)
    np.testing.assert_allclose(fused.detections.scores, [(0.8 + 0.4 + 2 * 0.5) / 4], atol=1e-6)


def test_a_member_that_sees_an_object_twice_votes_once():
    twice = found((0, 0.9, (0, 0, 10, 10)), (0, 0.6, (0, 1, 10, 11)))
    fused = weighted_boxes_fusion([twice, NOTHING, NOTHING], EVEN)
    assert fused.votes.tolist() == [1]
    np.testing.assert_allclose(fused.detections.scores, [0.3], atol=1e-6)


BOXES = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
ROWS = st.tuples(st.integers(0, 1), st.floats(0.05, 1), BOXES)
MEMBERS = st.lists(ROWS, max_size=5).map(lambda rows: found(*rows))


@settings(max_examples=60, deadline=None)
@given(st.tuples(MEMBERS, MEMBERS, MEMBERS))
def test_fused_scores_are_probabilities_in_order_and_boxes_lie_within(members):
    fused = weighted_boxes_fusion(members, EVEN)
    scores, boxes = fused.detections.scores, fused.detections.boxes_xyxy
    assert (np.diff(scores) <= 1e-6).all() and (scores > 0).all() and (scores <= 1 + 1e-6).all()
    assert len(fused.votes) == len(scores) and (fused.votes <= 3).all()
    if len(boxes):
        all_boxes = np.concatenate([m.boxes_xyxy for m in members])
        assert (boxes[:, :2].min(0) >= all_boxes[:, :2].min(0) - 1e-3).all()
        assert (boxes[:, 2:].max(0) <= all_boxes[:, 2:].max(0) + 1e-3).all()


def test_one_member_alone_keeps_its_boxes():
    rows = [(0, 0.9, (0, 0, 10, 10)), (1, 0.5, (5, 5, 20, 30))]
    fused = weighted_boxes_fusion([found(*rows)], np.ones((1, 2)))
    np.testing.assert_allclose(fused.detections.boxes_xyxy, [row[2] for row in rows])
    np.testing.assert_allclose(fused.detections.scores, [row[1] for row in rows])
