# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Labelled sets as folders: `images/` beside `label_2/`."""

from __future__ import annotations

from pathlib import Path

from kd_perception.errors import ConfigError
from kd_perception.labels.label_folder import list_frames


def list_labelled_images(folder: Path) -> list[tuple[Path, Path]]:
    """
    Return image and label file of each labelled frame of a set.

    :raises ConfigError: it is no such set, or no label file has an image.
    """
    if not (folder / 'images').is_dir() or not (folder / 'label_2').is_dir():
        raise ConfigError(f'{folder}: expected a set with images/ and label_2/')
    images = {path.stem: path for path in sorted((folder / 'images').iterdir())
              if path.suffix.lower() in ('.png', '.jpg', '.jpeg')}
    labels = list_frames(folder / 'label_2')
    both = [(images[name], Path(path)) for name, path in labels.items() if name in images]
    if not both:
        raise ConfigError(f'{folder}: no label file has an image')
    return both
