# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Letterbox: geometry properties, and where pixels really land."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.detection.letterbox import Letterbox

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
PLACEMENTS = st.sampled_from(['centre', 'top_left', 'stretch'])


@given(SIZES, SIZES)
def test_image_fits_and_touches(source_hw, target_hw):
    box = Letterbox.fit(source_hw, target_hw)
    (height, width), (left, top) = box.resized_hw, box.offset_xy
    assert 0 <= top and top + height <= target_hw[0]
    assert 0 <= left and left + width <= target_hw[1]
    assert height == target_hw[0] or width == target_hw[1]
    # Centred to within a pixel.
    assert abs((target_hw[0] - height) - 2 * top) <= 1 and abs((target_hw[1] - width) - 2 * left) <= 1
    # The aspect is kept to within the rounding of a pixel.
    scale = min(target_hw[0] / source_hw[0], target_hw[1] / source_hw[1])
    assert abs(height - max(1, source_hw[0] * scale)) <= 0.5 + 1e-9
    assert abs(width - max(1, source_hw[1] * scale)) <= 0.5 + 1e-9


@given(SIZES, SIZES)
def test_top_left_moves_the_centred_image_and_stretch_fills(source_hw, target_hw):
    centred = Letterbox.fit(source_hw, target_hw)
    corner, filled = (Letterbox.fit(source_hw, target_hw, where) for where in ('top_left', 'stretch'))
    assert corner.offset_xy == filled.offset_xy == (0, 0)
    assert corner.resized_hw == centred.resized_hw and filled.resized_hw == target_hw


@given(SIZES, SIZES, PLACEMENTS, st.lists(st.tuples(*[st.floats(-100, 4000)] * 4), max_size=5))
def test_inverse_is_exact(source_hw, target_hw, placement, rows):
    box = Letterbox.fit(source_hw, target_hw, placement)
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    assert np.allclose(box.to_image(box.to_model(boxes)), boxes, rtol=1e-9, atol=1e-6)


@given(SIZES, SIZES, PLACEMENTS)
def test_corners_map_to_corners(source_hw, target_hw, placement):
    box = Letterbox.fit(source_hw, target_hw, placement)
    corners = box.to_model(np.array([[0, 0, source_hw[1], source_hw[0]]]))[0]
    left, top = box.offset_xy
    assert corners == pytest.approx([left, top, left + box.resized_hw[1], top + box.resized_hw[0]])


@pytest.mark.parametrize('placement', ['centre', 'top_left', 'stretch'])
@pytest.mark.parametrize('source_hw,target_hw', [
    ((375, 1242), (384, 1280)), ((480, 640), (192, 640)), ((1080, 1920), (192, 640)),
    ((90, 100), (384, 1280))])
def test_pixels_land_where_boxes_say(source_hw, target_hw, placement):
    """A bright rectangle is found again at the mapped box, to within one pixel."""
    image = np.zeros((*source_hw, 3), dtype=np.uint8)
    x0, y0, x1, y1 = (round(f * s) for f, s in zip((0.3, 0.2, 0.6, 0.7), (source_hw[1], source_hw[0]) * 2))
    image[y0:y1, x0:x1] = 255
    box = Letterbox.fit(source_hw, target_hw, placement)
    out = box.apply(image, pad_value=0)
    rows, columns = np.nonzero(out[..., 0] > 127)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(found - box.to_model(np.array([[x0, y0, x1, y1]]))[0]).max() <= 1


def test_padding_value_and_reused_buffer():
    box = Letterbox.fit((10, 10), (20, 60))
    out = np.full((20, 60, 3), 7, dtype=np.uint8)
    result = box.apply(np.full((10, 10, 3), 200, dtype=np.uint8), pad_value=114, out=out)
    assert result is out
    assert (out[:, 20:40] == 200).all()
    assert (out[:, :20] == 114).all() and (out[:, 40:] == 114).all()


def test_same_size_is_a_copy():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(Letterbox.fit((4, 6), (4, 6)).apply(image), image)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match='positive'):
        Letterbox.fit((0, 5), (10, 10))
    with pytest.raises(ValueError, match='expected'):
        Letterbox.fit((5, 5), (10, 10)).apply(np.zeros((5, 6, 3), dtype=np.uint8))
