# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Fit a trained network to scales and biases of 16 bits.

A packed filter costs a bit a weight, and eight bytes for its float32 scale and bias: a good part of the file
where layers are narrow. Both fit float16 with a relative error of at most 2^-11. The network itself is
changed, not just the file, so that whatever is measured on it is what the file computes.
"""

from __future__ import annotations

import torch
from torch import nn

from kd_perception.training.binary.layers import BinaryConv2d, CodedConv2d
from kd_perception.training.export.fold import norm_pairs


@torch.no_grad()
def fit_half_scales(network: nn.Module) -> int:
    """
    Change batch norms, scales and biases, in place, so that what folding makes of them are float16 values.

    Signs and codes stay. Call it on the weights to export, after training; layers that are not binary yet are
    left alone.

    :return: number of layers fitted.
    """
    norms = dict(norm_pairs(network))
    count = 0
    for name, layer in network.named_modules():
        if not isinstance(layer, CodedConv2d) or (isinstance(layer, BinaryConv2d) and not layer.binary):
            continue
        if name in norms and getattr(*norms[name]).affine:
            _fit_norm(layer, getattr(*norms[name]))
        elif name not in norms:
            _fit_layer(layer)
        else:
            continue
        count += 1
    return count


def _half(values: torch.Tensor) -> torch.Tensor:
    return values.half().double()


def _fit_norm(layer: CodedConv2d, norm: nn.BatchNorm2d) -> None:
    """Put the rounding of the folded scale into the norm's gain, that of the folded bias into its shift."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    unit = layer.code_scale().double() * factor
    gain = torch.where(unit > 0, _half(unit * norm.weight.double()) / unit, norm.weight.double())
    norm.weight.copy_(gain)
    bias = torch.zeros_like(factor) if layer.bias is None else layer.bias.double()
    offset = (bias - norm.running_mean.double()) * factor * norm.weight.double()
    norm.bias.copy_(_half(offset + norm.bias.double()) - offset)


def _fit_layer(layer: CodedConv2d) -> None:
    if layer.bias is not None:
        layer.bias.copy_(_half(layer.bias))
    scale = layer.code_scale().double()
    wanted = _half(scale)
    if isinstance(layer, BinaryConv2d) and layer.learned_scale is not None:
        layer.learned_scale.copy_(wanted)
    else:  # both kinds of scale are proportional to the latent weights
        layer.weight.mul_(torch.where(scale > 0, wanted / scale, torch.ones_like(scale)).view(-1, 1, 1, 1))
