# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Graphs whose convolutions run in integers: what onnxruntime turns into QLinearConv.

Around a convolution of a network with integer activations (see `activations`) the exported graph says

    uint8 activations -> DequantizeLinear(s_x, z) --------> Conv -> Relu -> QuantizeLinear(s_y, z) -> uint8
    int8 codes        -> DequantizeLinear(s_w, channels) -/
    int32 biases      -> DequantizeLinear(s_x * s_w) ----/

which onnxruntime's optimiser reads as one QLinearConv of uint8 activations, int8 weights and int32 biases.
Nothing else is an operator on floats, from the camera's bytes to the last feature maps: the predictions
themselves stay float, as last layers do in the published binary networks (255 steps are too coarse for
scores).

The first layer sees three channels, and copying three bytes at a time costs more than multiplying them. So it
runs on four columns at once, as 12 channels, and makes two columns of output (`unroll_columns`): the same
products and sums, in a shape that integer kernels like.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.binary.activations import ActivationQuantizer, INPUT_SCALE, INPUT_ZERO
from kd_perception.training.binary.binarization import replace_module

DOMAIN = 'kd'   # of the functions in a model file
UNROLLED_SHAPE = (12, 3, 2)  # of the filters of a first layer on several columns
COLUMNS = 4             # of the image, side by side as channels of the first layer
_LARGEST_BIAS = 1 << 30     # leaves room for the sum of products in 32 bits


class _FixedRounding(torch.autograd.Function):
    """What an enabled quantizer computes, traced as QuantizeLinear and DequantizeLinear."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
        return (x / scale).round_().clamp_(-zero_point, 255 - zero_point).mul_(scale)

    @staticmethod
    def symbolic(graph, x, scale, zero_point):
        constants = (graph.op('Constant', value_t=torch.tensor(scale, dtype=torch.float32)),
                     graph.op('Constant', value_t=torch.tensor(zero_point, dtype=torch.uint8)))
        codes = graph.op('QuantizeLinear', x, *constants)
        return graph.op('DequantizeLinear', codes, *constants)


class _ImageValues(torch.autograd.Function):
    """The values of the camera's bytes, traced as DequantizeLinear."""

    @staticmethod
    def forward(ctx, images: torch.Tensor) -> torch.Tensor:
        return (images.float() - INPUT_ZERO) * INPUT_SCALE

    @staticmethod
    def symbolic(graph, images):
        return graph.op('DequantizeLinear', images,
                        graph.op('Constant', value_t=torch.tensor(INPUT_SCALE, dtype=torch.float32)),
                        graph.op('Constant', value_t=torch.tensor(INPUT_ZERO, dtype=torch.uint8)))


class _Fixed(nn.Module):
    def __init__(self, quantizer: ActivationQuantizer):
        super().__init__()
        self.scale, self.zero_point = quantizer.scale.item(), quantizer.zero_point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _FixedRounding.apply(x, self.scale, self.zero_point)


class IntegerCamera(nn.Module):
    """
    A network that takes uint8 NHWC BGR and whose first layer reads these bytes.

    :param network: with integer activations, folded (see `fold.fold`); it is changed, for tracing
        only: its first layer is traced on BGR with weights for RGB, which `unroll_columns` puts right.
    :raises TrainingError: it rounds to other than 8 bits, or nothing yet.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        for name, module in list(network.named_modules()):
            if isinstance(module, ActivationQuantizer):
                if module.bits != 8 or not module.enabled:
                    raise TrainingError(f'{name}: only activations of 8 bits, calibrated, can be exported as '
                                        'integers; export with float activations')
                replace_module(network, name, _Fixed(module))
        network.backbone.entry = nn.Identity()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the network's head maps for (N, H, W, 3) uint8 BGR."""
        return self.network(_ImageValues.apply(images.permute(0, 3, 1, 2)))


class Graph:
    """An ONNX graph's nodes by what they make and read."""

    def __init__(self, graph: Any):
        self.graph = graph
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def after(self, node: Any) -> Any | None:
        """Return the one node that reads what a node makes, else None."""
        readers = self.readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 else None

    def rounding(self, node: Any) -> list[Any]:
        """Return what follows a node, if that is [Relu,] QuantizeLinear, DequantizeLinear; else nothing."""
        chain: list[Any] = []
        for wanted in (('Relu', 'QuantizeLinear'), ('QuantizeLinear', 'DequantizeLinear'),
                       ('DequantizeLinear',)):
            node = self.after(node)
            if node is None or node.op_type not in wanted:
                return []
            chain.append(node)
            if node.op_type == 'DequantizeLinear':
                return chain
        return []

    def integer_convolutions(self) -> Iterator[tuple[Any, Any]]:
        """Yield (convolution, DequantizeLinear of its input) where onnxruntime will compute in integers."""
        for node in self.graph.node:
            source = self.makers.get(node.input[0]) if node.op_type == 'Conv' else None
            if source is not None and source.op_type == 'DequantizeLinear' and self.rounding(node):
                yield node, source


def share_constants(model: Any) -> None:
    """Make scales and zero points of quantizers initialisers, each value once, in place."""
    from onnx import numpy_helper
    graph = model.graph
    nodes = {node.output[0]: node for node in graph.node if node.op_type == 'Constant'}
    names: dict[tuple[str, bytes], str] = {}
    used = set()
    for node in graph.node:
        if node.op_type not in ('QuantizeLinear', 'DequantizeLinear'):
            continue
        for place in (1, 2):
            constant = nodes.get(node.input[place])
            if constant is None:
                continue
            used.add(constant.output[0])
            value = numpy_helper.to_array(constant.attribute[0].t)
            kind = 's' if value.dtype == np.float32 else 'z'
            key = (kind, value.tobytes())
            if key not in names:
                names[key] = f'{kind}{len(names):x}'
                graph.initializer.append(numpy_helper.from_array(value, names[key]))
            node.input[place] = names[key]
    kept = [node for node in graph.node if not (node.op_type == 'Constant' and node.output[0] in used)]
    del graph.node[:]
    graph.node.extend(kept)


def round_resized(model: Any) -> None:
    """Say after each Resize of integers that it makes integers of the same scale, in place."""
    from onnx import helper
    graph = Graph(model.graph)
    nodes = []
    for node in list(model.graph.node):
        nodes.append(node)
        source = graph.makers.get(node.input[0]) if node.op_type == 'Resize' else None
        if source is None or source.op_type != 'DequantizeLinear':
            continue
        output, constants = node.output[0], source.input[1:]
        node.output[0] = f'{output}.float'
        nodes += [helper.make_node('QuantizeLinear', [f'{output}.float', *constants], [f'{output}.codes']),
                  helper.make_node('DequantizeLinear', [f'{output}.codes', *constants], [output])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def column_index(kernel: tuple[int, int, int] = (3, 3, 3)) -> np.ndarray:
    """
    Return which weight of a 3x3 filter each weight of the unrolled filters is.

    :param kernel: (input channels, rows, columns) of the first layer, RGB.
    :return: (2, 12, 3, 2) uint8: column of output, channel (column of the image, colour BGR), row, group of
        columns (the one before, its own) -> index into the flattened filter; its length stands for zero.
    """
    colours, rows, columns = kernel
    positions = np.arange(colours * rows * columns, dtype=np.uint8).reshape(kernel)
    index = np.full((2, COLUMNS, colours, rows, 2), positions.size, np.uint8)
    for output in range(2):
        for column in range(columns):
            place = 2 * output + column - 1     # relative to the group's first column; -1 is the group before
            for colour in range(colours):
                index[output, place % COLUMNS, colours - 1 - colour, :, int(place >= 0)] = positions[
                    colour, :, column]
    return index.reshape(2, COLUMNS * colours, rows, 2)


def unrolled_codes(codes: np.ndarray) -> np.ndarray:
    """Return the filters (2 * Cout, 12, 3, 2) that `unrolled_filters` makes of (Cout, 3, 3, 3), as numpy."""
    padded = np.pad(codes.reshape(len(codes), -1), ((0, 0), (0, 1)))
    return padded[:, column_index()].swapaxes(0, 1).reshape(-1, *UNROLLED_SHAPE)


def unrolled_filters(codes: str, scale: str, bias: str) -> tuple[list, list]:
    """
    Make the first layer's filters for `unroll_columns`.

    :param codes: name of its int8 codes (Cout, 3, 3, 3), RGB; `scale`, `bias`: (Cout,) float32.
    :return: nodes and initialisers that compute `<codes>.u` (2 * Cout, 12, 3, 2), `<scale>.u` and `<bias>.u`.
    """
    from onnx import helper, numpy_helper, TensorProto
    index = column_index()
    tensors = [numpy_helper.from_array(value, name) for name, value in {
        'unrolled': index.reshape(2, -1), 'flat': np.array([0, -1]), 'padding': np.array([0, 0, 0, 1]),
        'filters': np.array([-1, *index.shape[1:]])}.items()]
    node = helper.make_node
    return [
        node('Reshape', [codes, 'flat'], [f'{codes}.flat']),
        node('Pad', [f'{codes}.flat', 'padding'], [f'{codes}.more']),    # the zero that the index may ask for
        node('Cast', ['unrolled'], ['unrolled.i'], to=TensorProto.INT32),
        node('Gather', [f'{codes}.more', 'unrolled.i'], [f'{codes}.two'], axis=1),
        node('Transpose', [f'{codes}.two'], [f'{codes}.by_column'], perm=[1, 0, 2]),
        node('Reshape', [f'{codes}.by_column', 'filters'], [f'{codes}.u']),
        node('Concat', [scale, scale], [f'{scale}.u'], axis=0),
        node('Concat', [bias, bias], [f'{bias}.u'], axis=0)], tensors


def unroll_columns(model: Any) -> list:
    """
    Rewrite the first convolution, in place, to work on four columns of the image at once.

    Its weights are not touched: see `unrolled_filters`.

    :return: initialisers.
    :raises TrainingError: the first convolution is no 3x3 with stride 2 on the image's bytes.
    """
    from onnx import helper, numpy_helper
    graph = Graph(model.graph)
    image = model.graph.input[0].name
    chain = [graph.readers[image][0]]
    while len(chain) < 3 and chain[-1] is not None:
        chain.append(graph.after(chain[-1]))
    transpose, _, conv = [*chain, None, None][:3]
    attributes = {} if conv is None else {a.name: list(a.ints) for a in conv.attribute}
    if [attributes.get(name) for name in ('kernel_shape', 'strides', 'pads')] != [[3, 3], [2, 2], [1] * 4]:
        raise TrainingError('the first layer is no 3x3 convolution with stride 2 on the image')
    del conv.attribute[:]
    conv.attribute.extend(helper.make_attribute(name, value) for name, value in (
        ('kernel_shape', [3, 2]), ('strides', [2, 1]), ('pads', [1, 1, 0, 0])))
    last = graph.rounding(conv)[-1]
    output = last.output[0]
    transpose.input[0], last.output[0] = f'{image}.columns', f'{output}.two'
    node = helper.make_node
    before = [node('Reshape', [image, 'columns'], [f'{image}.columns'])]
    # On what is rounded already: onnxruntime moves such nodes to the integers' side.
    after = [node('Transpose', [f'{output}.two'], [f'{output}.nhwc'], perm=[0, 2, 3, 1]),
             node('Reshape', [f'{output}.nhwc', 'halves'], [f'{output}.joined']),
             node('Transpose', [f'{output}.joined'], [output], perm=[0, 3, 1, 2])]
    nodes = []
    for each in list(model.graph.node):
        nodes += [*before, each] if each is transpose else [each, *after] if each is last else [each]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    filters = next(tensor.dims[0] for tensor in model.graph.initializer if tensor.name == conv.input[1])
    return [numpy_helper.from_array(np.array([0, 0, -1, 3 * COLUMNS]), 'columns'),
            numpy_helper.from_array(np.array([0, 0, -1, filters]), 'halves')]


def codable_scale(scale: np.ndarray, bias: np.ndarray, input_scale: float, half: bool) -> np.ndarray:
    """
    Return scales (Cout,) float32, such that biases fit 32 bits in units of scale * input scale.

    Only those of filters that count for nothing beside their bias are raised, by next to nothing.

    :param scale, bias: (Cout,) float32, the scales positive or zero; `half`: scales are float16 values.
    """
    kind = np.float16 if half else np.float32
    least = np.abs(bias.astype(np.float64)) / (_LARGEST_BIAS * input_scale)
    least = np.maximum(least, np.finfo(kind).smallest_subnormal if half else np.finfo(kind).tiny)
    rounded = least.astype(kind)
    raised = np.where(rounded < least, np.nextafter(rounded, kind(np.inf)), rounded)
    return np.where(scale < least, raised, scale).astype(np.float32)


def functions(opset: int) -> list[Any]:
    """
    Return the model-local functions that a file calls once a layer instead of spelling them out.

    - `Signs(bits, table, kernel)`: the int8 codes of packed bits (see `packed_onnx`);
    - `Conv8(x, scale of x, codes, their scales, biases, scale of y)`: convolution and ReLU; `Conv8Signed`
      (whose last input is the zero point) has no ReLU;
    - `Round(x, scale)`, `ReluRound(x, scale)`: of activations that no convolution made.

    Their inner names are letters: each of these bytes is in every file.
    """
    from onnx import AttributeProto, helper, TensorProto
    imports = [helper.make_opsetid('', opset)]
    node = helper.make_node

    def conv(*inputs: str) -> Any:
        # Before rather than after: what every layer's padding is, since strided ones see even sizes.
        made = node('Conv', list(inputs), ['f'], auto_pad='SAME_LOWER')
        strides = AttributeProto()
        strides.name, strides.ref_attr_name, strides.type = 'strides', 'strides', AttributeProto.INTS
        made.attribute.append(strides)
        return made

    def rounding(value: str, result: str, *constants: str) -> list[Any]:
        return [node('QuantizeLinear', [value, *constants], ['q']),
                node('DequantizeLinear', ['q', *constants], [result])]

    integers = [
        node('DequantizeLinear', ['c', 's'], ['w'], axis=0), node('Mul', ['s', 'a'], ['u']),
        node('Div', ['b', 'u'], ['n']), node('Round', ['n'], ['r']),
        node('Cast', ['r'], ['i'], to=TensorProto.INT32),
        node('DequantizeLinear', ['i', 'u'], ['e'], axis=0), conv('x', 'w', 'e')]
    relu = [node('Relu', ['f'], ['p'])]
    # Spelt out: without it onnxruntime leaves some operators between roundings in float.
    zero = [node('Constant', [], ['z'], value=helper.make_tensor('z', TensorProto.UINT8, [], [0]))]
    bodies = {
        'Signs': ('btk', [node('Cast', ['b'], ['i'], to=TensorProto.INT32), node('Gather', ['t', 'i'], ['g']),
                          node('Reshape', ['g', 'k'], ['y'])]),
        'Conv8': ('xacsbo', [*integers, *relu, *zero, *rounding('p', 'y', 'o', 'z')]),
        'Conv8Signed': ('xacsboz', [*integers, *rounding('f', 'y', 'o', 'z')]),
        'Round': ('fs', [*zero, *rounding('f', 'y', 's', 'z')]),
        'ReluRound': ('fs', [*relu, *zero, *rounding('p', 'y', 's', 'z')])}
    return [helper.make_function(DOMAIN, name, list(inputs), ['y'], nodes, imports,
                                 ['strides'] if name.startswith('Conv8') else [])
            for name, (inputs, nodes) in bodies.items()]
