# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model`: show or verify a model file; promote, roll back and swap models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

from kd_perception.cli import attach, attach_reference, calibrate, free_size, model_check, model_store
from kd_perception.config import to_mapping
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.detection.verify import verify
from kd_perception.drift.reference import DriftReference
from kd_perception.errors import ModelError
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.models.layers import layer_table
from kd_perception.models.layers import layers as stored_layers
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
""" + attach.EXAMPLES + calibrate.EXAMPLES + '\n' + model_store.EXAMPLES


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
    calibrate.add_arguments(actions.add_parser(
        'calibrate', help='fit what the scores mean, or put them on the scale of another model'))
    model_check.add_arguments(actions.add_parser(
        'check', help='draw what a model finds in images; with labels, try the common mistakes'))
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
    if args.action == 'check':
        return model_check.run(args)
    if args.action == 'calibrate':
        return calibrate.run(args)
    if args.action == 'attach':
        return attach.run(args)
    path = resolve_model(args.model, models_folder())
    if args.action == 'info':
        return _info(path, args.json)
    return _verify(path, args.sha256)


def _info(path: Path, as_json: bool) -> int:
    detector = OnnxDetector.load(path)
    layers = stored_layers(path, detector.spec.documents.get('precision'))
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
    if layers is None:
        print('\nlayers: install the Python package onnx to see them')
    else:
        print('', *layer_table(layers), sep='\n')
    return EXIT_OK


def _verify(path: Path, expected_sha256: str | None) -> int:
    try:
        for check in verify(path, expected_sha256, {'drift reference': DriftReference.of_model}):
            print(f'ok    {check}')
    except ModelError as error:
        print(f'FAIL  {error}', file=sys.stderr)
        return EXIT_CHECK_FAILED
    return EXIT_OK
