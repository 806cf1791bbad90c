# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model`: show or verify a model file; promote, roll back and swap models."""

from __future__ import annotations

import argparse
from collections import Counter
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np

from kd_perception.cli import attach, attach_reference, free_size, model_store
from kd_perception.config import to_mapping
from kd_perception.detection.decode import output_shapes
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.detection.output_checks import check_detector
from kd_perception.drift.reference import DriftReference
from kd_perception.errors import ModelError
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.models.manifest import pinned_sha256, resolve_model
from kd_perception.resources import models_folder

HELP = ('Show what a model file says about itself, verify that it is sound, or describe your own; promote '
        'models in a store, roll back, and have running nodes follow.')
EXAMPLES = """\
  kd_perception model info teacher                 a shipped model, by its name
  kd_perception model info my_model.onnx --json
  kd_perception model verify my_model.onnx --sha256 0f3a...
                                                   exit code 0 sound, 1 not
  kd_perception model attach-reference --help      write the drift monitors' reference into a copy
""" + attach.EXAMPLES + model_store.EXAMPLES

_WEIGHTED_OPS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul', 'ConvInteger', 'QLinearConv')
# Operators that turn stored bits and integers into the weights of the former.
_UNPACKING_OPS = ('Cast', 'Concat', 'DequantizeLinear', 'Div', 'Gather', 'Identity', 'Mul', 'Pad',
                  'Reshape', 'Round', 'Slice', 'Transpose')
_FLOAT_BITS = 32
_ACTIVATION_SCALES = 'scales of activations'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    info = actions.add_parser('info', help='facts, thresholds, metrics and a table of layers')
    info.add_argument('model', help='path of an ONNX file, or a name of the shipped manifest')
    info.add_argument('--json', action='store_true', help='print one JSON document instead of tables')
    verify = actions.add_parser(
        'verify', help='check digest, metadata, shapes, and that it runs; exit code 1 if not')
    verify.add_argument('model', help='path of an ONNX file, or a name of the shipped manifest')
    verify.add_argument('--sha256', help='expected digest; default: what the manifest beside the file pins')
    attach.add_arguments(actions.add_parser(
        'attach', help='describe a detector of another origin, and write the description into its file'))
    attach_reference.add_arguments(actions.add_parser(
        'attach-reference', help="write the drift monitors' reference statistics into a copy of a model"))
    free_size.add_arguments(actions.add_parser(
        'free-size', help='let a fully convolutional model have other input sizes'))
    model_store.add_arguments(actions)


def run(args: argparse.Namespace) -> int:
    """Run one of the actions."""
    if args.action in model_store.ACTIONS:
        return model_store.run(args)
    if args.action == 'attach-reference':
        return attach_reference.run(args)
    if args.action == 'free-size':
        return free_size.run(args)
    if args.action == 'attach':
        return attach.run(args)
    path = resolve_model(args.model, models_folder())
    if args.action == 'info':
        return _info(path, args.json)
    return _verify(path, args.sha256)


def _info(path: Path, as_json: bool) -> int:
    detector = OnnxDetector.load(path)
    layers = _layers(path, detector.spec.documents.get('precision'))
    if as_json:
        spec = to_mapping(detector.spec)
        document = {'file': str(path), 'sha256': detector.sha256, 'pinned_sha256': pinned_sha256(path),
                    'size_bytes': path.stat().st_size, 'spec': spec, 'layers': layers}
        print(json.dumps(document, indent=2))
        return EXIT_OK
    spec = detector.spec
    pin = pinned_sha256(path)
    pinned = 'as pinned' if pin == detector.sha256 else f'PINNED AS {pin}' if pin else 'not in a manifest'
    rows = [
        ('file', f'{path} ({path.stat().st_size / 1e6:.2f} MB)'),
        ('sha256', f'{detector.sha256} ({pinned})'),
        ('name', f'{spec.name}, version {spec.version}'),
        ('labels', ', '.join(spec.labels)),
        ('input', f'{spec.input.width}x{spec.input.height} px, {spec.input.color} {spec.input.dtype} '
                  f'{spec.input.layout}'),
        ('decoder', f'{spec.decoder.type}, strides {", ".join(map(str, spec.decoder.strides)) or "none"}'),
        ('thresholds', ', '.join(f'{k} {v}' for k, v in to_mapping(spec.thresholds).items())),
        ('licence', spec.licence or 'not stated'),
    ]
    for name, text in rows:
        print(f'{name:<11}{text}')
    for name in ('metrics', 'provenance'):
        if spec.documents.get(name):
            print(f'\n{name}:\n' + json.dumps(spec.documents[name], indent=2))
    _print_layers(layers)
    return EXIT_OK


def _print_layers(layers: list[dict] | None) -> None:
    if layers is None:
        print('\nlayers: install the Python package onnx to see them')
        return
    total = sum(layer['bytes'] for layer in layers) or 1
    print(f'\n{"layer":<40}{"operator":<13}{"shape":<20}{"bits":>6}{"act.":>6}{"bytes":>13}{"share":>8}')
    for layer in layers:
        shape = 'x'.join(map(str, layer['shape']))
        print(f'{layer["name"][-39:]:<40}{layer["operator"]:<13}{shape:<20}{layer["bits"]:>6}'
              f'{layer.get("activation_bits", ""):>6}{layer["bytes"]:>13,}{layer["bytes"] / total:>8.1%}')
    print(f'{len(layers)} layers and constants, {total:,} bytes')
    for bits in sorted({layer['bits'] for layer in layers}):
        count = sum(int(np.prod(layer['shape'])) for layer in layers if layer['bits'] == bits)
        print(f'  {bits:>2} bits: {count:,} values')


def _layers(path: Path, precision: Any) -> list[dict] | None:
    """
    List what the file stores: a row for each layer of the precision document, and each other constant.

    A layer's `bytes` count all that it stores (codes, scales, bias, shapes); `shape` and `bits` are its
    weights'. Rows come in the order in which the graph needs them.
    """
    try:
        import onnx
    except ImportError:
        return None
    from kd_perception.models.functions import spelt_out
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
        if integers and not array.ndim and array.dtype == np.float32:
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


def _verify(path: Path, expected_sha256: str | None) -> int:
    checks = []
    try:
        expected = expected_sha256 or pinned_sha256(path)
        detector = OnnxDetector.load(path, expected_sha256=expected)
        checks.append('sha256 matches' if expected else 'sha256 not pinned anywhere: not checked')
        checks.append('loads in onnxruntime; metadata and graph agree')
        if DriftReference.of_model(detector.spec, str(path)) is not None:
            checks.append('drift reference is well formed')
        detector.warm_up(1)
        checks.append(f'runs at {detector.spec.input.width}x{detector.spec.input.height}; '
                      f'outputs as declared: {", ".join(output_shapes(detector.spec))}')
        check_detector(detector)
        checks.append('outputs are finite; scores and boxes lie where the description has them')
        _check_repeatable(detector)
        checks.append('gives repeatable detections')
    except ModelError as error:
        for check in checks:
            print(f'ok    {check}')
        print(f'FAIL  {error}', file=sys.stderr)
        return EXIT_CHECK_FAILED
    for check in checks:
        print(f'ok    {check}')
    return EXIT_OK


def _check_repeatable(detector: OnnxDetector) -> None:
    """Run twice on noise (seeded); a model that answers differently cannot be validated."""
    noise = np.random.default_rng(0).integers(0, 256, (*detector.spec.input.hw, 3), dtype=np.uint8)
    first, second = (detector.detect(noise, score_threshold=1e-3).detections for _ in range(2))
    if Counter(first.class_ids.tolist()) != Counter(second.class_ids.tolist()) or not np.allclose(
            first.scores, second.scores, atol=1e-5):
        raise ModelError(f'{detector.path}: two runs on the same image differ')
