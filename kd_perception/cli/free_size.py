# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model free-size`: let a fully convolutional model have other input sizes than the file's own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from kd_perception.detection.input_size import allowed_sizes, parse_size
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import ModelError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.files import write_whole
from kd_perception.models.free_sizes import leave_sizes_free
from kd_perception.models.manifest import pinned_sha256, resolve_model, write_entry
from kd_perception.models.model_bytes import read_model
from kd_perception.models.spec import ModelSpec, SPEC_KEY
from kd_perception.resources import models_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action's arguments."""
    parser.add_argument('model', help='path of an ONNX file, or a name of the shipped manifest')
    parser.add_argument('--step', required=True, type=int, metavar='PX',
                        help="sizes will be multiples of this: the network's coarsest stride")
    parser.add_argument('--size', metavar='WIDTHxHEIGHT',
                        help='also make this the size of the file, whose number of pixels others keep to; '
                             'default: as it is')
    parser.add_argument('--out', required=True, type=Path, help='ONNX file to write')
    parser.add_argument('--manifest', metavar='NAME',
                        help='also write the entry NAME of the manifest beside OUT')


def run(args: argparse.Namespace) -> int:
    """Write the file, after it computed the same at its own size and ran at others."""
    size_hw = None if args.size is None else _named_size(args.size)
    path = resolve_model(args.model, models_folder())
    content, _ = read_model(path, pinned_sha256(path))
    before = OnnxDetector.from_bytes(content, path, ExecutionOptions(input_size='model'))
    freed = free_sizes(content, before.spec, args.step, path)
    _compare(before, OnnxDetector.from_bytes(freed, args.out), args.step)
    if size_hw is not None:
        freed = free_sizes(content, before.spec, args.step, path, size_hw)
    after = OnnxDetector.from_bytes(freed, args.out)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.out, freed)
        if args.manifest:
            write_entry(args.out.parent, args.manifest, args.out.name, after.spec)
    except OSError as error:
        raise ModelError(f'{args.out}: cannot be written ({error.strerror or error})') from error
    print(f'wrote {args.out}, sha256 {after.sha256}: {allowed_sizes(after.spec.input)}')
    return EXIT_OK


def _named_size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ModelError(f'--size: {error}') from None


def free_sizes(content: bytes, spec: ModelSpec, step: int, path: Path,
               size_hw: tuple[int, int] | None = None) -> bytes:
    """
    Return a model file whose height and width are free, and whose metadata say so; weights stay as they are.

    :param spec: what the file says of itself. :param size_hw: the size of the file; None: as it was.
    :raises ModelError: the input is no image of fixed size, or a size is not of multiples of `step`.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError('changing a graph needs the Python package onnx (not installed)') from error
    model = onnx.load_model_from_string(content)
    if spec.input.size_step is not None or step < 1 or any(
            side % step for side in (*spec.input.hw, *(size_hw or ()))):
        wanted = '' if size_hw is None else f', {size_hw[1]}x{size_hw[0]}'
        raise ModelError(f'{path}: expected a file of one size, of multiples of --step, not '
                         f'{spec.input.width}x{spec.input.height}{wanted} and {step}')
    leave_sizes_free(model, spec.input.layout)
    for entry in model.metadata_props:
        if entry.key == SPEC_KEY:
            document = json.loads(entry.value)
            height, width = size_hw or spec.input.hw
            document['input'].update(size_step=step, height=height, width=width)
            entry.value = json.dumps(document, sort_keys=True, separators=(',', ':'))
    return model.SerializeToString()


def _compare(before: OnnxDetector, after: OnnxDetector, step: int) -> None:
    """Raise ModelError unless the new file computes the same at its own size, and runs at others."""
    height, width = before.spec.input.hw
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for old, new in zip(before.outputs(image), after.outputs(image)):
        if not np.array_equal(old, new):
            raise ModelError(f'{after.path}: would compute something else at {width}x{height}')
    for shape in ((max(step, height // 2), width), (width, height)):
        try:
            after.outputs(np.zeros((*shape, 3), np.uint8))
        except ModelError as error:
            raise ModelError(f'{before.path}: its graph is made for one size: {error}') from error
