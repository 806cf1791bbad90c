# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The moving average of a network's weights, which is what is validated and exported."""

from __future__ import annotations

import torch
from torch import nn

from kd_perception.training.activations import ActivationQuantizer
from kd_perception.training.binary_layers import BinaryConv2d


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, share: float) -> None:
    """
    Move an average towards the network: parameters by `share` of the way; buffers are states, and copied.

    A binary layer of the average turns binary with the network's, from its own latent weights: its learned
    scale would else need thousands of steps to come down from 1, where it stands before. So does the scale
    of a quantizer, which is taken over when the network's starts to round.

    :param average, network: of the same structure.
    """
    for slow, fast in zip(average.modules(), network.modules()):
        if isinstance(fast, BinaryConv2d) and fast.binary and not slow.binary:
            slow.activate()
        elif isinstance(fast, ActivationQuantizer) and fast.enabled and not slow.enabled:
            slow.enable(fast.scale.item())
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), share)
    for slow, fast in zip(average.buffers(), network.buffers()):
        slow.copy_(fast)
