# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to one ONNX file that states its own facts."""

from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path
from typing import Any
import warnings

import numpy as np
import torch
from torch import nn

from kd_perception.detection.model_spec import ModelSpec
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.training.preprocess import FromCamera

OPSET = 17
PARITY_TOLERANCE = 1e-4


def average_weights(tuned: nn.Module, initial: nn.Module, share: float) -> nn.Module:
    """
    Mix two networks of one shape: (1 - share) * tuned + share * initial.

    Keeps abilities that tuning wears away, at no cost in running (Wortsman et al., 'Robust
    fine-tuning of zero-shot models', CVPR 2022).
    """
    mixed = copy.deepcopy(tuned)
    with torch.no_grad():
        for parameter, start in zip(mixed.parameters(), initial.parameters()):
            parameter.lerp_(start, share)
    return mixed


def to_onnx(network: nn.Module, spec: ModelSpec) -> bytes:
    """
    Serialise a network as ONNX, taking uint8 NHWC BGR images and normalising them in the graph.

    :param network: a detector with `strides`; its maps become outputs `level_<stride>`.
    :param spec: goes into the file's metadata.
    """
    import onnx
    wrapped = FromCamera(copy.deepcopy(network).to(memory_format=torch.contiguous_format)).eval()
    images = torch.zeros(spec.input.shape, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but needs no further package and gives a plain graph.
        warnings.simplefilter('ignore')
        torch.onnx.export(wrapped, (images,), buffer, input_names=['images'],
                          output_names=[f'level_{stride}' for stride in network.strides],
                          opset_version=OPSET, dynamo=False)
    model = onnx.load_model_from_string(buffer.getvalue())
    spec = dataclasses.replace(spec, documents={**spec.documents, 'precision': _precision(model)})
    model.producer_name, model.producer_version = 'kd_perception', ''
    model.doc_string = f'{spec.name}: {", ".join(spec.labels)}'
    # Machine paths of the exporting computer are no business of the file's readers.
    for node in model.graph.node:
        node.doc_string = ''
    onnx.helper.set_model_props(model, spec.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def parity(network: nn.Module, detector: OnnxDetector, seed: int = 0) -> float:
    """Largest absolute difference of any raw output between torch and the file, on a noise image."""
    spec = detector.spec
    images = np.random.default_rng(seed).integers(0, 256, spec.input.shape, dtype=np.uint8)
    with torch.no_grad():
        expected = FromCamera(network).eval()(torch.from_numpy(images))
    names = [f'level_{stride}' for stride in spec.decoder.strides]
    found = detector.session.run(names, {'images': images})
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, found))


def write_model(network: nn.Module, spec: ModelSpec, path: Path) -> OnnxDetector:
    """
    Write the file, load it as the detector node will, and compare it with torch.

    :raises TrainingError: the outputs differ by more than `PARITY_TOLERANCE`.
    """
    content = to_onnx(network, spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    try:
        temporary.write_bytes(content)
        detector = OnnxDetector.load(temporary)
        difference = parity(network, detector)
        if not difference <= PARITY_TOLERANCE:
            raise TrainingError(f'{path}: outputs differ from torch by {difference:.3g}, '
                                f'at most {PARITY_TOLERANCE} allowed')
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return OnnxDetector.load(path)


def _precision(model: Any) -> dict[str, dict[str, int]]:
    """Bits and number of weights of each layer, by the name of its weight tensor."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    layers = {}
    for node in model.graph.node:
        if node.op_type == 'Conv' and node.input[1] in sizes:
            layers[node.input[1].removeprefix('network.')] = {'bits': 32, 'weights': sizes[node.input[1]]}
    return layers
