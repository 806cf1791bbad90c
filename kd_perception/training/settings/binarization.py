# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a training configuration may say about binary weights."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """
    When each part of the network becomes binary, as a share of all training steps.

    By default a fifth of the steps is float, then the deep part and the head, the middle and the early
    part follow. Equal shares binarise everything at once; 0 starts binary.
    """

    deep: float = 0.2
    middle: float = 0.3
    early: float = 0.4

    def __post_init__(self):
        """Check ranges."""
        for name in ('deep', 'middle', 'early'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'stages.{name}: expected 0 to 1, got {getattr(self, name)}')


@dataclasses.dataclass(frozen=True)
class FreezeSettings:
    """
    Freezing of oscillating weights; see `BinaryConv2d.freeze_oscillating`.

    :param first, last: threshold on the oscillation rate at the start and the end of training, along a
        cosine (the paper's range for low-bit networks is about 0.04 to 0.01).
    :param momentum: of the rate's average.
    """

    first: float = 0.04
    last: float = 0.01
    momentum: float = 0.01

    def __post_init__(self):
        """Check ranges."""
        if not 0 < self.last <= self.first < 1 or not 0 < self.momentum < 1:
            raise ValueError('freeze: expected 0 < last <= first < 1 and 0 < momentum < 1')


@dataclasses.dataclass(frozen=True)
class BinarizationSettings:
    """
    Which layers become binary, when, and how they learn. Each refinement can be turned off.

    :param centre: subtract the mean over the input channels from the latent weights after each step.
    :param clamp: clamp the latent weights to [-1, 1] after each step.
    :param standardise: sign the standardised filter (IR-Net); needed by the annealed estimator, whose
        range is made for weights of unit deviation.
    :param scale: `mean` (alpha = mean |W|) or `learned`.
    :param estimator: gradient of the sign, see `binary_layers`.
    :param temperature: t of the annealed estimator at the start and the end.
    :param stages: the schedule.
    :param freeze: freezing of oscillating weights; None for off.
    :param batch_norm_batches: batches that batch-norm statistics are re-estimated on at the end (Nagel
        et al., 2022); 0 for off.
    :param depthwise: binarise depthwise layers too (little is gained in size, much is lost).
    :param keep: names of further convolutions to leave unbinarised, besides the network's first and
        last.
    :param kept_bits: bits of the weights of convolutions that are not binarised: 32 leaves them float32.
    """

    centre: bool = True
    clamp: bool = True
    standardise: bool = False
    scale: Literal['mean', 'learned'] = 'mean'
    estimator: Literal['identity', 'clipped', 'annealed'] = 'clipped'
    temperature: tuple[float, float] = (0.1, 10.0)
    stages: StageSettings = StageSettings()
    freeze: FreezeSettings | None = None
    batch_norm_batches: int = 0
    depthwise: bool = False
    keep: tuple[str, ...] = ()
    kept_bits: Literal[8, 32] = 32

    def __post_init__(self):
        """Check ranges and combinations."""
        if not 0 < self.temperature[0] <= self.temperature[1]:
            raise ValueError(f'temperature: expected 0 < first <= last, got {self.temperature}')
        if self.estimator == 'annealed' and not self.standardise:
            raise ValueError('estimator annealed needs standardise: true')
        if self.batch_norm_batches < 0:
            raise ValueError('batch_norm_batches must not be negative')
