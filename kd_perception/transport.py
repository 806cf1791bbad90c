# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How images get from process to process: the one place that says what Fast DDS must be told. Free of ROS."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path

from kd_perception.resources import share_folder

# Up to Jazzy, and since Kilted.
PROFILES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
BUILTIN = 'FASTDDS_BUILTIN_TRANSPORTS'


def profiles_file() -> Path:
    """Return the shipped profiles: shared memory with room for images, and UDP."""
    return share_folder() / 'config' / 'fastdds.xml'


def image_transport_environment(profiles: str | Path,
                                environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """
    Return the variables that let a process send images of a megabyte and more whole.

    Other middlewares do not look at them.

    :param profiles: file for Fast DDS; empty: its own settings.
    :return: empty, too, where `environment` holds settings of the user's.
    """
    if not str(profiles) or any(environment.get(name) for name in (*PROFILES, BUILTIN)):
        return {}
    return {name: str(profiles) for name in PROFILES}


def transports_in_use(environment: Mapping[str, str] = os.environ) -> str:
    """Return in words what the variables make Fast DDS use, for reports."""
    profiles = next((environment[name] for name in PROFILES if environment.get(name)), '')
    return f'profiles of {Path(profiles).name}' if profiles else environment.get(BUILTIN) or 'default'
