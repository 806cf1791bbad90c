# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""NMS: against a plain reference that is written the obvious way, and properties."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from kd_perception.boxes.nms import nms
from kd_perception.boxes.overlap import box_iou


@st.composite
def candidates(draw):
    count = draw(st.integers(0, 12))
    values = draw(st.lists(st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2, st.integers(0, 4),
                                     st.integers(0, 2)), min_size=count, max_size=count))
    rows = np.array(values, dtype=float).reshape(-1, 6)
    boxes = np.stack([rows[:, 0], rows[:, 1], rows[:, 0] + rows[:, 2], rows[:, 1] + rows[:, 3]], axis=1)
    return boxes, rows[:, 4] / 4, rows[:, 5].astype(int)


def reference(boxes, scores, class_ids, threshold, limit):
    """Textbook greedy NMS, one class at a time, no vectors."""
    left = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = []
    while left and len(kept) < limit:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if class_ids[i] != class_ids[best]
                or box_iou(boxes[[best]], boxes[[i]])[0, 0] <= threshold]
    return kept


@given(candidates(), st.sampled_from([0.1, 0.3, 0.5, 0.9, 1.0]), st.integers(0, 15))
def test_agrees_with_the_textbook(case, threshold, limit):
    assert nms(*case, threshold, limit).tolist() == reference(*case, threshold, limit)


@given(candidates())
def test_kept_boxes_of_a_class_do_not_overlap(case):
    boxes, scores, class_ids = case
    kept = nms(boxes, scores, class_ids, 0.5, 100)
    overlap = box_iou(boxes[kept], boxes[kept]) > 0.5
    same = class_ids[kept][:, None] == class_ids[kept][None]
    assert not (overlap & same & ~np.eye(len(kept), dtype=bool)).any()
    assert (np.diff(scores[kept]) <= 0).all()


def test_best_candidates_enter_when_there_are_too_many():
    boxes = np.stack([np.arange(50) * 10, np.zeros(50), np.arange(50) * 10 + 5, np.ones(50)], axis=1)
    kept = nms(boxes, np.arange(50) / 50, np.zeros(50, dtype=int), 0.5, 100, max_candidates=7)
    assert kept.tolist() == list(range(49, 42, -1))


def test_nothing_in_nothing_out():
    assert nms(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5, 10).shape == (0,)
