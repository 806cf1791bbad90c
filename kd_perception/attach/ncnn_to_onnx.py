# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A detector in ncnn's files becomes an ONNX model: the layers that NanoDet-Plus as published consists of.

A network with another layer is refused by that layer's name: its authors' ONNX export serves better than
a converter of everything. What each layer computes: github.com/Tencent/ncnn,
its guide's page 'operators'. ncnn knows no batch: its axis 0 is axis 1 here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.attach.ncnn_files import Layer, read_layers, Weights
from kd_perception.errors import ModelError

OPSET, IR_VERSION = 15, 8
_REST = -233        # in a slice: what is left
_BINARY = {0: 'Add', 1: 'Sub', 2: 'Mul', 3: 'Div'}


def ncnn_as_onnx(path: Path) -> bytes:
    """
    Return a serialised ONNX model of any input size for a .param file with the .bin file beside it.

    :raises ModelError: a file is missing or damaged, or has a layer that is not known here.
    """
    layers, weights = read_layers(path), Weights(path.with_suffix('.bin'))
    graph = _Graph(weights)
    for layer in layers:
        convert = _LAYERS.get(layer.kind)
        if convert is None:
            raise ModelError(f'{path}: layer {layer.name} is of type {layer.kind}, which is not converted; '
                             "attach an ONNX file of this network instead (its training code's export)")
        try:
            axes = graph.read(layer)
            graph.give(layer.outputs, convert(graph, layer) or axes)
        except (ValueError, IndexError, OverflowError) as error:
            raise ModelError(f'{path}: layer {layer.name} ({layer.kind}): {error}') from error
    weights.check_end()
    return graph.serialised(path)


class _Graph:
    """The ONNX graph as it grows."""

    def __init__(self, weights: Weights):
        import onnx
        self.onnx, self.weights = onnx, weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[str] = []
        self.axes: dict[str, int] = {}      # of each value, the batch's not counted
        self.unread: dict[str, None] = {}   # values that no layer has read yet: in the end, the outputs

    def node(self, kind: str, layer: Layer, inputs: Sequence[str], outputs: Sequence[str] = (),
             **attributes: Any) -> None:
        """Add an operator; its outputs are the layer's own unless others are given."""
        self.nodes.append(self.onnx.helper.make_node(
            kind, list(inputs), list(outputs or layer.outputs), **attributes))

    def read(self, layer: Layer) -> int:
        """Return how many axes a layer's inputs have, and count them as read."""
        for name in layer.inputs:
            if name not in self.axes:
                raise ValueError(f'its input {name} is of no layer before it')
            self.unread.pop(name, None)
        return self.axes[layer.inputs[0]] if layer.inputs else 3

    def give(self, names: Sequence[str], axes: int) -> None:
        """Take note of a layer's outputs."""
        for name in names:
            self.axes[name] = axes
            self.unread[name] = None

    def constant(self, layer: Layer, part: str, values: Any, kind: Any = np.int64) -> str:
        """Add a constant; its name."""
        name = f'{layer.name}.{part}'
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(values, kind), name))
        return name

    def serialised(self, path: Path) -> bytes:
        """Return the model; what no layer has read are its outputs."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        if len(self.inputs) != 1 or not self.unread:
            raise ModelError(f'{path}: has {len(self.inputs)} inputs, expected one image')
        images = helper.make_tensor_value_info(self.inputs[0], kind, [1, 3, 'height', 'width'])
        outputs = [helper.make_tensor_value_info(
            name, kind, [1, *(f'{name}_{axis}' for axis in range(self.axes[name]))]) for name in self.unread]
        model = helper.make_model(
            helper.make_graph(self.nodes, 'ncnn', [images], outputs, self.constants),
            opset_imports=[helper.make_opsetid('', OPSET)], producer_name='ncnn')
        model.ir_version = IR_VERSION
        # Shapes of what lies between: an output's number of values tells its family.
        return self.onnx.shape_inference.infer_shapes(model).SerializeToString()


def _input(graph: _Graph, layer: Layer) -> None:
    graph.inputs += layer.outputs


def _convolution(graph: _Graph, layer: Layer) -> None:
    filters, size, groups = layer.whole(0), layer.whole(6), layer.whole(7, 1)
    kernel = layer.whole(11, layer.whole(1)), layer.whole(1)
    depth = size // max(1, filters * kernel[0] * kernel[1])
    if min(filters, *kernel, groups, depth) < 1 or filters * depth * kernel[0] * kernel[1] != size:
        raise ValueError(f'{size} weights do not make {filters} filters of {kernel[1]}x{kernel[0]}')
    if layer.whole(8) or layer.number(18):
        raise ValueError('8-bit weights and padding other than 0 are not converted')
    left, top = layer.whole(4), layer.whole(14, layer.whole(4))
    pads = [top, left, layer.whole(16, top), layer.whole(15, left)]
    if min(pads) < 0:
        raise ValueError(f'padding {min(pads)} (SAME) is not converted')
    inputs = [*layer.inputs, graph.constant(
        layer, 'weight', graph.weights.tensor(size, layer.name).reshape(filters, depth, *kernel), np.float32)]
    if layer.whole(5):
        inputs.append(graph.constant(layer, 'bias', graph.weights.plain(filters, layer.name), np.float32))
    kind, bounds = layer.whole(9), layer.array(10)
    outputs = () if kind == 0 else (f'{layer.name}.linear',)
    graph.node('Conv', layer, inputs, outputs=outputs, group=groups, kernel_shape=kernel, pads=pads,
               dilations=[layer.whole(12, layer.whole(2, 1)), layer.whole(2, 1)],
               strides=[layer.whole(13, layer.whole(3, 1)), layer.whole(3, 1)])
    if kind == 1:
        graph.node('Relu', layer, outputs)
    elif kind == 2 and bounds:
        graph.node('LeakyRelu', layer, outputs, alpha=bounds[0])
    elif kind:
        raise ValueError(f'activation {kind} is not converted')


def _pooling(graph: _Graph, layer: Layer) -> None:
    if layer.whole(0) or layer.whole(4) or layer.whole(5) not in (0, 1) or layer.whole(7):
        raise ValueError('other than the greatest of a window is not converted')
    kernel, stride = layer.whole(1), layer.whole(2, 1)
    left, top = layer.whole(3), layer.whole(13, layer.whole(3))
    graph.node('MaxPool', layer, layer.inputs, kernel_shape=[layer.whole(11, kernel), kernel],
               strides=[layer.whole(12, stride), stride], ceil_mode=int(layer.whole(5) == 0),
               pads=[top, left, layer.whole(15, top), layer.whole(14, left)])


def _split(graph: _Graph, layer: Layer) -> None:
    for output in layer.outputs:
        graph.node('Identity', layer, layer.inputs, [output])


def _concat(graph: _Graph, layer: Layer) -> None:
    graph.node('Concat', layer, layer.inputs, axis=_axis(layer.whole(0), graph.read(layer)))


def _axis(axis: int, axes: int) -> int:
    if not -axes <= axis < axes:
        raise ValueError(f'axis {axis} of {axes}')
    return axis % axes + 1


def _shuffle(graph: _Graph, layer: Layer) -> None:
    groups = layer.whole(0, 1)
    if layer.whole(1) or groups < 1:
        raise ValueError('the reverse is not converted')
    sides, apart, turned, to, back = (f'{layer.name}.{part}' for part in (
        'sides', 'apart', 'turned', 'to', 'back'))
    graph.node('Shape', layer, layer.inputs, [sides], start=2, end=4)
    graph.node('Concat', layer, [graph.constant(layer, 'groups', [0, groups, -1]), sides], [to], axis=0)
    graph.node('Reshape', layer, [*layer.inputs, to], [apart])
    graph.node('Transpose', layer, [apart], [turned], perm=[0, 2, 1, 3, 4])
    graph.node('Concat', layer, [graph.constant(layer, 'channels', [0, -1]), sides], [back], axis=0)
    graph.node('Reshape', layer, [turned, back])


def _crop(graph: _Graph, layer: Layer) -> None:
    starts, ends, axes = (layer.array(key) for key in (9, 10, 11))
    if not starts or not len(starts) == len(ends) == len(axes):
        raise ValueError('expected as many starts as ends and axes')
    count = graph.read(layer)
    graph.node('Slice', layer, [
        *layer.inputs, graph.constant(layer, 'starts', starts),
        graph.constant(layer, 'ends', [np.iinfo(np.int64).max if end == _REST else end for end in ends]),
        graph.constant(layer, 'axes', [_axis(int(axis), count) for axis in axes])])


def _interp(graph: _Graph, layer: Layer) -> None:
    kinds = {1: ('nearest', 'asymmetric'), 2: ('linear', 'half_pixel')}
    scales = [layer.number(1), layer.number(2)]
    if layer.whole(0) not in kinds or min(scales) <= 0 or layer.whole(6):
        raise ValueError('expected nearest or bilinear, with a scale, without aligned corners')
    mode, points = kinds[layer.whole(0)]
    graph.node('Resize', layer, [*layer.inputs, '', graph.constant(
        layer, 'scales', [1, 1, *scales], np.float32)], mode=mode, nearest_mode='floor',
        coordinate_transformation_mode=points)


def _binary(graph: _Graph, layer: Layer) -> None:
    if len(layer.inputs) != 2 or layer.whole(0) not in _BINARY:
        raise ValueError('expected the sum, difference, product or quotient of two values')
    graph.node(_BINARY[layer.whole(0)], layer, layer.inputs)


def _slice(graph: _Graph, layer: Layer) -> None:
    sizes, axis = layer.array(0), _axis(layer.whole(1), graph.read(layer))
    if len(sizes) != len(layer.outputs) or _REST in sizes[:-1]:
        raise ValueError('expected a size for each output, of which the last may be the rest')
    start = 0
    for index, (size, output) in enumerate(zip(sizes, layer.outputs)):
        end = np.iinfo(np.int64).max if size == _REST else start + int(size)
        graph.node('Slice', layer, [*layer.inputs, *(
            graph.constant(layer, f'{part}{index}', [value])
            for part, value in (('start', start), ('end', end), ('axis', axis)))], [output])
        start = end


def _sigmoid(graph: _Graph, layer: Layer) -> None:
    graph.node('Sigmoid', layer, layer.inputs)


def _reshape(graph: _Graph, layer: Layer) -> int:
    sizes = [layer.whole(key, _REST) for key in (2, 1, 0)]
    shape = [size for size in sizes if size != _REST]
    if not shape or shape.count(-1) > 1 or min(shape) < -1:
        raise ValueError(f'to {shape} is not converted')
    graph.node('Reshape', layer, [*layer.inputs, graph.constant(layer, 'shape', [0, *shape])])
    return len(shape)


def _permute(graph: _Graph, layer: Layer) -> None:
    axes, order = graph.read(layer), layer.whole(0)
    # Of three axes channel, row, column: the order in which they stand afterwards.
    orders = {2: ((0, 1), (1, 0)), 3: ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))}
    if order not in range(len(orders.get(axes, ()))):
        raise ValueError(f'order {order} of {axes} axes is not converted')
    graph.node('Transpose', layer, layer.inputs, perm=[0, *(axis + 1 for axis in orders[axes][order])])


_LAYERS: dict[str, Callable[[_Graph, Layer], int | None]] = {
    'Input': _input, 'Convolution': _convolution, 'ConvolutionDepthWise': _convolution, 'Pooling': _pooling,
    'Split': _split, 'Concat': _concat, 'ShuffleChannel': _shuffle, 'Crop': _crop, 'Interp': _interp,
    'BinaryOp': _binary, 'Slice': _slice, 'Sigmoid': _sigmoid, 'Reshape': _reshape, 'Permute': _permute}
