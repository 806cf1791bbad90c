# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a model file stores, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math
from pathlib import Path
from typing import Any

from kd_perception.models.functions import spelt_out

_WEIGHTED_OPS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul', 'ConvInteger', 'QLinearConv')
# Operators that turn stored bits and integers into the weights of the former.
_UNPACKING_OPS = ('Cast', 'Concat', 'DequantizeLinear', 'Div', 'Gather', 'Identity', 'Mul', 'Pad',
                  'Reshape', 'Round', 'Slice', 'Transpose')
_FLOAT_BITS = 32
_ACTIVATION_SCALES = 'scales of activations'


def layers(path: Path, precision: Any) -> list[dict] | None:
    """
    List what the file stores: a row for each layer of the precision document, and each other constant.

    A layer's `bytes` count all that it stores (codes, scales, bias, shapes); `shape` and `bits` are its
    weights'. Rows come in the order in which the graph needs them.
    """
    try:
        import onnx
    except ImportError:
        return None
    graph = spelt_out(onnx.load(str(path), load_external_data=False), path).graph
    facts = _layer_facts(precision)
    integers = any(fact['activation_bits'] != _FLOAT_BITS for fact in facts.values())
    operators = _operators(graph)
    rows: dict[str, dict] = {}
    order: dict[str, int] = {}
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        layer = tensor.name.rpartition('.')[0]
        name = layer if layer in facts else tensor.name
        if integers and not array.ndim and array.dtype == 'float32':
            name = _ACTIVATION_SCALES
        operator, position = operators.get(tensor.name, ('unused', len(graph.node)))
        row = rows.setdefault(name, {
            'name': name, 'operator': operator, 'shape': list(array.shape), 'bits': 8 * array.itemsize,
            'bytes': 0, **facts.get(name, {})})
        row['bytes'] += int(array.nbytes)
        if name == _ACTIVATION_SCALES:
            row['shape'] = [row['bytes'] // array.itemsize]
        if operator in _WEIGHTED_OPS:
            row['operator'] = operator
        order[name] = min(position, order.get(name, position))
    return [rows[name] for name in sorted(rows, key=order.__getitem__)]


def _layer_facts(precision: Any) -> dict[str, dict]:
    """
    Take shape and bits of layers from the precision document, as far as it is well formed.

    :return: the name that a layer is stored under -> its name, shape, bits and bits of its activations.
    """
    facts = {}
    for name, entry in precision.items() if isinstance(precision, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get('bits'), int):
            shape = entry.get('shape')
            if isinstance(shape, list) and all(isinstance(side, int) for side in shape):
                activations = entry.get('activation_bits', _FLOAT_BITS)
                facts[str(entry.get('as', name))] = {
                    'name': name, 'shape': shape, 'bits': entry['bits'],
                    'activation_bits': activations if isinstance(activations, int) else _FLOAT_BITS}
    return facts


def _operators(graph: Any) -> dict[str, tuple[str, int]]:
    """
    Return for each value the operator that it serves, and that operator's position.

    That is the one whose weight it becomes (at once, or when unpacked), else the first that reads it.
    """
    readers: dict[str, tuple[str, int]] = {}
    weights: dict[str, tuple[str, int]] = {}
    for position, node in reversed(list(enumerate(graph.node))):
        unpacks = weights.get(node.output[0]) if node.op_type in _UNPACKING_OPS else None
        for index, name in enumerate(node.input):
            readers[name] = (node.op_type, position)
            if unpacks is not None:
                weights[name] = unpacks
            elif node.op_type in _WEIGHTED_OPS and index > 0:
                weights[name] = (node.op_type, position)
    return {**readers, **weights}


def layer_table(rows: Sequence[dict]) -> Iterator[str]:
    """Yield the rows of `layers` as lines of a table, with totals."""
    total = sum(layer['bytes'] for layer in rows) or 1
    yield f'{"layer":<40}{"operator":<13}{"shape":<20}{"bits":>6}{"act.":>6}{"bytes":>13}{"share":>8}'
    for layer in rows:
        shape = 'x'.join(map(str, layer['shape']))
        yield (f'{layer["name"][-39:]:<40}{layer["operator"]:<13}{shape:<20}{layer["bits"]:>6}'
               f'{layer.get("activation_bits", ""):>6}{layer["bytes"]:>13,}{layer["bytes"] / total:>8.1%}')
    yield f'{len(rows)} layers and constants, {total:,} bytes'
    for bits in sorted({layer['bits'] for layer in rows}):
        count = sum(math.prod(layer['shape']) for layer in rows if layer['bits'] == bits)
        yield f'  {bits:>2} bits: {count:,} values'
