# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Drawing: pixels change where they should, and nowhere in the input."""

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.detection.drawing import class_color, contact_sheet, draw_detections


def test_box_is_drawn_on_a_copy():
    image = np.zeros((100, 200, 3), np.uint8)
    detections = Detections([[20, 40, 120, 90]], [0.8], [1])
    out = draw_detections(image, detections, ['Car', 'Pedestrian'])
    assert not image.any()
    for x, y in ((20, 60), (120, 60), (70, 90)):
        assert tuple(out[y, x]) == class_color(1)
    assert not out[65, 70].any()


def test_weak_boxes_are_left_out_and_odd_values_survive():
    image = np.zeros((50, 50, 3), np.uint8)
    assert not draw_detections(image, Detections([[5, 5, 9, 9]], [0.2], [0]), ['Car'], min_score=0.3).any()
    odd = Detections([[-1e4, -1e4, 1e4, 1e4], [49, 49, 50, 50]], [0.9, 0.9], [7, 0])
    assert draw_detections(image, odd, ['Car']).shape == image.shape


def test_contact_sheet():
    images = [np.full((50, 100, 3), 10 * i, np.uint8) for i in range(1, 5)]
    sheet = contact_sheet(images, [f'frame {i}' for i in range(4)], columns=3, tile_width=80)
    assert sheet.shape == (2 * (40 + 24), 240, 3)
    assert (sheet[5, 85] == 20).all() and (sheet[70, 5] == 40).all()
    with pytest.raises(ValueError):
        contact_sheet([])
    with pytest.raises(ValueError):
        contact_sheet(images, ['one'])
