# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Batch norm folded into convolutions, and the codes of those that have them."""

from __future__ import annotations

from collections.abc import Iterator
import copy
import dataclasses

import numpy as np
import torch
from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.binary.layers import BinaryConv2d, CodedConv2d


@dataclasses.dataclass(frozen=True, eq=False)
class CodedWeight:
    """
    The weights of one convolution: codes * scale.

    :param bits: 1 (codes are +-1) or 8 (codes in -127..127).
    :param codes: (Cout, Cin / groups, kh, kw) int8; `scale`: (Cout,) float32 of either sign.
    """

    bits: int
    codes: np.ndarray
    scale: np.ndarray


def fold(network: nn.Module, half: bool = False) -> tuple[nn.Module, dict[str, CodedWeight]]:
    """
    Return a copy of a network with batch norm folded into plain convolutions, and its coded weights.

    Batch norm is folded where a module holds `conv` and `norm`, or a Sequential holds a convolution right
    before a batch norm. Folding multiplies a filter's scale and leaves its codes alone. A binary layer
    that is not active yet is folded as the float layer that it still is.

    :param half: round scales and biases of coded layers to float16; the network should have been made for
        that by `half_scales.fit_half_scales`, or it computes something else.
    :return: (network in evaluation mode, layer name -> codes and folded scale).
    """
    folded = copy.deepcopy(network).eval()
    norms = dict(norm_pairs(folded))
    coded: dict[str, CodedWeight] = {}
    for name, layer in [(n, m) for n, m in folded.named_modules() if isinstance(m, nn.Conv2d)]:
        parent, _, attribute = name.rpartition('.')
        owner = folded.get_submodule(parent)
        plain, weight = _plain(layer, norms.get(name), half)
        setattr(owner, attribute, plain)
        if weight is not None:
            coded[name] = weight
    for owner, attribute in norms.values():
        setattr(owner, attribute, nn.Identity())
    return folded, coded


def norm_pairs(network: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """Yield (name of a convolution, (owner, attribute) of the batch norm that follows it)."""
    for name, module in network.named_modules():
        children = list(module.named_children())
        prefix = f'{name}.' if name else ''
        if isinstance(module, nn.Sequential):
            for (first, conv), (second, norm) in zip(children, children[1:]):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    yield prefix + first, (module, second)
        elif isinstance(getattr(module, 'conv', None), nn.Conv2d) and isinstance(
                getattr(module, 'norm', None), nn.BatchNorm2d):
            yield prefix + 'conv', (module, 'norm')


@torch.no_grad()
def _plain(layer: nn.Conv2d, norm_place: tuple[nn.Module, str] | None, half: bool
           ) -> tuple[nn.Conv2d, CodedWeight | None]:
    factor = torch.ones(layer.out_channels, dtype=torch.float64)
    bias = torch.zeros_like(factor) if layer.bias is None else layer.bias.double()
    if norm_place is not None:
        norm = getattr(*norm_place)
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        shift = torch.zeros_like(factor)
        if norm.affine:
            factor, shift = factor * norm.weight.double(), norm.bias.double()
        bias = (bias - norm.running_mean.double()) * factor + shift
    weight = None
    if isinstance(layer, CodedConv2d) and (not isinstance(layer, BinaryConv2d) or layer.binary):
        codes = layer.codes()
        scale = (layer.code_scale().double() * factor).float()
        if half:
            scale, bias = scale.half().float(), bias.half()
            if not (torch.isfinite(scale).all() and torch.isfinite(bias).all()):
                raise TrainingError('a scale or bias is beyond the range of float16: '
                                    'export with scale_bits: 32')
        weight = CodedWeight(layer.bits, codes.numpy(), scale.numpy())
        values = codes * scale.view(-1, 1, 1, 1)
    elif norm_place is None:
        values = layer.weight
    else:
        values = (layer.weight.double() * factor.view(-1, 1, 1, 1)).float()
    plain = nn.utils.skip_init(
        nn.Conv2d, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
        layer.dilation, layer.groups, norm_place is not None or layer.bias is not None, layer.padding_mode)
    plain.weight = nn.Parameter(values.detach(), requires_grad=False)
    if plain.bias is not None:
        plain.bias = nn.Parameter(bias.float(), requires_grad=False)
    return plain.eval(), weight
