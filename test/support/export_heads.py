# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Small exports of well-known detectors: random weights, heads built as their authors publish them.

Each function adds a family's head to a graph of feature maps; each `*_boxes` computes the same from the raw
maps, place by place, as the papers and programs write it, without this package's decoders.
"""

import numpy as np
from onnx import helper, numpy_helper, TensorProto

HEIGHT, WIDTH, CLASSES, STRIDES = 64, 96, 5, (8, 16, 32)
ANCHORS = np.array([[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 50]],
                    [[70, 50], [60, 55], [90, 60]]], float)
BINS, QUERIES = 16, 12


class Graph:
    """Adds operators; an array among the inputs becomes a constant."""

    def __init__(self, seed):
        self.nodes, self.constants, self.rng = [], [], np.random.default_rng(seed)

    def value(self, given):
        if isinstance(given, str):
            return given
        self.constants.append(numpy_helper.from_array(np.asarray(given), f'c{len(self.constants)}'))
        return self.constants[-1].name

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f'v{len(self.nodes)}_{i}' for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, [self.value(each) for each in inputs], names, **attributes))
        return names[0] if outputs == 1 else names

    def f(self, kind, left, right):
        """An operator on floats."""
        return self.op(kind, left, right if isinstance(right, str) else np.asarray(right, np.float32))

    def shaped(self, value, *shape):
        return self.op('Reshape', value, np.array(shape, np.int64))

    def part(self, value, start, end, axis):
        return self.op('Slice', value, *(np.array([each], np.int64) for each in (start, end, axis)))

    def conv(self, value, filters, depth, size=1, stride=1, gain=1.0, bias=0):
        weights = self.rng.normal(0, gain / np.sqrt(depth * size * size), (filters, depth, size, size))
        biases = self.rng.normal(0, .3, filters) + bias
        return self.op('Conv', value, weights.astype(np.float32), biases.astype(np.float32),
                       pads=[size // 2] * 4, strides=[stride] * 2)

    def maps(self, image):
        """Feature maps of strides 8, 16 and 32, 16 channels each."""
        x, found = image, []
        for level, depth in enumerate((3, 16, 16, 16, 16)):
            x = self.op('Tanh', self.conv(x, 16, depth, 3, 2, gain=2.0))     # bounded, whatever its input
            found += [x] if level >= 2 else []
        return found

    def model(self, inputs, outputs, metadata=None):
        """`inputs`: name -> (kind, shape); `outputs`: name -> (value, kind); kinds are f, h, u, i."""
        kinds = {'f': TensorProto.FLOAT, 'h': TensorProto.FLOAT16, 'u': TensorProto.UINT8,
                 'i': TensorProto.INT64}
        inputs = [helper.make_tensor_value_info(name, kinds[kind], shape)
                  for name, (kind, shape) in inputs.items()]
        infos = [helper.make_tensor_value_info(name, kinds[kind], None)
                 for name, (_, kind) in outputs.items()]
        nodes = [*self.nodes, *(helper.make_node('Identity', [value], [name])
                                for name, (value, _) in outputs.items())]
        model = helper.make_model(helper.make_graph(nodes, 'g', inputs, infos, self.constants),
                                  opset_imports=[helper.make_opsetid('', 17)])
        model.ir_version = 9
        helper.set_model_props(model, metadata or {})
        return model


def grid(stride):
    rows, columns = np.mgrid[:HEIGHT // stride, :WIDTH // stride]
    return np.stack([columns, rows], -1).astype(float)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def each_cell(raw):
    """(values, h, w) -> row, column, values of each cell, row by row."""
    for row, column in np.ndindex(raw.shape[1:]):
        yield row, column, raw[:, row, column]


def corners(cx, cy, w, h):
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


# --- YOLOv5 to v7: three anchors a cell, all through the sigmoid (ultralytics/yolov5: Detect).

def yolov5(g, maps, units='px'):
    tables = []
    for stride, anchors, x in zip(STRIDES, ANCHORS, maps):
        h, w = HEIGHT // stride, WIDTH // stride
        raw = g.conv(x, 3 * (5 + CLASSES), 16, gain=2)
        y = g.op('Sigmoid', g.op('Transpose', g.shaped(raw, 1, 3, 5 + CLASSES, h, w), perm=[0, 1, 3, 4, 2]))
        xy = g.f('Mul', g.f('Add', g.f('Mul', g.part(y, 0, 2, 4), 2), grid(stride) - .5), stride)
        wh = g.f('Mul', g.f('Pow', g.f('Mul', g.part(y, 2, 4, 4), 2), 2), anchors[None, :, None, None])
        if units == 'normalised':
            xy, wh = (g.f('Div', part, [WIDTH, HEIGHT]) for part in (xy, wh))
        y = g.op('Concat', xy, wh, g.part(y, 4, 5 + CLASSES, 4), axis=4)
        tables.append(g.shaped(y, 1, -1, 5 + CLASSES))
        yield raw
    yield g.op('Concat', *tables, axis=1)


def yolov5_boxes(raws):
    for stride, anchors, raw in zip(STRIDES, ANCHORS, raws):
        for number, (anchor_w, anchor_h) in enumerate(anchors):
            for row, column, values in each_cell(raw[number * (5 + CLASSES):(number + 1) * (5 + CLASSES)]):
                x, y, w, h, obj, *scores = sigmoid(values)
                yield corners((2 * x - .5 + column) * stride, (2 * y - .5 + row) * stride,
                              (2 * w) ** 2 * anchor_w, (2 * h) ** 2 * anchor_h), obj * np.array(scores)


# --- YOLOv8 to v13: a distribution a side, no objectness (ultralytics, nn/modules/head.py: Detect, DFL).

def yolov8(g, maps, arrangement='channels_first', units='px', obj=False, box='cxcywh'):
    """`obj`: with a column of ones, as YOLOv6 exports; `box` xyxy: as exports for other decoders."""
    parts = []
    for stride, x in zip(STRIDES, maps):
        bias = np.append(np.tile(-1.0 * np.arange(BINS), 4), [-1.0] * CLASSES)     # near sides, few objects
        raw = g.conv(x, 4 * BINS + CLASSES, 16, gain=2, bias=bias)
        flat = g.shaped(raw, 1, 4 * BINS + CLASSES, -1)
        sides = g.op('Softmax', g.shaped(g.part(flat, 0, 4 * BINS, 1), 1, 4, BINS, -1), axis=2)
        sides = g.f('Mul', sides, np.arange(BINS)[:, None])
        sides = g.op('ReduceSum', sides, np.array([2], np.int64), keepdims=0)
        points = (grid(stride) + .5).reshape(-1, 2).T
        low = g.op('Sub', points.astype(np.float32), g.part(sides, 0, 2, 1))
        high = g.f('Add', g.part(sides, 2, 4, 1), points)
        if box == 'xyxy':
            boxes = g.op('Concat', low, high, axis=1)
        else:
            boxes = g.op('Concat', g.f('Div', g.op('Add', low, high), 2), g.op('Sub', high, low), axis=1)
        boxes = g.f('Mul', boxes, stride)
        if units == 'normalised':
            boxes = g.f('Div', boxes, np.array([WIDTH, HEIGHT] * 2)[:, None])
        scores = g.op('Sigmoid', g.part(flat, 4 * BINS, 4 * BINS + CLASSES, 1))
        ones = [np.ones((1, 1, points.shape[1]), np.float32)] if obj else []
        parts.append(g.op('Concat', boxes, *ones, scores, axis=1))
        yield raw
    table = g.op('Concat', *parts, axis=2)
    yield table if arrangement == 'channels_first' else g.op('Transpose', table, perm=[0, 2, 1])


def yolov8_boxes(raws):
    for stride, raw in zip(STRIDES, raws):
        for row, column, values in each_cell(raw):
            left, top, right, bottom = (np.dot(np.exp(side) / np.exp(side).sum(), np.arange(BINS))
                                        for side in values[:4 * BINS].reshape(4, BINS))
            yield ((column + .5 - left) * stride, (row + .5 - top) * stride, (column + .5 + right) * stride,
                   (row + .5 + bottom) * stride), sigmoid(values[4 * BINS:])


# --- YOLOv10: the best of all (place, class) pairs (THU-MIG/yolov10, v10Detect with export).

def yolov10(g, maps):
    *raws, table = yolov8(g, maps, 'channels_last', box='xyxy')
    yield from raws
    scores = g.shaped(g.part(table, 4, 4 + CLASSES, 2), 1, -1)
    best, places = g.op('TopK', scores, np.array([QUERIES], np.int64), outputs=2, axis=1)
    row = g.op('Unsqueeze', g.op('Div', places, np.array(CLASSES, np.int64)), np.array([2], np.int64))
    boxes = g.op('GatherElements', g.part(table, 0, 4, 2), g.op('Expand', row, np.array([1, 1, 4], np.int64)),
                 axis=1)
    classes = g.op('Cast', g.op('Mod', places, np.array(CLASSES, np.int64)), to=TensorProto.FLOAT)
    last = [g.op('Unsqueeze', each, np.array([2], np.int64)) for each in (best, classes)]
    yield g.op('Concat', boxes, *last, axis=2)


def best_pairs(boxes):
    """Keep the QUERIES best (box, class) pairs."""
    boxes = list(boxes)
    least = np.sort(np.concatenate([scores for _, scores in boxes]))[-QUERIES]
    for box, scores in boxes:
        yield box, np.where(scores >= least, scores, 0)


# --- YOLOX: one place a cell, exponential sizes (Megvii-BaseDetection/YOLOX, yolo_head.py: decode_outputs).

def yolox(g, maps, decoded=False):
    tables = []
    for stride, x in zip(STRIDES, maps):
        raw = g.conv(x, 5 + CLASSES, 16, gain=1.5)
        y = g.op('Transpose', g.shaped(raw, 1, 5 + CLASSES, -1), perm=[0, 2, 1])
        box, rest = g.part(y, 0, 4, 2), g.op('Sigmoid', g.part(y, 4, 5 + CLASSES, 2))
        if decoded:
            xy = g.f('Mul', g.f('Add', g.part(box, 0, 2, 2), grid(stride).reshape(1, -1, 2)), stride)
            box = g.op('Concat', xy, g.f('Mul', g.op('Exp', g.part(box, 2, 4, 2)), stride), axis=2)
        tables.append(g.op('Concat', box, rest, axis=2))
        yield raw
    yield g.op('Concat', *tables, axis=1)


def yolox_boxes(raws):
    for stride, raw in zip(STRIDES, raws):
        for row, column, values in each_cell(raw):
            x, y, w, h = values[:4]
            box = corners((x + column) * stride, (y + row) * stride, np.exp(w) * stride, np.exp(h) * stride)
            yield box, sigmoid(values[4]) * sigmoid(values[5:])


# --- NanoDet-Plus: scores and distributions a row, distances from the cell's corner (RangiLyu/nanodet).

def nanodet(g, maps):
    tables = []
    for x in maps:
        raw = g.conv(x, CLASSES + 4 * 8, 16, gain=2)
        scores = g.op('Sigmoid', g.part(raw, 0, CLASSES, 1))
        both = g.op('Concat', scores, g.part(raw, CLASSES, CLASSES + 32, 1), axis=1)
        tables.append(g.op('Transpose', g.shaped(both, 1, CLASSES + 32, -1), perm=[0, 2, 1]))
        yield raw
    yield g.op('Concat', *tables, axis=1)


def nanodet_boxes(raws):
    for stride, raw in zip(STRIDES, raws):
        for row, column, values in each_cell(raw):
            left, top, right, bottom = (np.dot(np.exp(side) / np.exp(side).sum(), np.arange(8)) * stride
                                        for side in values[CLASSES:].reshape(4, 8))
            yield (column * stride - left, row * stride - top, column * stride + right,
                   row * stride + bottom), sigmoid(values[:CLASSES])


# --- DETR and RT-DETR: queries with boxes cxcywh 0..1 and class logits (Carion 2020; lyuwenyu/RT-DETR).

def queries(g, maps, values):
    """Turn the coarsest map into QUERIES rows."""
    raw = g.op('Transpose', g.shaped(g.conv(maps[2], 2 * (4 + values), 16, gain=2), 1, 4 + values, QUERIES),
               perm=[0, 2, 1])
    return raw, g.op('Sigmoid', g.part(raw, 0, 4, 2)), g.part(raw, 4, 4 + values, 2)


def query_boxes(raw, scores_of):
    for row in raw:
        x, y, w, h = sigmoid(row[:4])
        yield corners(x * WIDTH, y * HEIGHT, w * WIDTH, h * HEIGHT), scores_of(row[4:])


def softmax_without_last(values):
    return (np.exp(values) / np.exp(values).sum())[:-1]


# --- SSD: priors, offsets, softmax with background first (Liu et al. 2016; chuanqi305 and torchvision alike).

PRIORS = np.random.default_rng(3).uniform(.2, .8, (QUERIES, 4))
VARIANCES = (.1, .1, .2, .2)


def ssd_boxes(raw):
    for (cx, cy, w, h), row in zip(PRIORS, raw):
        dx, dy, dw, dh = row[:4] * VARIANCES
        x, y = cx + dx * w, cy + dy * h
        yield corners(x * WIDTH, y * HEIGHT, w * np.exp(dw) * WIDTH, h * np.exp(dh) * HEIGHT), (
            np.exp(row[4:]) / np.exp(row[4:]).sum())[1:]
