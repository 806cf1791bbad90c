# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark models`: models against one another on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.benchmark.models import benchmark_models, Comparison, IMAGE_HW, parse_size, RUNTIMES
from kd_perception.exit_codes import EXIT_OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benchmark models`."""
    parser.add_argument('--model', action='append', metavar='MODEL',
                        help='path of an ONNX file, or a name of the manifest; repeat; the first is what the '
                             'others are compared with (default: teacher, student)')
    parser.add_argument('--variants', action='store_true',
                        help='also the last model with float activations, and its float twin, made of its '
                             'file (needs PyTorch)')
    parser.add_argument('--size', action='append', metavar='WxH', default=[],
                        help='also the last model and its variants at this input size; repeat')
    parser.add_argument('--runtime', nargs='+', choices=RUNTIMES, default=['onnxruntime'],
                        help='onnxruntime, or openvino (pip install openvino), or both')
    parser.add_argument('--nanodet', type=Path, metavar='PARAM',
                        help="also NanoDet-Plus, run by ncnn (pip install ncnn) at the last model's input "
                             'size; its .bin file lies beside')
    parser.add_argument('--nanodet-size', action='append', metavar='WxH', default=[],
                        help="input size of NanoDet-Plus, instead of the last model's; repeat")
    parser.add_argument('--input', type=Path,
                        help='folder of images, video or recording; default: noise of '
                             f'{IMAGE_HW[1]}x{IMAGE_HW[0]} px')
    parser.add_argument('--batch', type=int, nargs='+', default=[], metavar='N',
                        help='also the last model on N images at once: does it pay to batch cameras?')
    parser.add_argument('--labels', type=Path, metavar='DIR',
                        help='KITTI labels of the images of --input: measure accuracy too')
    parser.add_argument('--threads', type=int, nargs='+', default=[1], help='threads of a model (default 1)')
    parser.add_argument('--rounds', type=int, default=100, help='images, each for all models (default 100)')
    parser.add_argument('--out', type=Path,
                        help='folder for models_benchmark.json, .md and .png')


def run(args: argparse.Namespace) -> int:
    """Measure, print and store."""
    benchmark_models(Comparison(
        args.model or (), args.variants, [parse_size(text) for text in args.size], args.runtime, args.nanodet,
        [parse_size(text) for text in args.nanodet_size], args.input, args.labels, args.threads, args.batch,
        args.rounds), args.out)
    return EXIT_OK
