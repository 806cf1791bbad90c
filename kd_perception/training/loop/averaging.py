# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The moving average of a network's weights, which is what is validated and exported."""

from __future__ import annotations

import torch
from torch import nn

from kd_perception.training.binary.activations import ActivationQuantizer
from kd_perception.training.binary.layers import BinaryConv2d


class MovingAverage:
    """
    An average that follows a network: parameters by a share of the way; buffers are states, and
    copied.

    A binary layer of the average turns binary with the network's, from its own latent weights: its
    learned scale would else need thousands of steps to come down from 1, where it stands before. So
    does the scale of a quantizer, which is taken over when the network's starts to round.

    :param average, network: of the same structure, which stays as it is: their tensors are listed
        once, as walking over the modules takes longer than the arithmetic.
    """

    def __init__(self, average: nn.Module, network: nn.Module):
        self._states = [(slow, fast) for slow, fast in zip(average.modules(), network.modules())
                        if isinstance(fast, (BinaryConv2d, ActivationQuantizer))]
        self._parameters = list(average.parameters()), list(network.parameters())
        self._buffers = list(average.buffers()), list(network.buffers())

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the average by `share` of the way."""
        for slow, fast in self._states:
            if isinstance(fast, BinaryConv2d):
                if fast.binary and not slow.binary:
                    slow.activate()
            elif fast.enabled and not slow.enabled:
                slow.enable(fast.scale.item())
        torch._foreach_lerp_(*self._parameters, share)
        if self._buffers[0]:    # batch norms are; a network with folded ones has none
            torch._foreach_copy_(*self._buffers)
