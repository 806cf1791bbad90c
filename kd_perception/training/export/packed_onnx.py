# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Store binary weights as bits inside an ONNX file that any onnxruntime runs.

A filter's signs are flattened in (input, row, column) order and packed eight to a byte, the first in
the lowest bit, 1 for +1; the last byte of a filter is filled up with zero bits. In the graph:

    bits uint8 [Cout, ceil(K / 8)] -> Cast int32 -> Gather on one shared table [256, 8] of +-1 (which a few
    nodes compute) -> Reshape [Cout, Cin, kh, kw] -> Mul scale [Cout, 1, 1, 1] -> Conv

(with a Slice where K is no multiple of 8). 8-bit weights are stored as int8 -> Cast -> Mul. With half scales
(see `half_scales`) the scales of all layers lie in one float16 [S, 1, 1, 1] -> Cast -> Split, and so do their
biases: half the bytes, and one name for all. Only standard operators on constants: onnxruntime folds them
when it creates the session, so that it runs the very convolution that the float file holds, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import itertools
import string
from typing import Any

import numpy as np

from kd_perception.errors import TrainingError
from kd_perception.training.export.fold import CodedWeight

TABLE_NAME = 'byte_signs'
_FLOAT_BITS = 32
_DEFAULTS = ('Conv', 'Resize')    # operators whose default attributes are left out
_NAME_LETTERS = string.digits + string.ascii_letters


def byte_table() -> np.ndarray:
    """Return the (256, 8) int8 table: row b holds +1 where b has the bit, lowest bit first, else -1."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder='little')
    return (2 * bits.astype(np.int8) - 1)


def pack_signs(codes: np.ndarray) -> np.ndarray:
    """
    Pack signs (Cout, ...) of +-1 into bytes (Cout, ceil(K / 8)) uint8, K = weights of a filter.

    :raises ValueError: a code is neither +1 nor -1.
    """
    if not (np.abs(codes) == 1).all():
        raise ValueError('expected codes of +1 and -1 only')
    return np.packbits(codes.reshape(len(codes), -1) > 0, axis=1, bitorder='little')


def unpack_signs(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the signs int8 of the given shape; the inverse of `pack_signs`."""
    count = int(np.prod(shape[1:]))
    return byte_table()[packed].reshape(shape[0], -1)[:, :count].reshape(shape)


def pack(model: Any, coded: Mapping[str, CodedWeight], prefix: str = 'network.', half: bool = False
         ) -> None:
    """
    Replace float weights of an ONNX model, in place, by their codes and the nodes that unpack them.

    :param model: ModelProto whose initialisers are named `<prefix><layer>.weight`.
    :param half: scales and biases of the coded layers are float16 values (see `fold`): store them as such.
    :raises TrainingError: a layer's weight is not in the graph, or differs from codes * scale.
    """
    from onnx import numpy_helper
    graph = model.graph
    initialisers = {tensor.name: tensor for tensor in graph.initializer}
    nodes, added = [], []
    if any(weight.bits == 1 for weight in coded.values()):
        nodes, added = byte_table_nodes()
    if half:
        biases = [name for layer in coded if (name := f'{prefix}{layer}.bias') in initialisers]
        for name, values in (
                ('scales', {f'{layer}.scale': weight.scale.reshape(-1, 1, 1, 1)
                            for layer, weight in coded.items()}),
                ('biases', {bias: numpy_helper.to_array(initialisers[bias]) for bias in biases})):
            new_nodes, tensors = split_halves(name, values)
            nodes += new_nodes
            added += tensors
        for bias in biases:
            graph.initializer.remove(initialisers[bias])
    for layer, weight in coded.items():
        name = f'{prefix}{layer}.weight'
        if name not in initialisers:
            raise TrainingError(f'{layer}: its weights are not in the exported graph; is it followed by a '
                                'batch norm that is not folded (see fold.fold), or never used?')
        found = numpy_helper.to_array(initialisers[name])
        if not np.array_equal(found, weight.codes * weight.scale.reshape(-1, 1, 1, 1)):
            raise TrainingError(f'{layer}: the exported weights are not codes times scale')
        new_nodes, tensors = _unpacking(layer, weight, name)
        nodes += new_nodes
        added += tensors[half:]  # the scale comes first
        graph.initializer.remove(initialisers[name])
    graph.initializer.extend({tensor.name: tensor for tensor in added}.values())  # layers share some
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + old)


def byte_table_nodes(integers: bool = False) -> tuple[list, list]:
    """
    Return nodes and initialisers that compute `byte_table`: an eighth of the bytes of storing it.

    :param integers: as int8, called `<TABLE_NAME>.q`; else as float32, `<TABLE_NAME>.f`.
    """
    from onnx import helper, numpy_helper, TensorProto
    constants = {'none': 0, 'one': 1, 'all': 256, 'column': np.array([-1, 1]), 'powers': 1 << np.arange(8),
                 'two': 2}
    tensors = [numpy_helper.from_array(np.array(value, np.int64 if name == 'column' else np.int32), name)
               for name, value in constants.items()]
    steps = [('Range', ['none', 'all', 'one'], {}), ('Reshape', ['column'], {}), ('Div', ['powers'], {}),
             ('Mod', ['two'], {}),
             ('Mul', ['two'], {}), ('Sub', ['one'], {}),
             ('Cast', [], {'to': TensorProto.INT8 if integers else TensorProto.FLOAT})]
    nodes, last = [], []
    for number, (operator, inputs, attributes) in enumerate(steps):
        output = f'{TABLE_NAME}.{number if number < len(steps) - 1 else "q" if integers else "f"}'
        nodes.append(helper.make_node(operator, last + inputs, [output], **attributes))
        last = [output]
    return nodes, tensors


def split_halves(name: str, values: Mapping[str, np.ndarray]) -> tuple[list, list]:
    """Return nodes and initialisers that cut one float16 array along axis 0 into several of float32."""
    from onnx import helper, numpy_helper, TensorProto
    if not values:
        return [], []
    together = np.concatenate(list(values.values()))
    stored = together.astype(np.float16)
    if not np.array_equal(stored.astype(np.float32), together):
        raise TrainingError(f'{name}: are no float16 values (see fold.fold)')
    sizes = np.array([len(each) for each in values.values()], np.int64)
    # Named by what it holds: scales and biases of the same layers share theirs.
    place = f'sizes_{hashlib.sha256(sizes.tobytes()).hexdigest()[:4]}'
    tensors = [numpy_helper.from_array(stored, name), numpy_helper.from_array(sizes, place)]
    return [helper.make_node('Cast', [name], [f'{name}.f'], to=TensorProto.FLOAT),
            helper.make_node('Split', [f'{name}.f', place], list(values), axis=0)], tensors


def _unpacking(layer: str, weight: CodedWeight, output: str) -> tuple[list, list]:
    """
    Return nodes and initialisers that compute `output` (Cout, Cin / groups, kh, kw) float32.

    The scale is the first of the initialisers.
    """
    from onnx import helper, numpy_helper, TensorProto
    shape = weight.codes.shape
    count = int(np.prod(shape[1:]))
    source = f'{layer}.bits' if weight.bits == 1 else f'{layer}.int8'
    scale = f'{layer}.scale'
    tensors = [numpy_helper.from_array(weight.scale.reshape(-1, 1, 1, 1), scale)]
    if weight.bits == 8:
        tensors.append(numpy_helper.from_array(weight.codes, source))
        return [helper.make_node('Cast', [source], [f'{layer}.f'], to=TensorProto.FLOAT),
                helper.make_node('Mul', [f'{layer}.f', scale], [output])], tensors
    tensors.append(numpy_helper.from_array(pack_signs(weight.codes), source))
    nodes = [helper.make_node('Cast', [source], [f'{layer}.i'], to=TensorProto.INT32),
             helper.make_node('Gather', [f'{TABLE_NAME}.f', f'{layer}.i'], [f'{layer}.g'])]
    last = f'{layer}.g'
    if count % 8:
        for name, value in (('rows', [0, -1]), ('zero', [0]), ('count', [count]), ('axis', [1])):
            tensors.append(numpy_helper.from_array(np.array(value, np.int64), f'{layer}.{name}'))
        bounds = [f'{layer}.{name}' for name in ('zero', 'count', 'axis')]
        nodes += [helper.make_node('Reshape', [last, f'{layer}.rows'], [f'{layer}.r']),
                  helper.make_node('Slice', [f'{layer}.r', *bounds], [f'{layer}.s'])]
        last = f'{layer}.s'
    # 0 keeps the number of filters, -1 finds the inputs: one constant serves all kernels of a size.
    kernel = f'kernel_{shape[2]}x{shape[3]}'
    tensors.append(numpy_helper.from_array(np.array([0, -1, *shape[2:]], np.int64), kernel))
    nodes += [helper.make_node('Reshape', [last, kernel], [f'{layer}.w']),
              helper.make_node('Mul', [f'{layer}.w', scale], [output])]
    return nodes, tensors


def precision_document(model: Any, coded: Mapping[str, CodedWeight], prefix: str = 'network.'
                       ) -> dict[str, dict[str, Any]]:
    """
    Describe each convolution of an exported, not yet packed model: bits and shape of its weights.

    :param coded: the layers that will be packed; the others count as float32.
    :return: layer -> bits, shape, and `as`: the name that `compact_names` stores it under.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    layers = {}
    for node in model.graph.node:
        if node.op_type == 'Conv' and node.input[1] in shapes:
            layer = node.input[1].removeprefix(prefix).removesuffix('.weight')
            shape = shapes[node.input[1]]
            layers[layer] = {'bits': coded[layer].bits if layer in coded else _FLOAT_BITS, 'shape': shape,
                             'as': f'{len(layers):x}'}
    return layers


def is_default(attribute: Any) -> bool:
    """Whether an attribute of a convolution or Resize says what its absence says too."""
    if attribute.name in ('dilations', 'strides'):
        return all(value == 1 for value in attribute.ints)
    return ((attribute.name == 'pads' and not any(attribute.ints))
            or (attribute.name == 'group' and attribute.i == 1) or attribute.name == 'cubic_coeff_a'
            or (attribute.name == 'mode' and attribute.s == b'nearest'))


def _share_equal(graph: Any) -> None:
    """Keep one Constant node of equal ones, in place."""
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = instead.get(name, name)
        if node.op_type == 'Constant':
            value = b''.join(attribute.SerializeToString() for attribute in node.attribute)
            instead[node.output[0]] = first.setdefault(value, node.output[0])
            if first[value] != node.output[0]:
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def compact_names(model: Any, layers: Mapping[str, Mapping[str, Any]], prefix: str = 'network.') -> None:
    """
    Shorten the names inside a model, in place: a small file spends a good part of its bytes on them.

    Inputs and outputs keep their names; what a layer stores is called `<as>.<part>`; other values are
    numbered, nodes lose their names, convolutions and Resize what they would take by default, and equal
    constants become one.

    :param layers: of `precision_document`.
    """
    graph = model.graph
    _share_equal(graph)
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    for tensor in graph.initializer:
        layer, _, part = tensor.name.removeprefix(prefix).rpartition('.')
        names[tensor.name] = f'{layers[layer]["as"] if layer in layers else layer}.{part}' if layer else part
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    taken = fixed | set(names.values())
    letters = itertools.chain.from_iterable(
        itertools.product(_NAME_LETTERS, repeat=length) for length in itertools.count(1))
    free = (name for name in map(''.join, letters) if name not in taken)
    for node in graph.node:
        node.ClearField('name')
        node.ClearField('doc_string')
        if node.op_type in _DEFAULTS:
            kept = [a for a in node.attribute if not is_default(a)]
            del node.attribute[:]
            node.attribute.extend(kept)
        for i, name in enumerate(node.output):
            if name and name not in fixed:
                names[name] = node.output[i] = next(free)
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    del graph.value_info[:]
