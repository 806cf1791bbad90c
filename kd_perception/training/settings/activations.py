# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a training configuration may say about integer activations."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class ActivationSettings:
    """
    Integer activations on top of binary weights; see `activations`.

    :param bits: of an activation. 8 can be exported; fewer bits are for experiments in torch, since
        onnxruntime's integer convolutions know 8 bits only.
    :param start: share of all steps after which activations are rounded.
    :param learned: train the scales (LSQ) from their calibrated start; False keeps them.
    :param calibration_batches: batches that the scales are calibrated on when rounding starts.
    """

    bits: Literal[5, 6, 8] = 8
    start: float = 0.0
    learned: bool = True
    calibration_batches: int = 8

    def __post_init__(self):
        """Check ranges."""
        if not 0 <= self.start <= 1:
            raise ValueError(f'activations.start: expected 0 to 1, got {self.start}')
        if not 1 <= self.calibration_batches <= 1000:
            raise ValueError('activations.calibration_batches: expected 1 to 1000, '
                             f'got {self.calibration_batches}')
