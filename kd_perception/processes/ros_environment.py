# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a command that talks to ROS does before it imports rclpy."""

from __future__ import annotations

import importlib
import os
import sys

from kd_perception.errors import RosInterfaceError


def require_ros(*message_packages: str) -> None:
    """
    Make ROS usable in this process and its children.

    :raises RosInterfaceError: ROS 2 or one of the message packages is not installed.
    """
    # Python wheels of ROS do not set these; a sourced install does, and then it keeps its own.
    os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    os.environ.setdefault('ROS_DISTRO', 'jazzy')
    try:
        for package in ('rclpy', *(f'{name}.msg' for name in message_packages)):
            importlib.import_module(package)
    except ImportError as error:
        raise RosInterfaceError(
            f'ROS 2 is not usable in this Python ({error}); source a ROS 2 install, or use `make demo`, that '
            'sets up one of its own') from None
