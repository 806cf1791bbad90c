# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""IoU and its relatives: known values and properties."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from kd_perception.boxes.overlap import (
    box_area,
    box_intersection,
    box_intersection_over_area,
    box_iou,
    clip_boxes,
)


def boxes(max_count=8):
    """Well-formed boxes on a grid of eighths of a pixel, so that float32 holds them exactly."""
    corners = hnp.arrays(np.int64, st.tuples(st.integers(0, max_count), st.just(4)),
                         elements=st.integers(-4000, 16000))
    return corners.map(lambda a: np.stack(
        [np.minimum(a[:, 0], a[:, 2]), np.minimum(a[:, 1], a[:, 3]),
         np.maximum(a[:, 0], a[:, 2]), np.maximum(a[:, 1], a[:, 3])], axis=1) / 8)


def test_known_values():
    a = np.array([[0, 0, 10, 10]], dtype=float)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [2, 2, 4, 4]], dtype=float)
    assert box_intersection(a, b).tolist() == [[100, 50, 0, 4]]
    assert box_iou(a, b)[0] == pytest.approx([1, 1 / 3, 0, 0.04])
    assert box_intersection_over_area(a, b)[0] == pytest.approx([1, 0.5, 0, 0.04])
    assert box_intersection_over_area(b, a)[:, 0] == pytest.approx([1, 0.5, 0, 1])


def test_width_has_no_plus_one():
    assert box_area(np.array([[3.0, 4.0, 3.5, 6.0]])).tolist() == [1.0]


@given(boxes(), boxes())
def test_iou_is_symmetric_and_bounded(a, b):
    iou = box_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1)).all()
    assert np.array_equal(iou, box_iou(b, a).T)
    assert (iou <= box_intersection_over_area(a, b) + 1e-12).all()


@given(boxes())
def test_iou_with_itself_is_one_unless_empty(a):
    diagonal = np.diag(box_iou(a, a))
    assert np.array_equal(diagonal, (box_area(a) > 0).astype(float))


@given(boxes(), st.integers(-50, 50), st.integers(1, 8))
def test_iou_ignores_translation_and_scale(a, shift, scale):
    assert np.allclose(box_iou(a, a), box_iou(a * scale + shift, a * scale + shift))


@given(boxes(), st.integers(1, 500), st.integers(1, 500))
def test_clip_stays_inside_and_keeps_the_input(a, height, width):
    before = a.copy()
    clipped = clip_boxes(a, (height, width))
    assert np.array_equal(a, before)
    assert (clipped >= 0).all() and (clipped[:, ::2] <= width).all() and (clipped[:, 1::2] <= height).all()
    image = np.array([[0.0, 0.0, width, height]])
    assert np.allclose(box_area(clipped), box_intersection(a, image)[:, 0])
