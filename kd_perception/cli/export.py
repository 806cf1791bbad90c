# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`export`: turn a checkpoint into one ONNX file that states its own facts."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.cli.shared import add_training_arguments, run_folder
from kd_perception.errors import TrainingError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.output_folder import check_file_place

HELP = 'Export a trained detector to ONNX, measure it, and pin it in the manifest beside it.'
EXAMPLES = """\
  kd_perception export --config config/training/teacher.yaml --checkpoint runs/teacher/last.pt \\
                       --data DATA --init picodet_s_416_coco.onnx --out models/teacher.onnx
  kd_perception export --config C.yaml --checkpoint runs/C/last.pt --out model.onnx --no-measure
  kd_perception export --config config/training/student_int8.yaml --checkpoint runs/student_third/last.pt \
                       --calibrate 64 --data DATA --out student_int8.onnx
                                    8-bit activations for a network that was trained without
  kd_perception export --config config/training/darknet19_yolov2.yaml --untrained --float-twin \\
                       --out darknet19_yolov2.onnx     the published size check: 8.2 MiB against 256 MiB"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_training_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--checkpoint', type=Path, help='a checkpoint of `train`')
    source.add_argument('--untrained', action='store_true', help='export the initial weights')
    parser.add_argument('--out', required=True, type=Path, help='ONNX file to write')
    parser.add_argument('--no-measure', action='store_true',
                        help='measure nothing and need no data; the configuration gives the threshold')
    parser.add_argument('--float-twin', action='store_true',
                        help='also write OUT.float.onnx: the same network with all weights in float32')
    parser.add_argument('--float-activations', action='store_true',
                        help='compute in float, whatever activations the network was trained for')
    parser.add_argument('--calibrate', type=int, metavar='IMAGES',
                        help='the checkpoint knows no integer activations, which the configuration wants: '
                             'calibrate them on so many training images')
    parser.add_argument('--manifest', metavar='NAME',
                        help='pin the file under this name in manifest.yaml of its folder')


def run(args: argparse.Namespace) -> int:
    """Export."""
    from kd_perception.config import load_config
    from kd_perception.models.manifest import write_entry
    from kd_perception.training.assemble import assemble
    from kd_perception.training.export.model_file import write_model
    from kd_perception.training.measure import format_table
    from kd_perception.training.settings.run import TrainingSettings
    if args.out.suffix != '.onnx':
        raise TrainingError(f'{args.out}: expected a file name that ends in .onnx')
    check_file_place(args.out)
    settings = load_config(TrainingSettings, args.config)
    if args.calibrate is not None and (settings.activations is None or args.calibrate < 1 or args.untrained):
        raise TrainingError('--calibrate takes a number of images, a checkpoint, and a configuration with '
                            'activations')
    measured = not args.no_measure and not args.untrained
    network, spec = assemble(settings, args.checkpoint, args.init, args.data, run_folder(args), measured,
                             args.config.name, args.calibrate or 0, args.float_activations)
    half = settings.export.scale_bits == 16
    detector = write_model(network, spec, args.out, half=half,
                           integers=False if args.float_activations else None,
                           half_floats=settings.export.float_bits == 16)
    for line in format_table(spec.documents.get('metrics', {'sets': []})):
        print(line)
    if args.manifest:
        write_entry(args.out.parent, args.manifest, args.out.name, detector.spec)
    print(f'{args.out}: {args.out.stat().st_size} bytes, sha256 {detector.sha256}, '
          f'working threshold {spec.thresholds.score:g}')
    if args.float_twin:
        twin = args.out.with_suffix('.float.onnx')
        write_model(network, spec, twin, packed=False, half=half)
        times = twin.stat().st_size / args.out.stat().st_size
        print(f'{twin}: {twin.stat().st_size} bytes, {times:.1f} times as large')
    return EXIT_OK
