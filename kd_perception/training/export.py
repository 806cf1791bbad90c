# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to one ONNX file that states its own facts."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
import warnings

import numpy as np
import torch
from torch import nn

from kd_perception.detection.decode import output_shapes
from kd_perception.detection.model_spec import ModelSpec
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.training.packed_onnx import compact_names, fold, pack, precision_document
from kd_perception.training.preprocess import FromCamera

OPSET = 17
PARITY_TOLERANCE = 1e-4


def graph_of(module: nn.Module, images: torch.Tensor, output_names: list[str]) -> bytes:
    """Serialise a module as an ONNX graph with one input, `images`, of the shape and type of a sample."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but needs no further package and gives a plain graph.
        warnings.simplefilter('ignore')
        torch.onnx.export(module, (images,), buffer, input_names=['images'], output_names=output_names,
                          opset_version=OPSET, dynamo=False)
    return buffer.getvalue()


def to_onnx(network: nn.Module, spec: ModelSpec, packed: bool = True, half: bool = False) -> bytes:
    """
    Serialise a network as ONNX, taking uint8 NHWC BGR images and normalising them in the graph.

    Batch norm is folded into the convolutions.

    :param network: a detector whose outputs are those of the decoder, in order (`output_shapes`).
    :param spec: goes into the file's metadata.
    :param packed: store binary and 8-bit weights as such (see `packed_onnx`); False gives the float
        twin, which computes the same.
    :param half: scales and biases of binary and 8-bit layers are float16 (see `half_scales`).
    """
    import onnx
    folded, coded = fold(network, half)
    coded = coded if packed else {}
    wrapped = FromCamera(folded.to(memory_format=torch.contiguous_format)).eval()
    images = torch.zeros(spec.input.shape, dtype=torch.uint8)
    model = onnx.load_model_from_string(graph_of(wrapped, images, list(output_shapes(spec))))
    layers = precision_document(model, coded)
    spec = dataclasses.replace(spec, documents={**spec.documents, 'precision': layers})
    pack(model, coded, half=half)
    compact_names(model, layers)
    model.producer_name, model.producer_version = 'kd_perception', ''
    model.doc_string = f'{spec.name}: {", ".join(spec.labels)}'
    onnx.helper.set_model_props(model, spec.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def parity(network: nn.Module, detector: OnnxDetector, seed: int = 0) -> float:
    """Largest absolute difference of any raw output between torch and the file, on a noise image."""
    spec = detector.spec
    images = np.random.default_rng(seed).integers(0, 256, spec.input.shape, dtype=np.uint8)
    with torch.no_grad():
        expected = FromCamera(network).eval()(torch.from_numpy(images))
    found = detector.session.run(list(output_shapes(spec)), {'images': images})
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, found))


def write_model(network: nn.Module, spec: ModelSpec, path: Path, packed: bool = True, half: bool = False
                ) -> OnnxDetector:
    """
    Write the file, load it as the detector node will, and compare it with torch.

    :param packed, half: see `to_onnx`.
    :raises TrainingError: the outputs differ by more than `PARITY_TOLERANCE`.
    """
    content = to_onnx(network, spec, packed, half)
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
