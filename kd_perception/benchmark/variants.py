# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Variants of a model file to compare it with: float activations, float twin, other input sizes."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np

from kd_perception.attach.graph_facts import read_facts
from kd_perception.attach.probe import needed_multiple, rounded
from kd_perception.attach.write import write_described
from kd_perception.detection.decode import output_shapes
from kd_perception.detection.model_loading import is_ir
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.detection.onnx_session import create_session, ExecutionOptions
from kd_perception.errors import ModelError
from kd_perception.models.manifest import pinned_sha256
from kd_perception.models.model_bytes import read_model
from kd_perception.models.spec import ModelSpec


def write_variants(path: Path, folder: Path) -> list[Path]:
    """
    Write what a packed student would be with float activations, and its float twin.

    Both are made of the file itself (see `training.unfold`), which needs PyTorch.

    :return: paths of the float twin and of the packed file with float activations.
    :raises ModelError: PyTorch is missing, or the file does not say how a student was trained.
    """
    try:
        import torch
    except ImportError as error:
        raise ModelError('--variants needs PyTorch, which is not installed: make env-train') from error
    from kd_perception.config import from_mapping
    from kd_perception.errors import ConfigError, TrainingError
    from kd_perception.training.binary.binarization import activate_all
    from kd_perception.training.export.half_scales import fit_half_scales
    from kd_perception.training.export.model_file import write_model
    from kd_perception.training.export.unfold import unfold
    from kd_perception.training.loop.network_builder import build_network
    from kd_perception.training.settings.run import TrainingSettings
    spec = OnnxDetector.load(path, expected_sha256=pinned_sha256(path)).spec
    try:
        settings = from_mapping(TrainingSettings, spec.documents['provenance']['settings'],
                                f'{path}: provenance')
    except (KeyError, TypeError, ConfigError) as error:
        raise ModelError(f'{path}: no variants of it can be made: it does not say how it was trained '
                         f'({error})') from error
    torch.manual_seed(0)
    network = build_network(settings.network, len(spec.labels), settings.binarization, settings.activations)
    try:
        unfold(network, path, spec.labels)
        activate_all(network.eval())
        fit_half_scales(network)
        made = []
        for name, options in (('float_twin', {'packed': False}), ('float_activations', {'integers': False})):
            made.append(folder / f'{path.stem}_{name}.onnx')
            write_model(network, spec, made[-1], half=True, **options)
    except TrainingError as error:
        raise ModelError(f'{path}: no variants of it can be made: {error}') from error
    return made


def _with_shapes(content: bytes, spec: ModelSpec, batch: int) -> bytes:
    """Return a model file whose input and outputs have the shapes that a specification says."""
    import onnx
    model = onnx.load_from_string(content)
    shapes = {model.graph.input[0].name: spec.input.shape, **output_shapes(spec)}
    for value in (*model.graph.input, *model.graph.output):
        for dimension, size in zip(value.type.tensor_type.shape.dim, (batch, *shapes[value.name][1:])):
            if size is not None:
                dimension.dim_value = size
    onnx.helper.set_model_props(model, spec.to_metadata())
    return model.SerializeToString()


def batch_cost(path: Path, batches: Sequence[int], threads: int, rounds: int) -> dict[str, Any]:
    """
    Run a fully convolutional model on several images at once, and one by one, in turn.

    :return: for 1 and each batch size quartiles of inference [ms an image], and `ratio` to one by one.
    :raises ModelError: its graph is made for one image.
    """
    content, _ = read_model(path, pinned_sha256(path))
    spec = OnnxDetector.from_bytes(content, path).spec
    sizes = sorted({1, *batches})
    options = ExecutionOptions(threads=threads)
    sessions = [create_session(_with_shapes(content, spec, size), options, path) for size in sizes]
    rng = np.random.default_rng(0)
    feeds = []
    for session, size in zip(sessions, sizes):
        images = rng.integers(0, 256, (size, *spec.input.shape[1:]), dtype=np.uint8)
        feeds.append({session.get_inputs()[0].name: images})
    times_ms = np.zeros((rounds, len(sizes)))
    names = list(output_shapes(spec))
    for number in range(-2, rounds):   # the first two warm up
        for turn in range(len(sizes)):
            which = (number + turn) % len(sizes)
            start = time.perf_counter()
            try:
                sessions[which].run(names, feeds[which])
            except Exception as error:  # onnxruntime raises a family of its own
                raise ModelError(f'{path}: cannot be run on {sizes[which]} images at once') from error
            times_ms[max(number, 0), which] = 1e3 * (time.perf_counter() - start) / sizes[which]
    return {str(size): {'ms_an_image': quartiles(times_ms[:, i]),
                        'ratio': quartiles(times_ms[:, 0] / times_ms[:, i])} for i, size in enumerate(sizes)}


def quartiles(values: np.ndarray) -> list[float]:
    """Return the quartiles of measurements, rounded for a report."""
    return [round(float(value), 3) for value in np.percentile(values, (25, 50, 75))]


def write_resized(path: Path, input_hw: tuple[int, int], folder: Path) -> Path:
    """
    Write a fully convolutional model file for another input size.

    :return: the new file's path; the file's own where the size is its own.
    :raises ModelError: its graph is made for one size only, or needs a multiple, which the message names.
    """
    content, _ = read_model(path, pinned_sha256(path))
    spec = OnnxDetector.from_bytes(content, path).spec
    if spec.input.hw == input_hw:
        return path
    height, width = input_hw
    if spec.input.constants:
        raise ModelError(f'{path}: takes {", ".join(spec.input.constants)} beside the image, whose values '
                         f'go with the size: attach it with --size {width}x{height}')
    try:
        return _write_at(path, content, spec, input_hw, folder)
    except ModelError as error:
        multiple = needed_multiple(input_hw, functools.partial(_runs_at, path, content, spec))
        if multiple is None:
            raise ModelError(f'{path}: cannot be run at {width}x{height}, nor at sizes near: is its graph '
                             f'made for {spec.input.width}x{spec.input.height} alone?') from error
        high, wide = rounded(input_hw, multiple)
        raise ModelError(f'{path}: cannot take {width}x{height} px: its height and width must be multiples '
                         f'of {multiple}, such as {wide}x{high}') from error


def _runs_at(path: Path, content: bytes, spec: ModelSpec, input_hw: tuple[int, int]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            _write_at(path, content, spec, input_hw, Path(folder))
        except ModelError:
            return False
    return True


def _write_at(path: Path, content: bytes, spec: ModelSpec, input_hw: tuple[int, int], folder: Path) -> Path:
    size = dataclasses.replace(spec.input, height=input_hw[0], width=input_hw[1], size_step=None)
    resized = dataclasses.replace(spec, input=size)
    target = folder / f'{path.stem}_{input_hw[1]}x{input_hw[0]}{path.suffix}'
    if is_ir(path):
        write_described(read_facts(path), resized, target)
    else:
        target.write_bytes(_with_shapes(content, resized, 1))
        OnnxDetector.load(target).warm_up(1)
    return target
