# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Store a network with integer activations: its codes as bits, and one call of a function a layer."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from kd_perception.errors import TrainingError
from kd_perception.training.export.fold import CodedWeight
from kd_perception.training.export.integer_onnx import (
    codable_scale,
    DOMAIN,
    functions,
    Graph,
    round_resized,
    share_constants,
    unroll_columns,
    unrolled_filters,
)
from kd_perception.training.export.packed_onnx import (
    byte_table_nodes,
    is_default,
    pack_signs,
    split_halves,
    TABLE_NAME,
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """Codes with positive scales, biases (Cout,) float32, and the name of the input's scale."""

    weight: CodedWeight
    bias: np.ndarray
    input_scale: str


def pack_integers(model: Any, coded: Mapping[str, CodedWeight], prefix: str = 'network.', half: bool = False,
                  packed: bool = True) -> dict[str, CodedWeight]:
    """
    Make the convolutions between quantizers integer ones, in place, and store their codes.

    A layer called L in the network stores `L.bits` (or `L.int8`), and makes `L.scale` and `L.bias`.

    :param model: as traced from an `IntegerCamera`; weights are named `<prefix><layer>.weight`.
    :param half: scales and biases are float16 values (see `fold.fold`): store them as such.
    :param packed: False stores binary codes as int8, unpacked.
    :return: the coded layers that are none of them, for `packed_onnx.pack`.
    :raises TrainingError: an integer convolution has weights that are no codes.
    """
    from onnx import helper
    share_constants(model)
    round_resized(model)
    layers = _integer_layers(model, coded, prefix, half)
    nodes, tensors = _stored({name: layer.weight for name, layer in layers.items()},
                             {name: layer.bias for name, layer in layers.items()}, half, packed)
    first = next(iter(layers))
    names = [f'{first}.{part}' for part in ('codes', 'scale', 'bias')]
    for new_nodes, new_tensors in (unrolled_filters(*names), ([], unroll_columns(model))):
        nodes, tensors = nodes + new_nodes, tensors + new_tensors
    graph = model.graph
    calls = _calls(model, prefix, {name: layer.input_scale for name, layer in layers.items()})
    del graph.node[:]
    graph.node.extend(nodes + calls)
    model.functions.extend(functions(model.opset_import[0].version))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    used = {name for node in graph.node for name in node.input}
    kept = {t.name: t for t in (*graph.initializer, *tensors) if t.name in used}
    del graph.initializer[:]
    graph.initializer.extend(kept.values())
    return {layer: weight for layer, weight in coded.items() if layer not in layers}


def _integer_layers(model: Any, coded: Mapping[str, CodedWeight], prefix: str, half: bool
                    ) -> dict[str, _Layer]:
    """Return the layers that will run in integers, in the graph's order."""
    from onnx import numpy_helper
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    same = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == 'Identity'}
    layers = {}
    for conv, source in Graph(model.graph).integer_convolutions():
        layer = conv.input[1].removeprefix(prefix).removesuffix('.weight')
        attributes = {a.name: list(a.ints) for a in conv.attribute}
        if attributes['pads'] != 2 * [(side - 1) // 2 for side in attributes['kernel_shape']] or (
                max(attributes['strides']) > 2):
            raise TrainingError(f'{layer}: its padding is not that of equal sizes')
        if layer not in coded:
            raise TrainingError(f'{layer}: is to run in integers, but its weights are float')
        weight = coded[layer]
        sign = np.where(weight.scale < 0, -1, 1).astype(np.int8)
        bias = numpy_helper.to_array(stored[same.get(conv.input[2], conv.input[2])])
        input_scale = float(numpy_helper.to_array(stored[source.input[1]]))
        scale = codable_scale(np.abs(weight.scale), bias, input_scale, half)
        codes = weight.codes * sign.reshape(-1, 1, 1, 1)
        layers[layer] = _Layer(CodedWeight(weight.bits, codes, scale), bias, source.input[1])
    if not layers:
        raise TrainingError('the network has no layer that can run in integers')
    return layers


def _stored(weights: Mapping[str, CodedWeight], biases: Mapping[str, np.ndarray], half: bool, packed: bool
            ) -> tuple[list, list]:
    """Return nodes and initialisers that make `L.codes`, `L.scale` and `L.bias` of each layer L."""
    from onnx import helper, numpy_helper
    scales = {f'{layer}.scale': weight.scale for layer, weight in weights.items()}
    offsets = {f'{layer}.bias': bias for layer, bias in biases.items()}
    nodes, tensors = [], []
    if half:
        for name, values in (('scale', scales), ('bias', offsets)):
            new_nodes, new_tensors = split_halves(name, values)
            nodes, tensors = nodes + new_nodes, tensors + new_tensors
    else:
        tensors += [numpy_helper.from_array(value, name) for name, value in {**scales, **offsets}.items()]
    if packed and any(weight.bits == 1 for weight in weights.values()):
        new_nodes, new_tensors = byte_table_nodes(integers=True)
        nodes, tensors = nodes + new_nodes, tensors + new_tensors
    for layer, weight in weights.items():
        shape = weight.codes.shape
        if not packed or weight.bits != 1:
            tensors.append(numpy_helper.from_array(weight.codes, f'{layer}.int8'))
            nodes.append(helper.make_node('Identity', [f'{layer}.int8'], [f'{layer}.codes']))
            continue
        if np.prod(shape[1:]) % 8:
            raise TrainingError(f'{layer}: filters of {shape[1:]} are no whole bytes of bits')
        kernel = f'kernel_{shape[2]}x{shape[3]}'
        tensors += [numpy_helper.from_array(pack_signs(weight.codes), f'{layer}.bits'),
                    numpy_helper.from_array(np.array([0, -1, *shape[2:]]), kernel)]
        nodes.append(helper.make_node('Signs', [f'{layer}.bits', f'{TABLE_NAME}.q', kernel],
                                      [f'{layer}.codes'], domain=DOMAIN))
    return nodes, tensors


def _calls(model: Any, prefix: str, input_scales: Mapping[str, str]) -> list:
    """
    Return the graph's nodes, with one call in place of each convolution and rounding.

    :param input_scales: by layer, those that run in integers, the unrolled one first.
    """
    from onnx import helper
    graph = Graph(model.graph)
    first = next(iter(input_scales))
    replaced = set()
    calls = []
    for node in model.graph.node:
        if id(node) in replaced:
            continue
        chain = graph.rounding(node)
        if not chain or chain[-2].input[1] != chain[-1].input[1]:
            calls.append(node)
            continue
        replaced |= {id(each) for each in chain}
        scale, zero = chain[-1].input[1:]
        output, relu = [chain[-1].output[0]], chain[0].op_type == 'Relu'
        layer = node.input[1].removeprefix(prefix).removesuffix('.weight') if node.op_type == 'Conv' else ''
        if layer not in input_scales:
            name = 'ReluRound' if relu else 'Round'
            calls += [node, helper.make_node(name, [node.output[0], scale], output, domain=DOMAIN)]
            continue
        unrolled = '.u' if layer == first else ''
        call = helper.make_node(
            'Conv8' if relu else 'Conv8Signed',
            [node.input[0], input_scales[layer],
             *(f'{layer}.{part}{unrolled}' for part in ('codes', 'scale', 'bias')), scale,
             *(() if relu else (zero,))], output, domain=DOMAIN)
        call.attribute.extend(a for a in node.attribute if a.name == 'strides' and not is_default(a))
        calls.append(call)
    return calls
