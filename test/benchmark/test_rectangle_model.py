# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The synthetic model, since other tests believe what it says."""

import numpy as np
import pytest

from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from kd_perception.detection.onnx_detector import OnnxDetector


@pytest.mark.parametrize('decoder', ['boxes_scores', 'gfl'])
def test_boxes_classes_and_scores(tmp_path, decoder):
    detector = OnnxDetector.load(write_rectangle_model(tmp_path / 'm.onnx', (96, 128), decoder))
    image = draw_rectangles((96, 128), (0, (10, 20, 41, 50), 255), (2, (70, 3, 100, 90), 128),
                            (1, (110, 60, 127, 95), 80))
    found = detector.detect(image, score_threshold=0.3).detections
    assert found.class_ids.tolist() == [0, 2, 1]
    expected = [[10, 20, 41, 50], [70, 3, 100, 90], [110, 60, 127, 95]]
    np.testing.assert_allclose(found.boxes_xyxy, expected, atol=1e-3)
    np.testing.assert_allclose(found.scores, [1, 128 / 255, 80 / 255], atol=1e-4)
    assert detector.detect(image).detections.class_ids.tolist() == [0, 2]


@pytest.mark.parametrize('decoder', ['boxes_scores', 'gfl'])
@pytest.mark.parametrize('grey', [0, 114, 255])
def test_grey_is_nothing(tmp_path, decoder, grey):
    detector = OnnxDetector.load(write_rectangle_model(tmp_path / 'm.onnx', decoder=decoder))
    assert len(detector.detect(np.full((50, 60, 3), grey, np.uint8)).detections) == 0


def test_boxes_of_a_larger_image_are_exact(tmp_path):
    detector = OnnxDetector.load(write_rectangle_model(tmp_path / 'm.onnx', (96, 128)))
    image = draw_rectangles((192, 256), (1, (40, 60, 120, 100), 255))
    assert detector.detect(image).detections.boxes_xyxy.tolist() == [[40, 60, 120, 100]]


def test_load_costs_time_and_changes_nothing(tmp_path):
    fast = OnnxDetector.load(write_rectangle_model(tmp_path / 'fast.onnx'))
    slow = OnnxDetector.load(write_rectangle_model(tmp_path / 'slow.onnx', load_steps=500))
    image = draw_rectangles((96, 128), (0, (10, 20, 41, 50), 255))
    runs = [[detector.detect(image) for detector in (fast, slow)] for _ in range(9)]
    results = runs[0]
    assert results[0].detections.boxes_xyxy.tolist() == results[1].detections.boxes_xyxy.tolist()
    assert results[0].detections.scores.tolist() == results[1].detections.scores.tolist()
    # The best of nine, since a busy machine makes any single run long.
    best = [min(run[i].timings.inference_ns for run in runs) for i in range(2)]
    assert best[1] > 2 * best[0]
