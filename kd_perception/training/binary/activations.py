# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Integer activations: what a convolution reads is rounded to a grid of 2^bits values, one scale a tensor.

    q = clip(round(x / s) + z, 0, 2^bits - 1),   x' = s * (q - z)

with round half to even. After a ReLU z = 0; what is added to a shortcut has both signs, and z = 2^(bits - 1).
Scales start where the squared error on calibration images is least, and are then learned: the gradient is
straight-through inside the range for x and that of LSQ for s (Esser et al., 'Learned Step Size Quantization',
ICLR 2020, equations 3 to 5). What is trained is log s, so that a step of the optimiser changes s by a share
of itself (Jain et al., 'Trained Quantization Thresholds', MLSys 2020, section 3.2, with base 2).

Together with weights of +-1 times a scale, products and sums are exact in integers: the exported graph
(`integer_onnx`) runs as QLinearConv. 8-bit weights that meet 8-bit activations keep to +-63: x86 without
VNNI adds two products in 16 bits, and 2 * 255 * 63 is the most that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import copy
import math

import numpy as np
import torch
from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.binary.binarization import replace_module
from kd_perception.training.binary.layers import RoundedConv2d
from kd_perception.training.networks.plain_blocks import ConvNormAct
from kd_perception.training.networks.plain_detector import PlainBlock, PlainDetector
from kd_perception.training.networks.preprocess import FromCamera, MEAN, STD
from kd_perception.training.settings.activations import ActivationSettings

# The camera's bytes as they are: value = (byte - INPUT_ZERO) * INPUT_SCALE, for every colour alike.
INPUT_LAYER = 'backbone.stem.conv'
INPUT_ZERO = 114
INPUT_SCALE = 1 / 57.63  # near the mean of what `preprocess.STD` divides by
# What a letterbox pads with (InputSpec.pad_value) is then exactly zero.
MAX_CODE_BESIDE_8_BITS = 63
# What a network prepared for integer activations has besides its weights.
QUANTIZER_STATE = frozenset({'log_scale', 'enabled'})
_SAMPLE = 1 << 15       # values of a tensor and batch that calibration looks at
_CANDIDATES = np.linspace(0.25, 1.0, 76)    # scales that it tries, as shares of the one that clips nothing


class _Round(torch.autograd.Function):
    """x' of the module's description, with its gradients for x and s."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
        ctx.save_for_backward(x, scale)
        ctx.bounds = low, high
        return (x / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        x, scale = ctx.saved_tensors
        low, high = ctx.bounds
        ratio = x / scale
        inside = (ratio >= low) & (ratio <= high)
        rounded = ratio.round().clamp_(low, high)
        of_scale = torch.where(inside, rounded - ratio, rounded)
        share = (x.numel() * max(high, 1)) ** -0.5  # LSQ's gradient scale
        return gradient * inside, (gradient * of_scale).sum() * share, None, None


class ActivationQuantizer(nn.Module):
    """
    Round activations to the grid of the module's description, once enabled.

    :param bits: of q; `signed`: whether both signs occur.
    """

    def __init__(self, bits: int = 8, signed: bool = False, learned: bool = True):
        super().__init__()
        self.bits, self.signed = bits, signed
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.register_buffer('enabled', torch.tensor(False))

    @property
    def zero_point(self) -> int:
        """z: the q that means 0."""
        return 1 << (self.bits - 1) if self.signed else 0

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest q - z."""
        return -self.zero_point, (1 << self.bits) - 1 - self.zero_point

    @property
    def scale(self) -> torch.Tensor:
        """s, a float32 scalar with its gradient path."""
        return self.log_scale.exp()

    @torch.no_grad()
    def enable(self, scale: float) -> None:
        """
        Start to round, with a scale.

        :raises TrainingError: the scale is not positive and finite.
        """
        if not 0 < scale < float('inf'):
            raise TrainingError(f'an activation cannot have the scale {scale}')
        self.log_scale.fill_(float(np.log(scale)))
        self.enabled.fill_(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x', in the shape of x."""
        return _Round.apply(x, self.scale, *self.bounds) if self.enabled else x


class UniformInput(nn.Module):
    """
    Give all colours one zero and one scale, those of `INPUT_ZERO` and `INPUT_SCALE`.

    The camera's bytes are then the first convolution's integers, without an operation in between.
    """

    def __init__(self):
        super().__init__()
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        self.register_buffer('factor', std * INPUT_SCALE, persistent=False)
        self.register_buffer('offset', (mean - INPUT_ZERO) * INPUT_SCALE, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 3, H, W) on the uniform grid, of images normalised as `preprocess` does."""
        return x * self.factor + self.offset


@torch.no_grad()
def quantize_activations(network: nn.Module, settings: ActivationSettings) -> None:
    """
    Prepare a network, in place, for integer activations; it rounds nothing until `calibrate_activations`.

    Call it after `binarize` and before the network is trained or loaded with weights. From a network whose
    first layer saw colours normalised one by one, go on with `adopt_uniform_input`.

    :raises TrainingError: the network's kind is not prepared for it, or its first layer has float weights.
    """
    if not isinstance(network, PlainDetector):
        raise TrainingError(f'integer activations: {type(network).__name__} is not prepared for them; '
                            'use network.kind: plain')
    stem = network.backbone.stem.conv
    if not isinstance(stem, RoundedConv2d):
        raise TrainingError('integer activations: the first layer needs integer weights; '
                            'set binarization.kept_bits: 8')
    if is_quantized(network):
        raise TrainingError('integer activations: the network is prepared already')

    def quantizer(signed: bool = False) -> ActivationQuantizer:
        return ActivationQuantizer(settings.bits, signed, settings.learned)

    network.backbone.entry = UniformInput()
    for name, layer in network.named_modules():
        if isinstance(layer, RoundedConv2d) and not name.startswith('head.predict'):
            layer.limit = MAX_CODE_BESIDE_8_BITS   # predictions are computed in float
    blocks = [module for module in network.modules() if isinstance(module, PlainBlock)]
    bodies = {id(block.body): block for block in blocks}
    for module in [m for m in network.modules() if isinstance(m, ConvNormAct)]:
        if id(module) not in bodies:
            module.act = nn.Sequential(nn.ReLU(), quantizer())
        elif bodies[id(module)].shortcut:
            module.act = quantizer(signed=True)
    for block in blocks:
        block.act = nn.Sequential(nn.ReLU(), quantizer())
    for joined in (network.neck.joined_down, network.neck.joined_up):
        for number in range(len(joined)):
            joined[number] = quantizer()


def is_quantized(network: nn.Module) -> bool:
    """Whether a network is prepared for integer activations."""
    return next(activation_quantizers(network), None) is not None


def activation_quantizers(network: nn.Module) -> Iterator[ActivationQuantizer]:
    """Yield a network's quantizers."""
    return (module for module in network.modules() if isinstance(module, ActivationQuantizer))


def float_camera(network: nn.Module) -> FromCamera:
    """
    Return a network that takes camera images and rounds no activations, whatever it was prepared for.

    :param network: it is changed.
    """
    if not is_quantized(network):
        return FromCamera(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, (ActivationQuantizer, UniformInput)):
            replace_module(network, name, nn.Identity())
    return FromCamera(network, (float(INPUT_ZERO),) * 3, (1 / INPUT_SCALE,) * 3)


def without_rounding(network: nn.Module) -> nn.Module:
    """Return a network that computes with float activations: a copy where rounding has begun."""
    if not any(quantizer.enabled for quantizer in activation_quantizers(network)):
        return network
    changed = copy.deepcopy(network)
    for quantizer in activation_quantizers(changed):
        quantizer.enabled.fill_(False)
    return changed


@torch.no_grad()
def adopt_uniform_input(network: PlainDetector) -> None:
    """
    Change the first layer, in place, so that it computes on uniform colours what it did on normalised ones.

    Exact but for rounding its weights, and at the image's border, where padding meant each colour's mean and
    now means `INPUT_ZERO`. In training mode batch statistics take care of the shift.
    """
    layer, norm = network.backbone.stem.conv, network.backbone.stem.norm
    entry = UniformInput()
    layer.weight.div_(entry.factor)
    # w * (x - offset) / factor: the constant part goes into the mean that the batch norm takes off.
    norm.running_mean.add_((layer.weight * entry.offset).sum(dim=(1, 2, 3)))


@torch.no_grad()
def calibrate_activations(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """
    Enable all quantizers, each with the scale of least squared error on some images.

    The network computes in evaluation mode; its mode is kept.

    :param batches: (N, 3, H, W) float32 RGB, normalised.
    :raises TrainingError: there is no image, or an activation is zero or not finite on all of them.
    """
    names = {module: name for name, module in network.named_modules()}
    samples: dict[ActivationQuantizer, list[torch.Tensor]] = {q: [] for q in activation_quantizers(network)}
    largest = dict.fromkeys(samples, 0.0)

    def look(quantizer: ActivationQuantizer, inputs: tuple, _: torch.Tensor) -> None:
        values = inputs[0].flatten()
        size = float(values.abs().max())
        if size > largest[quantizer] or math.isnan(size):   # once not a number, it stays that
            largest[quantizer] = size
        samples[quantizer].append(values[::max(1, values.numel() // _SAMPLE)].clone())

    handles = [quantizer.register_forward_hook(look) for quantizer in samples]
    training = network.training
    count = 0
    try:
        network.eval()
        for count, batch in enumerate(batches, 1):
            network(batch)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    if not count:
        raise TrainingError('integer activations: there is no image to calibrate on')
    for quantizer, values in samples.items():
        if not 0 < largest[quantizer] < float('inf'):
            raise TrainingError(f'{names[quantizer]}: its activations have the largest size '
                                f'{largest[quantizer]} on all calibration images')
        quantizer.enable(least_error_scale(torch.cat(values), largest[quantizer], quantizer.bounds))


def least_error_scale(values: torch.Tensor, largest: float, bounds: tuple[int, int]) -> float:
    """
    Return the scale whose grid is nearest to values, in squared error, of a grid search.

    :param values: a sample; `largest`: the largest size of all values; `bounds`: of q - z.
    """
    widest = largest / bounds[1]
    scales = [float(share) * widest for share in _CANDIDATES]
    errors = [float((_Round.apply(values, torch.tensor(scale), *bounds) - values).square().mean())
              for scale in scales]
    return scales[int(np.argmin(errors))]


class ActivationSchedule:
    """Enables a network's quantizers in a run of `steps` steps."""

    def __init__(self, network: nn.Module, settings: ActivationSettings, steps: int):
        self.settings, self.start = settings, round(settings.start * steps)
        self._network, self._quantizers = network, list(activation_quantizers(network))

    def before_step(self, step: int, batches: Iterable[torch.Tensor]) -> None:
        """
        Calibrate when rounding starts.

        :param batches: images of the run, normalised; the first of them are used.
        """
        if step >= self.start and not all(quantizer.enabled for quantizer in self._quantizers):
            wanted = self.settings.calibration_batches
            calibrate_activations(self._network, (batch for _, batch in zip(range(wanted), batches)))
