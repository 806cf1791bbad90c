# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model check`: what a model finds in images, as a picture; with labels, the common mistakes beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.exit_codes import EXIT_OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `model check`."""
    parser.add_argument('model', help='path of an attached model, or a name of the shipped manifest')
    parser.add_argument('--images', type=Path, required=True, metavar='PATH',
                        help='image, or folder of images, of which the first nine are drawn')
    parser.add_argument('--labels', type=Path, metavar='PATH',
                        help='KITTI label file, or folder: compare AP with the common mistakes')
    parser.add_argument('--out', type=Path, metavar='FILE.jpg',
                        help="picture to write; default: the model's name with .check.jpg, in this folder")


def run(args: argparse.Namespace) -> int:
    """Draw and compare; 0 when done."""
    from kd_perception.benchmark.model_check import check_on_images, read_images
    from kd_perception.detection.onnx_detector import OnnxDetector
    images = read_images(args.images, '--images')
    detector = OnnxDetector.named(args.model)
    check_on_images(detector, images, args.labels, args.out or Path(f'{detector.path.stem}.check.jpg'))
    return EXIT_OK
