# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Where the package's own launch, config and model files lie, installed or in a source tree."""

from __future__ import annotations

import os
from pathlib import Path
import sys

from kd_perception.errors import ConfigError

PACKAGE = 'kd_perception'


def share_folder() -> Path:
    """
    Return the folder that holds `models/`, `config/` and `launch/`.

    The source tree that this module lies in comes first, then each prefix of AMENT_PREFIX_PATH,
    then the Python prefix: whoever runs the source tree means its files.

    :raises ConfigError: there is none; the message names the places that were searched.
    """
    candidates = [Path(__file__).resolve().parents[1]]
    prefixes = [p for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    candidates += [Path(prefix) / 'share' / PACKAGE for prefix in [*prefixes, sys.prefix]]
    for folder in candidates:
        if (folder / 'models').is_dir() and (folder / 'config').is_dir():
            return folder
    raise ConfigError(
        f'the files of {PACKAGE} (models, config, launch) were not found; searched '
        f'{", ".join(str(folder) for folder in candidates)}')


def models_folder() -> Path:
    """Return the folder of the shipped models and their manifest."""
    return share_folder() / 'models'


def config_folder() -> Path:
    """Return the folder of the shipped parameter files, class maps and presets."""
    return share_folder() / 'config'
