# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Load the published PicoDet-S weights (an ONNX file of PaddleDetection's model) into our module."""

from collections.abc import Sequence
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.networks.picodet import PicoDet, REG_MAX

# PicoDet-S, 416 px, COCO, exported by PaddleDetection (Apache-2.0).
PICODET_S_416_SHA256 = 'cdab77bdde16e4f76bec734c4e5791801d1739e4c7ec1995e0e110e04300d0c2'
COCO_CLASSES = 80
COCO_ROWS = {'Car': 2, 'Pedestrian': 0, 'Cyclist': 1}  # car, person, bicycle
_MAX_FILE_BYTES = 64 << 20


def load_picodet(path: str | Path, class_rows: Sequence[int] | None = None,
                 expected_sha256: str | None = PICODET_S_416_SHA256) -> PicoDet:
    """
    Build PicoDet-S and fill it from the published ONNX file.

    Convolutions are matched in graph order, which is the order our module runs them in; every
    shape is checked.

    :param path: the ONNX file
    :param class_rows: rows of the 80-class branch to keep, in the order of our classes; None keeps all
    :param expected_sha256: digest that the file must have; None accepts any file of that graph
    :return: the module in evaluation mode, float32
    :raises TrainingError: if the file is missing, has another digest or does not fit the network
    """
    path = Path(path)
    weights = _read_convolutions(path, expected_sha256)
    rows = list(range(COCO_CLASSES)) if class_rows is None else list(class_rows)
    if not rows or any(not 0 <= row < COCO_CLASSES for row in rows):
        raise TrainingError(f'class rows must lie in 0..{COCO_CLASSES - 1}, got {rows}')
    return _filled(PicoDet(len(rows)), weights, path,
                   rows + list(range(COCO_CLASSES, COCO_CLASSES + 4 * (REG_MAX + 1))))


def load_exported_picodet(path: str | Path, classes: int) -> PicoDet:
    """
    Build PicoDet-S and fill it from a model file of this package, such as `models/teacher.onnx`.

    The inverse of the export, for a teacher whose checkpoint is not at hand.

    :param classes: number of classes that the file's specification states.
    :return: the module in evaluation mode, float32
    :raises TrainingError: if the file is missing or does not fit the network
    """
    path = Path(path)
    return _filled(PicoDet(classes), _read_convolutions(path, None), path)


def _filled(model: PicoDet, weights: Sequence[tuple[np.ndarray, np.ndarray]], path: Path,
            head_rows: Sequence[int] | None = None) -> PicoDet:
    """Copy (weight, bias) pairs in execution order into the model; `head_rows` of 80-class predictions."""
    model.eval()
    convolutions = _execution_order(model)
    if len(convolutions) != len(weights):
        raise TrainingError(f'{path}: expected {len(convolutions)} convolutions, found {len(weights)}')
    heads = {id(layer) for layer in model.head.predict}
    with torch.no_grad():
        for index, (layer, (weight, bias)) in enumerate(zip(convolutions, weights)):
            if head_rows and id(layer) in heads and weight.shape[0] == COCO_CLASSES + 4 * (REG_MAX + 1):
                weight, bias = weight[head_rows], bias[head_rows]
            if tuple(layer.weight.shape) != weight.shape or tuple(layer.bias.shape) != bias.shape:
                raise TrainingError(f'{path}: convolution {index} has shape {weight.shape}, '
                                    f'expected {tuple(layer.weight.shape)}')
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    return model


def _read_convolutions(path: Path, expected_sha256: str | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (weight, bias) of each Conv node in graph order, float32 copies."""
    import onnx
    from onnx import numpy_helper
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise TrainingError(f'{path}: larger than {_MAX_FILE_BYTES} bytes, not a PicoDet-S file')
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f'{path}: cannot read the initial weights: {error.strerror}') from error
    digest = hashlib.sha256(content).hexdigest()
    if expected_sha256 is not None and digest != expected_sha256:
        raise TrainingError(f'{path}: sha256 is {digest}, expected {expected_sha256}')
    try:
        graph = onnx.load_model_from_string(content).graph
    except Exception as error:  # protobuf raises its own types, which differ between versions
        raise TrainingError(f'{path}: not an ONNX file') from error
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == 'Constant' and node.attribute:
            constants[node.output[0]] = node.attribute[0].t
        elif node.op_type == 'Identity' and node.input[0] in constants:  # equal tensors are stored once
            constants[node.output[0]] = constants[node.input[0]]
    found = []
    for node in graph.node:
        if node.op_type == 'Conv':
            if len(node.input) != 3 or any(name not in constants for name in node.input[1:]):
                raise TrainingError(f'{path}: convolution {node.output[0]!r} lacks a constant weight or bias')
            weight, bias = (np.array(numpy_helper.to_array(constants[name]), np.float32)
                            for name in node.input[1:])
            found.append((weight, bias))
    return found


def _execution_order(model: PicoDet) -> list[nn.Conv2d]:
    """Return the convolutions in the order that a forward pass runs them."""
    order: list[nn.Conv2d] = []
    hooks = [layer.register_forward_hook(lambda module, *_: order.append(module))
             for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, 64, 64))
    finally:
        for hook in hooks:
            hook.remove()
    return order
