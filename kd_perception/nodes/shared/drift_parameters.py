# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameters of the drift monitors, which detector_node and fallback_node share. Free of ROS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_perception.drift.monitor import DriftSettings
from kd_perception.nodes.shared.parameters import ParameterSpec

DRIFT_PARAMETERS = (
    ParameterSpec(
        'drift', 'bool', True,
        "Compare the frames with the reference statistics in the model's file; without any nothing is "
        'compared.', section='Drift'),
    ParameterSpec(
        'drift_window', 'int', 1800,
        'Frames that the windowed drift tests look back.', minimum=100, maximum=100000),
    ParameterSpec(
        'drift_false_alarms_per_hour', 'double', 0.1,
        'Greatest mean number of drift alarms of a camera while nothing has changed.',
        minimum=0.0001, maximum=100.0),
)


def drift_settings(values: Mapping[str, Any]) -> DriftSettings:
    """Return the typed form of checked values."""
    return DriftSettings(values['drift'], values['drift_window'], values['drift_false_alarms_per_hour'])
