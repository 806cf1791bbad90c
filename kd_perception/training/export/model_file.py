# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to one ONNX file that states its own facts."""

from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path
import warnings

import numpy as np
import torch
from torch import nn

from kd_perception.detection.decode import output_shapes
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.models.free_sizes import leave_sizes_free
from kd_perception.models.spec import ModelSpec
from kd_perception.training.binary.activations import float_camera, INPUT_LAYER, is_quantized
from kd_perception.training.export.fold import fold
from kd_perception.training.export.half_floats import halve_floats
from kd_perception.training.export.integer_onnx import IntegerCamera
from kd_perception.training.export.integer_pack import pack_integers
from kd_perception.training.export.packed_onnx import compact_names, pack, precision_document
from kd_perception.training.networks.preprocess import FromCamera

OPSET = 17
PARITY_TOLERANCE = 1e-4
# Sums of floats and of integers round to neighbouring steps now and then, and each such step moves others in
# the layers after it: some percent of the outputs' deviation, as much as rounding itself.
INTEGER_TOLERANCE = 0.05


def graph_of(module: nn.Module, images: torch.Tensor, output_names: list[str]) -> bytes:
    """Serialise a module as an ONNX graph with one input, `images`, of the shape and type of a sample."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but needs no further package and gives a plain graph.
        warnings.simplefilter('ignore')
        torch.onnx.export(module, (images,), buffer, input_names=['images'], output_names=output_names,
                          opset_version=OPSET, dynamo=False)
    return buffer.getvalue()


def to_onnx(network: nn.Module, spec: ModelSpec, packed: bool = True, half: bool = False,
            integers: bool | None = None, half_floats: bool = False) -> bytes:
    """
    Serialise a network as ONNX, taking uint8 NHWC BGR images and normalising them in the graph.

    Batch norm is folded into the convolutions.

    :param network: a detector whose outputs are those of the decoder, in order (`output_shapes`).
    :param spec: goes into the file's metadata.
    :param packed: store binary and 8-bit weights as such (see `packed_onnx`); False gives the float
        twin, which computes the same.
    :param half: scales and biases of binary and 8-bit layers are float16 (see `half_scales`).
    :param integers: compute in integers (see `integer_onnx`); by default where the network has integer
        activations and is packed.
    :param half_floats: store float weights as float16 (see `half_floats`).
    """
    import onnx
    folded, coded = fold(network, half)
    folded = folded.to(memory_format=torch.contiguous_format)
    integers = computes_integers(network, packed, integers)
    coded = coded if packed or integers else {}
    wrapped = IntegerCamera(folded) if integers else float_camera(folded)
    images = torch.zeros(spec.input.shape, dtype=torch.uint8)
    model = onnx.load_model_from_string(graph_of(wrapped.eval(), images, list(output_shapes(spec))))
    layers = precision_document(model, coded)
    if integers:
        floats = pack_integers(model, coded, half=half, packed=packed)
        for layer in set(coded) - set(floats):
            layers[layer]['activation_bits'] = 8
        coded = floats
    if is_quantized(network):
        layers[INPUT_LAYER]['uniform_input'] = True
    spec = dataclasses.replace(spec, documents={**spec.documents, 'precision': layers})
    pack(model, coded, half=half)
    compact_names(model, layers)
    if half_floats:
        halve_floats(model)
    if spec.input.size_step is not None:
        leave_sizes_free(model, spec.input.layout)
    model.producer_name, model.producer_version = 'kd_perception', ''
    model.doc_string = f'{spec.name}: {", ".join(spec.labels)}'
    onnx.helper.set_model_props(model, spec.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def parity(network: nn.Module, detector: OnnxDetector, seed: int = 0) -> float:
    """
    Largest absolute difference of any raw output between torch and the file, on a noise image.

    :param network: takes normalised images, or is a `FromCamera` around such a network.
    """
    expected, found = _outputs(network, detector, seed)
    return float(np.abs(expected - found).max())


def deviation(network: nn.Module, detector: OnnxDetector, seed: int = 0) -> float:
    """Deviation of the differences between torch and the file, as a share of the outputs' deviation."""
    expected, found = _outputs(network, detector, seed)
    return float((expected - found).std() / max(expected.std(), 1e-12))


def _outputs(network: nn.Module, detector: OnnxDetector, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    spec = detector.spec
    images = np.random.default_rng(seed).integers(0, 256, spec.input.shape, dtype=np.uint8)
    with torch.no_grad():
        camera = network if isinstance(network, FromCamera) else FromCamera(network)
        expected = [level.numpy().ravel() for level in camera.eval()(torch.from_numpy(images))]
    found = [level.ravel() for level in detector.session.run(list(output_shapes(spec)), {'images': images})]
    return np.concatenate(expected), np.concatenate(found)


def write_model(network: nn.Module, spec: ModelSpec, path: Path, packed: bool = True, half: bool = False,
                integers: bool | None = None, half_floats: bool = False) -> OnnxDetector:
    """
    Write the file, load it as the detector node will, and compare it with torch.

    :param packed, half, integers, half_floats: see `to_onnx`.
    :raises TrainingError: the outputs differ by more than `PARITY_TOLERANCE`; of an integer graph, by more
        than `INTEGER_TOLERANCE`.
    """
    integers = computes_integers(network, packed, integers)
    content = to_onnx(network, spec, packed, half, integers, half_floats)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    try:
        temporary.write_bytes(content)
        detector = OnnxDetector.load(temporary)
        if integers or half_floats:
            difference, allowed = deviation(network, detector), INTEGER_TOLERANCE
        else:
            camera = float_camera(copy.deepcopy(network))
            expected, found = _outputs(camera, detector)
            # Of a network that was hardly trained yet outputs, and their rounding, may be large.
            difference = float(np.abs(expected - found).max())
            allowed = PARITY_TOLERANCE * max(1.0, float(expected.std()))
        if not difference <= allowed:
            unit = ' of their deviation' * (integers or half_floats)
            raise TrainingError(f'{path}: outputs differ from torch by {difference:.3g}{unit}, '
                                f'at most {allowed:.3g} allowed')
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return OnnxDetector.load(path)


def computes_integers(network: nn.Module, packed: bool, integers: bool | None) -> bool:
    """Whether an exported file is to compute in integers: by default if the network does, and is packed."""
    return is_quantized(network) and packed if integers is None else integers
