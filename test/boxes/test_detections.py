# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The Detections value."""

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections


def make(count):
    boxes = np.arange(count * 4).reshape(count, 4)
    return Detections(boxes, np.linspace(0.1, 0.9, count), np.arange(count) % 3)


def test_empty_is_an_ordinary_value():
    empty = Detections.empty()
    assert len(empty) == 0
    assert empty.boxes_xyxy.shape == (0, 4)
    assert len(empty.above(0.5)) == len(empty.by_score()) == len(empty.select(slice(None))) == 0
    assert len(Detections.concatenate([])) == 0
    assert len(Detections.concatenate([empty, make(2), empty])) == 2


def test_lists_become_arrays_of_the_promised_types():
    detections = Detections([], [], [])
    assert detections.boxes_xyxy.shape == (0, 4)
    assert (detections.boxes_xyxy.dtype, detections.scores.dtype, detections.class_ids.dtype) == (
        np.float32, np.float32, np.int64)


def test_by_score_is_stable():
    detections = Detections(np.zeros((4, 4)), [0.5, 0.9, 0.5, 0.9], [0, 1, 2, 3]).by_score()
    assert detections.class_ids.tolist() == [1, 3, 0, 2]


def test_above_includes_the_threshold():
    assert Detections(np.zeros((2, 4)), [0.5, 0.25], [0, 0]).above(0.5).scores.tolist() == [0.5]


@pytest.mark.parametrize('arrays', [
    (np.zeros((2, 4)), np.zeros(3), np.zeros(2)),
    (np.zeros((2, 4)), np.zeros(2), np.zeros(1)),
    (np.zeros((2, 5)), np.zeros(2), np.zeros(2)),
    (np.full((1, 4), np.nan), np.zeros(1), np.zeros(1)),
    (np.zeros((1, 4)), np.full(1, np.inf), np.zeros(1)),
])
def test_contradictions_are_refused(arrays):
    with pytest.raises(ValueError):
        Detections(*arrays)
