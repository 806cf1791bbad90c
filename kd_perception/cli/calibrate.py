# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model calibrate`: what a model's scores mean, fitted on labelled images, goes into a copy of its file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
from pathlib import Path

import numpy as np

from kd_perception.boxes.score_calibration import calibrated_scores, Curve, onto_scale
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK

EXAMPLES = """\
  kd_perception model calibrate teacher.onnx --like student --input site --out like_student.onnx
                                                   scores of a teacher on the student's scale: the hybrid
                                                   mixes both in one list"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `model calibrate`."""
    parser.add_argument('model', help='path of an attached model, or a name of the shipped manifest')
    parser.add_argument('--input', required=True, nargs='+', type=Path, metavar='FOLDER',
                        help='labelled sets that the model was not trained on: images/ and label_2/')
    parser.add_argument('--like', metavar='MODEL',
                        help="put the scores on this model's scale; default: the probability of being right")
    parser.add_argument('--out', required=True, type=Path, help='file to write; must not exist')


def run(args: argparse.Namespace) -> int:
    """Fit and write; 0 when done."""
    from kd_perception.attach.graph_facts import read_facts
    from kd_perception.attach.write import write_described
    from kd_perception.evaluation.score_fit import fitted_curves
    from kd_perception.labels.image_sets import list_labelled_images
    detector = _plain(OnnxDetector.named(args.model))
    other = None if args.like is None else OnnxDetector.named(args.like)
    frames = [frame for folder in args.input for frame in list_labelled_images(folder)]
    curves = fitted_curves(detector, frames)
    if other is not None:
        curves = onto_scale(curves, fitted_curves(other, frames))
    if not curves:
        raise ConfigError(f'{", ".join(map(str, args.input))}: too few objects that '
                          f'{"both models find" if other else "the model finds"} to fit a class to')
    spec = dataclasses.replace(detector.spec, calibration=curves)
    written = write_described(read_facts(detector.path), spec, args.out)
    _print_table(curves, detector.spec.labels)
    print(f'wrote {args.out}, sha256 {written.sha256}, from {len(frames)} images')
    return EXIT_OK


def _plain(detector: OnnxDetector) -> OnnxDetector:
    """Return the model without a calibration of its own: it is fitted anew."""
    detector.spec = dataclasses.replace(detector.spec, calibration={})
    return detector


def _print_table(curves: Mapping[str, Curve], labels: Sequence[str]) -> None:
    scores = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    print(f'{"score":<16}' + ''.join(f'{score:>8.2f}' for score in scores))
    for number, label in enumerate(labels):
        new = calibrated_scores(scores, np.full(len(scores), number), curves, labels)
        text = '' if label in curves else '   too few objects: as it was'
        print(f'{label:<16}' + ''.join(f'{score:>8.2f}' for score in new) + text)
