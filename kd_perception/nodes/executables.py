# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The nodes as executables. Imports nothing that takes time: a signal must find its handler already there.

`python -m kd_perception.nodes.NODE` does the same, see the first and the last lines of the nodes' modules.
"""

from __future__ import annotations

import importlib

from kd_perception.nodes.shared import signals


def _run(node: str) -> int:
    signals.leave_at_once()
    code = importlib.import_module(f'kd_perception.nodes.{node}').main()
    signals.ignore()
    return code


def detector_node() -> int:
    """Run the detector; returns the exit code."""
    return _run('detector_node')


def fallback_node() -> int:
    """Run the fallback; returns the exit code."""
    return _run('fallback_node')


def metrics_node() -> int:
    """Run the exporter of metrics; returns the exit code."""
    return _run('metrics_node')


def replay_node() -> int:
    """Run the player; returns the exit code."""
    return _run('replay_node')
