# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Compare model files on the development set of a configuration, or on held-out parts of sets.

    python -m kd_perception.training.compare --config config/training/teacher.yaml --data DATA \\
        --model teacher@model --model teacher
    python -m kd_perception.training.compare --config config/training/teacher.yaml --data DATA \\
        --part kitti_object:val --part dawn_fog@0.5 --model teacher --model candidate.onnx

AP at IoU 0.5 over objects of 25 px and more; differences to the first model, with 95 % intervals from the
same resampled images for both, each set resampled by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

import numpy as np

from kd_perception.config import load_config
from kd_perception.detection.input_size import parse_input_size
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import KdPerceptionError, TrainingError
from kd_perception.evaluation.metrics.bootstrap import percentile_interval
from kd_perception.evaluation.metrics.class_matches import ClassMatches
from kd_perception.evaluation.metrics.detector_matches import match_all
from kd_perception.training.data.datasets import LabelledImage, load_dataset
from kd_perception.training.held_out import part_of
from kd_perception.training.settings.run import TrainingSettings

_RESAMPLES = 1000
Sets = dict[str, list[LabelledImage]]


def development_sets(settings: TrainingSettings, data: Path) -> Sets:
    """Return folder -> the images that the configuration holds out to choose on."""
    held = {dataset.folder: load_dataset(data, dataset)[1] for dataset in settings.datasets}
    return {folder: images for folder, images in held.items() if images}


def named_part(data: Path, text: str) -> list[LabelledImage]:
    """
    Read FOLDER[:SPLIT][@F]: a set's split, of that the images whose name hashes to F or more.

    :raises TrainingError: F is no number in 0..1, or there is no such image.
    """
    name, _, low = text.partition('@')
    folder, _, split = name.partition(':')
    try:
        fraction = float(low or 0)
    except ValueError:
        fraction = -1.0
    if not folder or not 0 <= fraction < 1:
        raise TrainingError(f'--part {text}: expected FOLDER[:SPLIT][@F], with F in 0 to 1')
    return part_of(data, folder, split or 'all', fraction)


def load_model(text: str, labels: Sequence[str], threads: int = 1) -> OnnxDetector:
    """
    Load NAME_OR_PATH[@SIZE], where SIZE is camera (the default), model or WIDTHxHEIGHT.

    :raises TrainingError: the size is none of them, or the model knows other classes.
    """
    path, _, size = text.partition('@')
    try:
        options = ExecutionOptions(threads=threads, input_size=parse_input_size(size or 'camera'))
    except ValueError as error:
        raise TrainingError(f'--model {text}: {error}') from error
    detector = OnnxDetector.named(path, options)
    if detector.spec.labels != tuple(labels):
        raise TrainingError(f'--model {text}: knows {list(detector.spec.labels)}, the configuration '
                            f'{list(labels)}')
    return detector


def paired_interval(first: ClassMatches, second: ClassMatches, groups: Sequence[np.ndarray],
                    seed: int = 0) -> tuple[float, float] | None:
    """
    95 % interval of `second`'s AP less `first`'s.

    :param groups: indices of the images of each set; each is resampled by itself.
    :return: None where too few resamples hold an object.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_RESAMPLES):
        chosen = np.concatenate([rng.choice(group, len(group)) for group in groups])
        found.append(second.average_precision(chosen) - first.average_precision(chosen))
    return percentile_interval(np.array(found))


def measured(detector: OnnxDetector, sets: Sets) -> dict[str, ClassMatches]:
    """Match every class on all images, set after set, down to the model's low threshold."""
    images = [image for part in sets.values() for image in part]
    low = detector.spec.thresholds.score_low
    return match_all(lambda image: detector.detect(image, low).detections, images, detector.spec.labels)


def groups_of(sets: Sets) -> dict[str, np.ndarray]:
    """Return for each set the places of its images among all."""
    ends = np.cumsum([len(part) for part in sets.values()])
    return {name: np.arange(end - len(part), end) for (name, part), end in zip(sets.items(), ends)}


def lines_of(name: str, found: dict[str, ClassMatches], first: dict[str, ClassMatches] | None,
             groups: dict[str, np.ndarray]) -> list[str]:
    """Return the table's lines for one model: each set that holds a class, and all together."""
    lines = []
    for label, matches in found.items():
        parts = {part: [group] for part, group in groups.items() if matches.objects[group].sum()}
        for part, chosen in {**parts, 'all': list(groups.values())}.items():
            every = np.concatenate(chosen)
            line = (f'{name:24} {label:12} {part:20} {int(matches.objects[every].sum()):5} '
                    f'{matches.average_precision(every):.3f}')
            if first is not None:
                difference = matches.average_precision(every) - first[label].average_precision(every)
                interval = paired_interval(first[label], matches, chosen)
                line += f' {difference:+.3f}'
                line += '' if interval is None else f' [{interval[0]:.3f}, {interval[1]:.3f}]'
            lines.append(line)
    return lines


def main() -> int:
    """Run as a program; exit code 2 for wrong input."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0].strip())
    parser.add_argument('--config', type=Path, required=True,
                        help='training configuration: classes, and what it holds out')
    parser.add_argument('--data', type=Path, required=True, help='folder that holds the data sets')
    parser.add_argument('--part', action='append', metavar='FOLDER[:SPLIT][@F]',
                        help='measure on this instead of the development set; may be repeated')
    parser.add_argument('--model', action='append', required=True, metavar='MODEL[@SIZE]',
                        help='file or shipped name, with the size of its input: camera, model or '
                             'WIDTHxHEIGHT; the first is what the others are compared with')
    parser.add_argument('--threads', type=int, default=1, help='threads of the models')
    args = parser.parse_args()
    try:
        settings = load_config(TrainingSettings, args.config)
        detectors = [load_model(text, settings.labels, args.threads) for text in args.model]
        sets = ({part: named_part(args.data, part) for part in args.part} if args.part
                else development_sets(settings, args.data))
        if not sets:
            raise TrainingError(f'{args.config}: no set is held out for development: name sets with --part')
        groups, first = groups_of(sets), None
        print(f'{"model":24} {"class":12} {"set":20} {"count":>5} AP')
        for text, detector in zip(args.model, detectors):
            found = measured(detector, sets)
            print('\n'.join(lines_of(text, found, first, groups)), flush=True)
            first = first or found
    except KdPerceptionError as error:
        print(f'compare: error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
