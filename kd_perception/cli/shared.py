# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands share, and what becomes of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any

from kd_perception.errors import ConfigError

DATA_VARIABLE = 'KD_PERCEPTION_DATA'
INIT_VARIABLE = 'KD_PERCEPTION_PICODET_ONNX'


def add_run_arguments(parser: Any) -> None:
    """Declare how models run."""
    add_threads_argument(parser)
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def add_threads_argument(parser: Any) -> None:
    """Declare --threads."""
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='threads of each model; default 0: one for each core that the process may use')


def add_trained_argument(parser: Any) -> None:
    """Declare which images the model knows."""
    parser.add_argument('--trained-on', nargs='+', default=[], metavar='SET',
                        help='sets that the model was trained on: its answers are better there than '
                             'anywhere, and only the images themselves are taken into the reference')


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `train` and `export` share: configuration, data, initial weights, run folder."""
    parser.add_argument('--config', required=True, type=Path, help='a file like config/training/teacher.yaml')
    add_data_arguments(parser)
    parser.add_argument('--run', type=Path,
                        help='folder for checkpoints and logs (default: runs/<config name>)')


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where data and published weights are."""
    parser.add_argument('--data', type=Path, default=_from_environment(DATA_VARIABLE),
                        help=f'folder that holds the data sets (default: ${DATA_VARIABLE})')
    parser.add_argument('--init', type=Path, default=_from_environment(INIT_VARIABLE),
                        help=f'published initial weights (default: ${INIT_VARIABLE})')


def run_folder(args: argparse.Namespace) -> Path:
    """Return the folder of a training run."""
    return args.run or Path('runs') / args.config.stem


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def execution_options(args: argparse.Namespace) -> Any:
    """
    Return `ExecutionOptions` of --threads, and of --provider and --input-size where a command has them.

    :raises ConfigError: one is out of range.
    """
    from kd_perception.detection.input_size import parse_input_size
    from kd_perception.detection.onnx_session import ExecutionOptions
    given = {name: getattr(args, name) for name in ('threads', 'provider') if hasattr(args, name)}
    try:
        if hasattr(args, 'input_size'):
            given['input_size'] = parse_input_size(args.input_size)
        return ExecutionOptions(**given)
    except ValueError as error:
        raise ConfigError(f'{", ".join(f"--{name}" for name in given).replace("_", "-")}: {error}') from None


def load_detectors(args: argparse.Namespace, *names: str | None) -> list[Any]:
    """
    Load models (`OnnxDetector`) by path or name of the manifest; None stays None.

    :raises ModelError: as `OnnxDetector.named`. :raises ConfigError: threads out of range.
    """
    from kd_perception.detection.onnx_detector import OnnxDetector
    options = execution_options(args)
    return [None if name is None else OnnxDetector.named(name, options) for name in names]


def class_protocols(texts: Sequence[str] | None) -> tuple[Any, ...]:
    """Read ``NAME=IOU[:IGNORED,...]`` each, KITTI's classes where there is none; ConfigError otherwise."""
    from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, KITTI_CLASSES
    found = []
    for text in texts or ():
        name, equals, rest = text.partition('=')
        iou, _, ignored = rest.partition(':')
        try:
            if not equals:
                raise ValueError
            found.append(ClassProtocol(name.strip(), float(iou), tuple(filter(None, ignored.split(',')))))
        except ValueError:
            raise ConfigError(f'--class {text!r}: NAME=IOU[:IGNORED,...] expected, such as '
                              'Car=0.7:Van') from None
    return tuple(found) or KITTI_CLASSES


def image_sets(paths: Sequence[str], drives: Sequence[str], trained: Sequence[str] = ()) -> list[Any]:
    """
    Return the sets of images (`evaluation.drift.frames.Images`).

    :raises ConfigError: `drives` or `trained` names a set that there is not.
    """
    from kd_perception.evaluation.drift.frames import Images
    names = set_names(paths)
    check_sets('--drive', drives, names)
    check_sets('--trained-on', trained, names)
    return [Images(path, name in drives, name in trained, name) for path, name in zip(paths, names)]


def set_names(folders: Sequence[str]) -> list[str]:
    """Return a name for each set: its folder's, or the parent's of a folder `images`; numbered if equal."""
    found: list[str] = []
    for folder in folders:
        path = Path(folder).absolute()
        name = path.parent.name if path.name in ('images', 'image_2') else path.stem
        same = sum(item == name or item.startswith(f'{name}-') for item in found)
        found.append(f'{name}-{same + 1}' if same else name)
    return found


def check_sets(option: str, chosen: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigError where an option names a set that there is not."""
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        raise ConfigError(f'{option} {unknown[0]}: no such set; expected some of {", ".join(names)}')
