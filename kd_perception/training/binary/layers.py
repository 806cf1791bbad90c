# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Convolutions whose weights take one bit or eight, with float32 latent weights for training.

Binary weights (Rastegari et al., 'XNOR-Net', ECCV 2016, equations 2 to 6, the BWN part): for each
output filter W, the best approximation alpha * B with B in {-1, +1} has

    B = sign(W),  alpha = mean |W|.

Edge values: sign(0) = sign(-0.0) = +1, so a filter of zeros becomes +0.0; a NaN latent weight makes
the filter's alpha NaN, so that it reaches the loss instead of hiding behind a sign.

Gradient: dL/dW = alpha * dL/dW_b * s'(W) + sign(W) / n * sum_i(dL/dW_b_i * sign(W_i)), where s' stands in
for the derivative of sign:

- `identity`: 1;
- `clipped`: 1 where |W| <= 1, else 0 (hard tanh: Courbariaux et al., 'BinaryNet', 2016);
- `annealed`: k t (1 - tanh(t W)^2), k = max(1/t, 1), with t growing from 0.1 to 10 over training (Qin et al.,
  'IR-Net', CVPR 2020, section 3.3): first every weight learns, at the end those near zero.

With `standardise`, sign and s' see W' = (W - mean W) / std W of the filter (IR-Net's balanced weights,
section 3.2) and alpha = mean |W - mean W|: half of the bits are set, and the scale stays that of the float
weights. (IR-Net rounds its scale to powers of two for integer hardware; the scale here is float32.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Estimator = Literal['identity', 'clipped', 'annealed']
_EPSILON = 1e-12
# What a binary layer keeps besides its latent weights.
BINARY_STATE = frozenset({'binary', 'temperature', 'learned_scale', 'last_positive', 'has_flipped', 'frozen',
                          'flip_rate', 'mean_sign'})


def sign(x: torch.Tensor) -> torch.Tensor:
    """Return +1 where x >= 0 (also -0.0), else -1, in the type of x."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


class _BinaryWeight(torch.autograd.Function):
    """
    alpha * sign of latent weights, with the gradient of the module's description, in few passes.

    The same as composing a sign with such a gradient with mean, deviation and scale: a test compares them;
    but a wide layer has millions of weights, and autograd would go over them some thirty times.
    """

    @staticmethod
    def forward(ctx, weight: torch.Tensor, learned: torch.Tensor | None, frozen: torch.Tensor | None,
                signs: torch.Tensor, centred: torch.Tensor, alpha: torch.Tensor, standardise: bool,
                estimator: str, temperature: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(signs, centred, alpha, learned, frozen)
        ctx.options = standardise, estimator, float(temperature)
        return signs * alpha.view(-1, 1, 1, 1)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        signs, centred, alpha, learned, frozen = ctx.saved_tensors
        standardise, estimator, t = ctx.options
        filters, count = (1, 2, 3), signs[0].numel()
        scale_gradient = (gradient * signs).sum(filters)
        result = gradient * alpha.view(-1, 1, 1, 1)
        deviation, argument = None, centred
        if standardise:
            variance = centred.square().mean(filters, keepdim=True)
            deviation = variance.clamp_min(_EPSILON).sqrt_()
            argument = centred / deviation
        if frozen is not None:
            result.masked_fill_(frozen, 0)
        if estimator == 'clipped':
            result.mul_(argument.abs() <= 1)
        elif estimator == 'annealed':
            slope = (argument * t).tanh_().square_()
            result.addcmul_(result, slope, value=-1).mul_(max(1 / t, 1.0) * t)
        if standardise:  # through (W - mean) / deviation; a clamped deviation is a constant
            along = (result * argument).mean(filters, keepdim=True).mul_(variance > _EPSILON)
            result.addcmul_(argument, along, value=-1).div_(deviation)
        if learned is None:
            result.addcmul_(centred.sgn(), (scale_gradient / count).view(-1, 1, 1, 1))
        if standardise:
            result.sub_(result.mean(filters, keepdim=True))
        learned_gradient = None if learned is None else scale_gradient * learned.sgn()
        return result, learned_gradient, *(None,) * 7


class CodedConv2d(nn.Conv2d):
    """A convolution whose weights are small integers times one scale for each output channel."""

    bits: int

    def codes(self) -> torch.Tensor:
        """Return the integers (Cout, Cin / groups, kh, kw) int8 that the layer multiplies with now."""
        raise NotImplementedError

    def code_scale(self) -> torch.Tensor:
        """Return the scales (Cout,) float32; weight = codes * scale."""
        raise NotImplementedError

    def effective_weight(self) -> torch.Tensor:
        """Return the weights that the layer multiplies with now, with their gradient path."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Leave the memory as it is: these layers are made by `adopt`, from a float one's parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve with the effective weights."""
        return self._conv_forward(x, self.effective_weight(), self.bias)

    @classmethod
    def adopt(cls, layer: nn.Conv2d, **options) -> CodedConv2d:
        """Return a layer of this class that shares the parameters of `layer`."""
        coded = cls(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                    layer.dilation, layer.groups, layer.bias is not None, layer.padding_mode, **options)
        coded.weight, coded.bias = layer.weight, layer.bias
        return coded.to(layer.weight.device).train(layer.training)


class BinaryConv2d(CodedConv2d):
    """
    A convolution that is float until `activate`, then binary.

    :param stage: the part of the network that it belongs to, for the schedule.
    :param estimator, standardise: see the module's description.
    :param learned_scale: alpha is a parameter, initialised to mean |W| at activation (its absolute
        value is used, so that it cannot turn the signs round).
    :param track_flips: keep the statistics that `freeze_oscillating` needs.
    """

    bits = 1

    def __init__(self, *arguments, stage: str = '', estimator: Estimator = 'clipped',
                 standardise: bool = False, learned_scale: bool = False, track_flips: bool = False,
                 **options):
        super().__init__(*arguments, **options)
        self.stage = stage
        self.estimator, self.standardise = estimator, standardise
        self.register_buffer('binary', torch.tensor(False))
        self.register_buffer('temperature', torch.tensor(1.0))
        self.register_parameter(
            'learned_scale', nn.Parameter(torch.ones(self.out_channels)) if learned_scale else None)
        self.track_flips = track_flips
        if track_flips:
            shape = tuple(self.weight.shape)
            self.register_buffer('last_positive', torch.zeros(shape, dtype=torch.bool))
            self.register_buffer('has_flipped', torch.zeros(shape, dtype=torch.bool))
            self.register_buffer('frozen', torch.zeros(shape, dtype=torch.bool))
            self.register_buffer('flip_rate', torch.zeros(shape))
            self.register_buffer('mean_sign', torch.zeros(shape))

    def activate(self) -> None:
        """Become binary, from the latent weights as they stand; does nothing when binary already."""
        if self.binary:
            return
        self.binary.fill_(True)
        with torch.no_grad():
            if self.learned_scale is not None:
                self.learned_scale.copy_(self._mean_scale(self._centred()))
            if self.track_flips:
                signs = self.codes()
                self.last_positive.copy_(signs > 0)
                self.mean_sign.copy_(signs)

    def _centred(self) -> torch.Tensor:
        if not self.standardise:
            return self.weight
        return self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)

    @staticmethod
    def _mean_scale(centred: torch.Tensor) -> torch.Tensor:
        return centred.abs().mean(dim=(1, 2, 3))

    def _scale(self, centred: torch.Tensor) -> torch.Tensor:
        return self._mean_scale(centred) if self.learned_scale is None else self.learned_scale.abs()

    def _signs(self, centred: torch.Tensor) -> torch.Tensor:
        """Return the signs; dividing by a deviation would not change them."""
        signs = sign(centred)
        return torch.where(self.frozen, sign(self.mean_sign), signs) if self.track_flips else signs

    def effective_weight(self) -> torch.Tensor:
        """Return the float weights, or alpha * sign once active."""
        if not self.binary:
            return self.weight
        with torch.no_grad():
            centred = self._centred()
            signs, alpha = self._signs(centred), self._scale(centred)
        return _BinaryWeight.apply(self.weight, self.learned_scale, self.frozen if self.track_flips else None,
                                   signs, centred, alpha, self.standardise, self.estimator, self.temperature)

    @torch.no_grad()
    def codes(self) -> torch.Tensor:
        """Return the signs as int8."""
        return self._signs(self._centred()).to(torch.int8)

    @torch.no_grad()
    def code_scale(self) -> torch.Tensor:
        """Return alpha, (Cout,)."""
        return self._scale(self._centred()).clone()

    @torch.no_grad()
    def project(self, centre: bool, clamp: bool) -> None:
        """
        Centre the latent weights over the input channels, and clamp them to [-1, 1].

        As XNOR-Net's published code does at each step. Centring is skipped where a filter has one
        input channel (depthwise), which it would erase.
        """
        if centre and self.weight.shape[1] > 1:
            self.weight -= self.weight.mean(dim=1, keepdim=True)
        if clamp:
            self.weight.clamp_(-1, 1)

    @torch.no_grad()
    def freeze_oscillating(self, threshold: float, momentum: float) -> None:
        """
        Freeze weights that flip back and forth at the sign they have had most of the time.

        Nagel et al., 'Overcoming Oscillations in Quantization-Aware Training', ICML 2022, algorithm 1: an
        oscillation is a change opposite to the weight's last one (with two levels, every flip but the
        first), its rate an exponential average; a rate above the threshold freezes the weight.

        :param threshold: rate in 0..1; `momentum`: weight of the newest step in both averages.
        """
        positive = self.codes() > 0
        flipped = positive != self.last_positive
        self.flip_rate.lerp_((flipped & self.has_flipped).to(self.flip_rate.dtype), momentum)
        self.mean_sign.lerp_(torch.where(positive, 1.0, -1.0), momentum * ~self.frozen)
        self.frozen |= self.flip_rate > threshold
        self.has_flipped |= flipped
        self.last_positive.copy_(positive)


class RoundedConv2d(CodedConv2d):
    """
    A convolution with 8-bit weights: W_q = s * round(W / s), s = max |W| / limit of each output filter.

    Symmetric, one scale an output channel, straight-through gradient (Jacob et al., CVPR 2018, for
    weights). A filter of zeros stays zero. The limit is 127, less where activations are integers too.
    """

    bits = 8
    limit = 127

    def code_scale(self) -> torch.Tensor:
        """Return s, (Cout,)."""
        return self.weight.detach().abs().amax(dim=(1, 2, 3)).clamp_min(_EPSILON) / self.limit

    @torch.no_grad()
    def codes(self) -> torch.Tensor:
        """Return the integers in -limit..limit as int8."""
        return torch.round(self.weight / self.code_scale().view(-1, 1, 1, 1)).to(torch.int8)

    def effective_weight(self) -> torch.Tensor:
        """Return s * round(W / s), whose gradient is the identity."""
        rounded = self.codes() * self.code_scale().view(-1, 1, 1, 1)
        return self.weight + (rounded - self.weight).detach()
