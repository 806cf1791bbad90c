# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Link a part of a data set into a folder of its own, for commands that take whole folders.

    python -m kd_perception.training.held_out --data DATA --folder site --from 0.6 --out HELD
    python -m kd_perception.training.held_out --data DATA --folder kitti_object --split val --out VAL

Training holds images out by the hash of their names (`datasets.hash_fraction`): those from `train_below` on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from kd_perception.errors import KdPerceptionError, TrainingError
from kd_perception.training.data.datasets import hash_fraction, LabelledImage, load_dataset
from kd_perception.training.settings.run import DatasetSettings


def part_of(data: Path, folder: str, split: str = 'all', low: float = 0.0, high: float = 1.0
            ) -> list[LabelledImage]:
    """
    List the images of a set whose names hash to `low` or more and below `high`.

    :raises TrainingError: the set cannot be read, or nothing is left.
    """
    images, _ = load_dataset(data, DatasetSettings(folder, (1, 8192), split=split))
    chosen = [image for image in images if low <= hash_fraction(image.name) < high]
    if not chosen:
        raise TrainingError(f'{data / folder}: no image of split {split!r} has a name that hashes to {low:g} '
                            f'or more and below {high:g}')
    return chosen


def link(images: list[LabelledImage], data: Path, out: Path) -> None:
    """
    Fill `out`/images and `out`/label_2 with links.

    :raises TrainingError: `out` exists and is not empty, or cannot be written.
    """
    if out.exists() and any(out.iterdir()):
        raise TrainingError(f'{out}: exists and is not empty')
    try:
        for name in ('images', 'label_2'):
            (out / name).mkdir(parents=True, exist_ok=True)
        for image in images:
            label = data / image.dataset.folder / 'label_2' / f'{image.name}.txt'
            (out / 'images' / image.path.name).symlink_to(image.path.resolve())
            (out / 'label_2' / label.name).symlink_to(label.resolve())
    except OSError as error:
        raise TrainingError(f'{out}: cannot be written ({error.strerror or error})') from error


def main() -> int:
    """Run as a program; exit code 2 for wrong input."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0].strip())
    parser.add_argument('--data', type=Path, required=True, help='folder that holds the data sets')
    parser.add_argument('--folder', required=True, help='the data set: a folder with images/ and label_2/')
    parser.add_argument('--split', default='all', help='a key of splits.json under that folder, or all')
    parser.add_argument('--from', dest='low', type=float, default=0.0, metavar='F',
                        help='only names that hash to F or more')
    parser.add_argument('--below', dest='high', type=float, default=1.0, metavar='F',
                        help='only names that hash below F')
    parser.add_argument('--out', type=Path, required=True, help='new folder')
    args = parser.parse_args()
    try:
        images = part_of(args.data, args.folder, args.split, args.low, args.high)
        link(images, args.data, args.out)
    except KdPerceptionError as error:
        print(f'held_out: error: {error}', file=sys.stderr)
        return 2
    print(f'{args.out}: {len(images)} images')
    return 0


if __name__ == '__main__':
    sys.exit(main())
