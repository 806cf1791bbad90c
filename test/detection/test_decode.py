# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Decoders: boxes that were encoded by hand come back; against a loop without vectors."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.detection.decode import decode, output_shapes, sigmoid
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec

BINS = 8
GFL = ModelSpec('tiny', ('a', 'b', 'c'), InputSpec(32, 64), DecoderSpec('gfl', (8, 16), BINS - 1))
ANCHORS = ((10.0, 20.0), (40.0, 8.0))
YOLO = ModelSpec('yolo', ('a', 'b', 'c'), InputSpec(64, 96), DecoderSpec('yolov2', (32,), anchors_px=ANCHORS))
PLAIN = ModelSpec('plain', ('a', 'b'), InputSpec(32, 64), DecoderSpec('boxes_scores'))


def blank():
    return [np.full((1, 3 + 4 * BINS, 32 // s, 64 // s), -20, dtype=np.float32) for s in (8, 16)]


def test_output_shapes():
    assert output_shapes(GFL) == {'level_8': (1, 35, 4, 8), 'level_16': (1, 35, 2, 4)}
    assert output_shapes(YOLO) == {'level_32': (1, 2 * 8, 2, 3)}
    assert output_shapes(PLAIN) == {'boxes': (1, None, 4), 'scores': (1, None, 2)}


def test_one_hand_made_box():
    outputs = blank()
    row, column, stride = 1, 2, 16
    outputs[1][0, 1, row, column] = 2.0
    for side, cells in enumerate((1, 0, 2, 0.5)):
        low = int(cells)
        outputs[1][0, 3 + side * BINS + low, row, column] = 20
        if cells != low:  # half of the mass on each neighbour
            outputs[1][0, 3 + side * BINS + low + 1, row, column] = 20
    result = decode(outputs, GFL, 0.5)
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    assert len(result) == 1 and result.class_ids.tolist() == [1]
    assert result.scores[0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert result.boxes_xyxy[0] == pytest.approx([x - 16, y - 0, x + 32, y + 8], abs=1e-3)


def loop_decode(outputs, threshold):
    """The same definition, cell by cell."""
    found = []
    for output, stride in zip(outputs, (8, 16)):
        for class_id in range(3):
            for row in range(output.shape[2]):
                for column in range(output.shape[3]):
                    cell = output[0, :, row, column].astype(np.float64)
                    score = 1 / (1 + np.exp(-cell[class_id]))
                    if score < threshold:
                        continue
                    sides = []
                    for side in range(4):
                        weights = np.exp(cell[3 + side * BINS:3 + (side + 1) * BINS])
                        sides.append((weights * range(BINS)).sum() / weights.sum() * stride)
                    x, y = (column + 0.5) * stride, (row + 0.5) * stride
                    found.append([x - sides[0], y - sides[1], x + sides[2], y + sides[3], score, class_id])
    return np.array(found).reshape(-1, 6)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_agrees_with_the_loop(seed, threshold):
    random = np.random.default_rng(seed)
    outputs = [random.normal(0, 2, o.shape).astype(np.float32) for o in blank()]
    # Keep scores away from the threshold, where float32 and float64 may disagree.
    logit = np.log(threshold / (1 - threshold))
    for output in outputs:
        near = np.abs(output[:, :3] - logit) < 1e-3
        output[:, :3][near] += 0.01
    result = decode(outputs, GFL, threshold)
    table = np.column_stack([result.boxes_xyxy, result.scores, result.class_ids])
    assert np.allclose(table, loop_decode(outputs, threshold), atol=1e-3)


def test_nothing_found_is_empty():
    assert len(decode(blank(), GFL, 0.5)) == 0
    assert len(decode([np.zeros((1, 0, 4)), np.zeros((1, 0, 2))], PLAIN, 0.5)) == 0


def test_cells_with_nan_give_nothing():
    outputs = blank()
    outputs[0][0, 0, 0, 0] = 5
    outputs[0][0, 3, 0, 0] = np.nan
    outputs[0][0, 0, 1, 1] = np.nan
    assert len(decode(outputs, GFL, 0.5)) == 0


def test_boxes_scores():
    boxes = np.array([[[0, 0, 4, 4], [8, 8, 16, 20], [np.nan, 0, 1, 1]]], dtype=np.float32)
    scores = np.array([[[0.9, 0.6], [0.1, 0.4], [0.9, 0.9]]], dtype=np.float32)
    result = decode([boxes, scores], PLAIN, 0.5)
    assert result.class_ids.tolist() == [0, 1]
    assert result.scores == pytest.approx([0.9, 0.6])
    assert result.boxes_xyxy.tolist() == [[0, 0, 4, 4]] * 2


def test_sigmoid_does_not_overflow():
    with np.errstate(all='raise'):
        assert sigmoid(np.array([-1e4, 0, 1e4], dtype=np.float32)).tolist() == [0, 0.5, 1]


def blank_yolo():
    output = np.zeros((1, 2, 8, 2, 3), dtype=np.float32)
    output[:, :, 4] = -20
    return output


def test_one_hand_made_yolov2_box():
    output = blank_yolo()
    # Anchor 1, row 1, column 2: centre a quarter into the cell, width doubled, height halved.
    output[0, 1, :, 1, 2] = [np.log(1 / 3), 0, np.log(2), np.log(0.5), np.log(4), 0, np.log(8), 0]
    result = decode([output.reshape(1, 16, 2, 3)], YOLO, 0.5)
    x, y = 2.25 * 32, 1.5 * 32
    assert result.class_ids.tolist() == [1]
    assert result.scores[0] == pytest.approx(0.8 * 8 / 10)
    assert result.boxes_xyxy[0] == pytest.approx([x - 40, y - 2, x + 40, y + 2], abs=1e-4)
    # Lower, and the other classes of the same box appear as candidates of their own.
    assert sorted(decode([output.reshape(1, 16, 2, 3)], YOLO, 0.05).class_ids.tolist()) == [0, 1, 2]


def loop_decode_yolov2(output, threshold):
    """The definition, cell by cell."""
    found = []
    for anchor, row, column in np.ndindex(2, 2, 3):
        raw = output.reshape(2, 8, 2, 3)[anchor, :, row, column].astype(np.float64)
        classes = np.exp(raw[5:]) / np.exp(raw[5:]).sum()
        x, y = ((column, row) + 1 / (1 + np.exp(-raw[:2]))) * 32
        w, h = np.array(ANCHORS[anchor]) * np.exp(raw[2:4])
        for class_id in range(3):
            score = classes[class_id] / (1 + np.exp(-raw[4]))
            if score >= threshold:
                found.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2, score, class_id])
    return np.array(sorted(found)).reshape(-1, 6)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.9))
def test_yolov2_agrees_with_the_loop(seed, threshold):
    output = np.random.default_rng(seed).normal(0, 1.5, (1, 16, 2, 3)).astype(np.float32)
    expected = loop_decode_yolov2(output, threshold)
    if len(expected) and np.abs(loop_decode_yolov2(output, 0.0)[:, 4] - threshold).min() < 1e-5:
        return  # float32 and float64 may disagree on the threshold itself
    result = decode([output], YOLO, threshold)
    table = np.column_stack([result.boxes_xyxy, result.scores, result.class_ids])
    assert np.allclose(table[np.lexsort(table.T[::-1])].reshape(-1, 6), expected, rtol=1e-4, atol=1e-2)


def test_yolov2_cells_without_finite_values_give_nothing():
    output = blank_yolo()
    output[0, 0, :, 0, 0] = [0, 0, 1000, 0, 5, 9, 0, 0]  # exp overflows
    output[0, 0, :, 0, 1] = [np.nan, 0, 0, 0, 5, 9, 0, 0]
    output[0, 0, :, 0, 2] = [0, 0, 0, 0, 5, np.nan, 0, 0]
    output[0, 0, :, 1, 0] = [0, 0, 0, 0, np.nan, 9, 0, 0]
    assert len(decode([output.reshape(1, 16, 2, 3)], YOLO, 0.5)) == 0
    assert len(decode([blank_yolo().reshape(1, 16, 2, 3)], YOLO, 0.5)) == 0
