# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Read the weights of an exported model file back: the inverse of `packed_onnx.pack`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.errors import ModelError, TrainingError
from kd_perception.models.functions import spelt_out
from kd_perception.training.export.integer_onnx import unrolled_codes, UNROLLED_SHAPE
from kd_perception.training.export.packed_onnx import unpack_signs

_MAX_RANGE = 256
_MAX_VALUES = 1 << 26  # of all convolutions together
# What computes weights of constants (see `packed_onnx`; torch's exporter stores equal biases once, behind an
# Identity): none makes much out of little.
_UNPACKING = {'Cast', 'Concat', 'Div', 'Gather', 'Identity', 'Mod', 'Mul', 'Pad',
              'Range', 'Reshape', 'Round', 'Slice', 'Split', 'Sub', 'Transpose'}    # and DequantizeLinear


@dataclasses.dataclass(frozen=True, eq=False)
class StoredWeight:
    """
    One convolution of a file: codes * scale, plus bias.

    :param codes: (Cout, Cin, kh, kw) float32: +-1, integers of 8 bits, or any float weights with scale 1.
    :param scale, bias: (Cout,) float32; the scale of either sign.
    :param binary: all codes are +-1.
    """

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    binary: bool

    @classmethod
    def of_floats(cls, weight: np.ndarray, bias: np.ndarray) -> StoredWeight:
        """Wrap float weights; those of a binary layer's float twin, +-s in each filter, are recognised."""
        sizes = np.abs(weight).reshape(len(weight), -1)
        scale = sizes.max(axis=1)
        if (sizes == scale[:, None]).all() and scale.any():
            return cls(np.where(weight >= 0, 1, -1).astype(np.float32), scale, bias, True)
        return cls(weight, np.ones(len(weight), np.float32), bias, False)


def read_stored(content: bytes, precision: Any, path: Path) -> dict[str, StoredWeight]:
    """
    Read the weights of every convolution of a model file, by the torch layer's name.

    :param content: the file's bytes; `path` is how messages name it.
    :param precision: the file's document of that name.
    :raises TrainingError: a weight is not stored as this package's export does.
    """
    import onnx
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf raises its own types, which differ between versions
        raise TrainingError(f'{path}: not an ONNX file') from error
    names, total = {}, 0
    try:
        for layer, entry in precision.items():
            shape = tuple(int(side) for side in entry['shape'])
            names[str(entry['as'])] = str(layer), int(entry['bits']), shape
            total += int(np.prod(shape, dtype=np.float64))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise TrainingError(f'{path}: its precision document is not that of an export') from error
    if not names or len(names) != len(precision) or total > _MAX_VALUES:
        raise TrainingError(f'{path}: its precision document names no layers, one twice, or too many weights')
    try:
        model = spelt_out(model, path)
    except ModelError as error:
        raise TrainingError(str(error)) from error
    graph = model.graph
    constants = _constants(model, path)
    makers = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in graph.node:
        if node.op_type == 'Conv':
            root = _root(node.input[1], makers, names)
            if root is None:
                raise TrainingError(f'{path}: convolution {node.output[0]!r} has weights that the precision '
                                    'document does not name')
            layer, bits, shape = names[root]
            found[layer] = _stored(node, bits, shape, root, constants, makers, f'{path}: {layer}')
    missing = set(precision) - set(found)
    if missing:
        raise TrainingError(f'{path}: has no convolution for {sorted(missing)[0]}')
    return found


def _constants(model: Any, path: Path) -> dict[str, np.ndarray]:
    """Return all stored values, and those that the unpacking nodes compute of them, by name."""
    from onnx import helper, numpy_helper, TensorProto
    from onnx.reference import ReferenceEvaluator
    graph = model.graph
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in graph.initializer):
        raise TrainingError(f'{path}: keeps weights in another file, which no export does')
    known = {tensor.name for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type in _UNPACKING and node.input and known.issuperset(filter(None, node.input)):
            nodes.append(node)
            known.update(node.output)
    outputs = [name for node in nodes for name in node.output]
    try:
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        if any(node.op_type == 'Range' and abs(int(stored.get(name, _MAX_RANGE))) > _MAX_RANGE
               for node in nodes for name in node.input):
            raise TrainingError(f'{path}: counts further than a table of bytes needs')
        if outputs:
            part = helper.make_model(helper.make_graph(
                nodes, 'constants', [], [helper.make_empty_tensor_value_info(name) for name in outputs],
                graph.initializer), opset_imports=model.opset_import)
            stored.update(zip(outputs, ReferenceEvaluator(part).run(None, {})))
        for node in graph.node:     # whose evaluator does not know it at the operator set of our files
            if (node.op_type == 'DequantizeLinear' and len(node.input) == 2
                    and stored.keys() >= set(node.input)):
                codes, scale = (stored[name] for name in node.input)
                stored[node.output[0]] = codes.astype(np.float32) * scale.reshape(-1, *[1] * (codes.ndim - 1))
    except TrainingError:
        raise
    except Exception as error:  # the evaluator lets through whatever numpy raises
        raise TrainingError(f'{path}: its weights cannot be unpacked ({type(error).__name__})') from error
    return stored


def _root(value: str, makers: Mapping[str, Any], names: Collection[str]) -> str | None:
    """Return the layer's name inside the file (`as`) that the codes or weights behind a value have."""
    pending, seen = [value], set()
    while pending:
        name = pending.pop()
        root, _, part = name.rpartition('.')
        if root in names and part in ('bits', 'int8', 'weight') and name not in makers:
            return root
        if name in makers and name not in seen:
            seen.add(name)
            pending += makers[name].input
    return None


def _stored(node: Any, bits: int, shape: tuple[int, ...], root: str, constants: Mapping[str, np.ndarray],
            makers: Mapping[str, Any], place: str) -> StoredWeight:
    inputs = [constants.get(name) for name in node.input[1:3]]
    if any(value is None for value in inputs):
        raise TrainingError(f'{place}: its weights or bias are not constant')
    weight = inputs[0]
    bias = np.zeros(shape[:1], np.float32) if len(inputs) < 2 else inputs[1]
    if bits == 8 and weight.shape[1:] == UNROLLED_SHAPE:
        return _rolled(np.asarray(constants.get(f'{root}.int8')), weight, bias, makers[node.input[1]],
                       constants, place)
    if weight.shape != shape or len(shape) != 4 or bias.shape != shape[:1]:
        raise TrainingError(f'{place}: holds weights {list(weight.shape)} and biases {list(bias.shape)}, its '
                            f'precision document says {list(shape)}')
    weight, bias = (np.array(value, np.float32) for value in (weight, bias))
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise TrainingError(f'{place}: holds values that are not finite')
    if bits == 32:
        return StoredWeight.of_floats(weight, bias)
    if bits == 1 and f'{root}.bits' in constants:
        packed = constants[f'{root}.bits']
        if packed.dtype != np.uint8 or packed.shape != (shape[0], -(-int(np.prod(shape[1:])) // 8)):
            raise TrainingError(f'{place}: holds bits {list(packed.shape)} for weights {list(shape)}')
        codes = unpack_signs(packed, shape).astype(np.float32)
    else:
        codes = np.asarray(constants.get(f'{root}.int8', np.nan), np.float32)
    maker = makers.get(node.input[1])
    scaled = maker is not None and maker.op_type in ('Mul', 'DequantizeLinear')
    scale = constants[maker.input[1]] if scaled else None
    if codes.shape != shape or scale is None or scale.size != shape[0] or not np.array_equal(
            weight, codes * scale.reshape(-1, 1, 1, 1)):
        raise TrainingError(f'{place}: its weights are not {bits}-bit codes times a scale')
    return StoredWeight(codes, np.array(scale, np.float32).ravel(), bias, bits == 1)


def _rolled(codes: np.ndarray, weight: np.ndarray, bias: np.ndarray, maker: Any,
            constants: Mapping[str, np.ndarray], place: str) -> StoredWeight:
    """Return a first layer as the network has it, of one that works on several columns at once."""
    count = len(weight) // 2
    scale = np.asarray(constants[maker.input[1]], np.float32).ravel() if len(maker.input) > 1 else np.zeros(0)
    if codes.shape != (count, 3, 3, 3) or scale.shape != (2 * count,) or bias.shape != scale.shape or not (
            np.array_equal(weight, unrolled_codes(codes) * scale.reshape(-1, 1, 1, 1))
            and np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise TrainingError(f'{place}: is no first layer that was unrolled over columns')
    return StoredWeight(codes.astype(np.float32), scale[:count], np.array(bias[:count], np.float32), False)
