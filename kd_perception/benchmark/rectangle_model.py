# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A model that needs no training: it finds one bright rectangle per colour, to the pixel.

The benchmark measures the node with it where inference must cost next to nothing, or a chosen time; the
tests assert boxes exactly with it. Class 0 is a blue rectangle, 1 a green one, 2 a red one; the score is the
brightness over 255. It is an ordinary model file: uint8 NHWC BGR in, metadata inside, either decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import statistics

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, ThresholdSpec

LABELS = ('Car', 'Pedestrian', 'Cyclist')
THRESHOLDS = ThresholdSpec(score=0.4, score_low=0.05, nms_iou=0.5, max_detections=100)
# How much brighter than the other two channels a pixel of a rectangle is; grey and black are background.
MIN_CONTRAST = 60
STRIDE_PX = 8
REG_MAX = 15
# One step of the load: a square matrix product of this size, some 0.1 ms on one core.
_LOAD_SIZE = 128
_CALIBRATION_ROUNDS = 3


class _Graph:
    """Collects nodes and constants; every method returns the name of its output."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value: np.ndarray) -> str:
        name = f'constant_{len(self.constants)}'
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, output: str | None = None, **attributes) -> str:
        output = output or f'{op}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output


def write_rectangle_model(
        path: str | Path, input_hw: tuple[int, int] = (96, 128), decoder: str = 'boxes_scores',
        load_steps: int = 0, labels: Sequence[str] = LABELS, name: str = 'rectangles',
        score_gain: float = 1.0, thresholds: ThresholdSpec = THRESHOLDS) -> Path:
    """
    Write the model file.

    :param input_hw: (height, width) px of the model's input; multiples of 8 with `gfl`.
    :param decoder: `boxes_scores` or `gfl`; with gfl a side is at most 2 * 8 * 15 = 240 px.
    :param load_steps: matrix products done on top, to make it as slow as wanted; see `steps_for`.
    :param labels: three class names.
    :param score_gain: factor of the scores, so that the results of two models tell them apart.
    :return: the path.
    """
    height, width = input_hw
    graph = _Graph()
    boxes, scores = _find_rectangles(graph, input_hw)
    if score_gain != 1:
        scores = graph.add('Mul', scores, graph.constant(np.float32(score_gain)))
    if load_steps:
        # Added with weight 0: the result depends on the load, so that it cannot be optimised away.
        scores = graph.add('Add', scores, _load(graph, load_steps))
    if decoder == 'gfl':
        outputs = [_gfl_level(graph, boxes, scores, input_hw)]
        spec = DecoderSpec('gfl', (STRIDE_PX,), REG_MAX)
    else:
        graph.add('Unsqueeze', boxes, graph.constant(np.array([0])), output='boxes')
        matrix = graph.add('Mul', graph.add('Unsqueeze', scores, graph.constant(np.array([1]))),
                           graph.constant(np.eye(3, dtype=np.float32)))
        graph.add('Unsqueeze', matrix, graph.constant(np.array([0])), output='scores')
        outputs = [helper.make_tensor_value_info('boxes', TensorProto.FLOAT, [1, 3, 4]),
                   helper.make_tensor_value_info('scores', TensorProto.FLOAT, [1, 3, 3])]
        spec = DecoderSpec('boxes_scores')
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, name,
            [helper.make_tensor_value_info('images', TensorProto.UINT8, [1, height, width, 3])],
            outputs, graph.constants),
        opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(model, ModelSpec(
        name, tuple(labels), InputSpec(height, width), spec,
        thresholds, licence='Apache-2.0').to_metadata())
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return Path(path)


def steps_for(inference_ms: float, folder: Path, input_hw: tuple[int, int] = (96, 128)) -> int:
    """
    Return the `load_steps` that make one inference last about `inference_ms` on this computer.

    :param folder: where to write the model that is timed.
    """
    image = np.zeros((*input_hw, 3), dtype=np.uint8)
    steps = 200
    for _ in range(_CALIBRATION_ROUNDS):    # a busy computer does not answer alike twice
        path = write_rectangle_model(folder / 'calibration.onnx', input_hw, load_steps=steps)
        detector = OnnxDetector.load(path, ExecutionOptions(threads=1))
        detector.warm_up()
        inference_ns = statistics.median(detector.detect(image).timings.inference_ns for _ in range(9))
        path.unlink()
        steps = max(1, round(inference_ms * 1e6 / inference_ns * steps))
    return steps


def draw_rectangles(
        hw: tuple[int, int], *rectangles: tuple[int, tuple[int, int, int, int], int]) -> np.ndarray:
    """
    Draw what the model finds.

    :param rectangles: (class id, box xyxy px, brightness) each; the box's right and bottom are exclusive.
    :return: (H, W, 3) uint8 BGR, black elsewhere.
    """
    image = np.zeros((*hw, 3), dtype=np.uint8)
    for class_id, (x0, y0, x1, y1), brightness in rectangles:
        image[y0:y1, x0:x1, class_id] = brightness
    return image


def _find_rectangles(graph: _Graph, input_hw: tuple[int, int]) -> tuple[str, str]:
    """Return boxes (3, 4) xyxy px and scores (3,), one row a colour."""
    image = graph.add('Cast', 'images', to=TensorProto.FLOAT)
    planes = graph.add('Transpose', image, perm=[0, 3, 1, 2])
    planes = graph.add('Squeeze', planes, graph.constant(np.array([0])))     # (3, H, W)
    others = [graph.add('Gather', planes, graph.constant(np.array(index)), axis=0)
              for index in ([1, 0, 0], [2, 2, 1])]
    contrast = graph.add('Sub', planes, graph.add('Max', *others))
    inside = graph.add('Cast', graph.add('Greater', contrast, graph.constant(np.float32(MIN_CONTRAST))),
                       to=TensorProto.FLOAT)                                    # (3, H, W)
    brightness = graph.add('ReduceMax', graph.add('Mul', inside, planes), axes=[1, 2], keepdims=0)
    scores = graph.add('Div', brightness, graph.constant(np.float32(255)))      # (3,)
    sides = []
    for last in (0, 1):
        for axis in (1, 2):     # along the height: columns, x; along the width: rows, y
            profile = graph.add('ReduceMax', inside, axes=[axis], keepdims=0)
            index = graph.add('ArgMax', profile, axis=1, keepdims=1, select_last_index=last)
            position = graph.add('Cast', index, to=TensorProto.FLOAT)
            sides.append(graph.add('Add', position, graph.constant(np.float32(last))))
    return graph.add('Concat', *sides, axis=1), scores


def _gfl_level(graph: _Graph, boxes: str, scores: str, input_hw: tuple[int, int]) -> onnx.ValueInfoProto:
    """Encode the boxes as distance distributions of the cell that holds the box's centre."""
    rows, columns = input_hw[0] // STRIDE_PX, input_hw[1] // STRIDE_PX
    x, y = np.meshgrid((np.arange(columns) + 0.5) * STRIDE_PX, (np.arange(rows) + 0.5) * STRIDE_PX)
    parts = {}
    for i, side in enumerate(('x0', 'y0', 'x1', 'y1')):     # (3, 1, 1) each
        column = graph.add('Gather', boxes, graph.constant(np.array([i])), axis=1)
        parts[side] = graph.add('Unsqueeze', column, graph.constant(np.array([2])))
    cells = {'x': graph.constant(x[None].astype(np.float32)), 'y': graph.constant(y[None].astype(np.float32))}
    half, stride = graph.constant(np.float32(0.5)), graph.constant(np.float32(STRIDE_PX))
    near = []
    for axis in 'xy':   # the one cell with -4 <= centre - cell < 4
        centre = graph.add('Mul', graph.add('Add', parts[f'{axis}0'], parts[f'{axis}1']), half)
        offset = graph.add('Sub', centre, cells[axis])
        near += [graph.add('GreaterOrEqual', offset, graph.constant(np.float32(-STRIDE_PX / 2))),
                 graph.add('Less', offset, graph.constant(np.float32(STRIDE_PX / 2)))]
    at_centre = graph.add('And', graph.add('And', near[0], near[1]), graph.add('And', near[2], near[3]))
    low, high, one = (graph.constant(np.float32(v)) for v in (1e-4, 1 - 1e-6, 1))
    limited = graph.add('Clip', scores, low, high)
    logits = graph.add('Log', graph.add('Div', limited, graph.add('Sub', one, limited)))
    logits = graph.add('Unsqueeze', logits, graph.constant(np.array([1, 2])))
    # (3, rows, columns)
    channels = [graph.add('Where', at_centre, logits, graph.constant(np.float32(-12)))]
    # Rectangles do not share a centre, so a cell belongs to one box: sum over the classes.
    weight = graph.add('Cast', at_centre, to=TensorProto.FLOAT)
    bins = graph.constant(np.arange(REG_MAX + 1, dtype=np.float32).reshape(-1, 1, 1))
    for side, (first, second) in {'x0': ('cell', 'box'), 'y0': ('cell', 'box'),
                                  'x1': ('box', 'cell'), 'y1': ('box', 'cell')}.items():
        place = {'cell': cells[side[0]], 'box': parts[side]}
        distance = graph.add('Div', graph.add('Sub', place[first], place[second]), stride)
        distance = graph.add('ReduceSum', graph.add('Mul', distance, weight), graph.constant(np.array([0])))
        # Two neighbouring bins share the weight, so that the expectation is the distance itself.
        hat = graph.add('Sub', one, graph.add('Abs', graph.add('Sub', distance, bins)))
        channels.append(graph.add('Log', graph.add('Max', hat, graph.constant(np.float32(1e-12)))))
    graph.add('Unsqueeze', graph.add('Concat', *channels, axis=0), graph.constant(np.array([0])),
              output=f'level_{STRIDE_PX}')
    return helper.make_tensor_value_info(
        f'level_{STRIDE_PX}', TensorProto.FLOAT, [1, 3 + 4 * (REG_MAX + 1), rows, columns])


def _load(graph: _Graph, steps: int) -> str:
    """Return a zero that takes `steps` matrix products to compute."""
    mean = graph.add('ReduceMean', graph.add('Cast', 'images', to=TensorProto.FLOAT), keepdims=0)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(_LOAD_SIZE, _LOAD_SIZE)))
    state = graph.add('Add', graph.constant(np.eye(_LOAD_SIZE, dtype=np.float32)), mean)
    body = helper.make_graph(
        [helper.make_node('Identity', ['go_in'], ['go_out']),
         helper.make_node('MatMul', ['state_in', 'rotation'], ['state_out'])], 'load',
        [helper.make_tensor_value_info('step', TensorProto.INT64, []),
         helper.make_tensor_value_info('go_in', TensorProto.BOOL, []),
         helper.make_tensor_value_info('state_in', TensorProto.FLOAT, [_LOAD_SIZE, _LOAD_SIZE])],
        [helper.make_tensor_value_info('go_out', TensorProto.BOOL, []),
         helper.make_tensor_value_info('state_out', TensorProto.FLOAT, [_LOAD_SIZE, _LOAD_SIZE])],
        [numpy_helper.from_array(rotation.astype(np.float32), 'rotation')])
    count, go = graph.constant(np.int64(steps)), graph.constant(np.bool_(True))
    state = graph.add('Loop', count, go, state, body=body)
    return graph.add('Mul', graph.add('ReduceMean', state, keepdims=0), graph.constant(np.float32(0)))
