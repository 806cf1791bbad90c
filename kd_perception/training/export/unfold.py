# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The inverse of the export: a plain detector that can be trained on, out of its model file alone.

The file holds, for each filter, codes * s + bias: batch norm is folded (see `packed_onnx`). To train on,

- latent weights of the stored signs are made, all of about one small size (see `latent_weights`): a flip
  comes where training keeps asking for it, and none comes by chance;
- each batch norm is made anew. With r = s / alpha it is to map y = alpha * codes * x to r * y + bias,
  whatever mean and variance it holds: gain r * sqrt(var + eps), shift bias + mean * r. Mean and variance are
  those of some images (`calibrate`), so that training mode starts where evaluation mode is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kd_perception.detection.decode import output_shapes
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ModelError, TrainingError
from kd_perception.models.model_bytes import read_model
from kd_perception.training.binary.activations import adopt_uniform_input, INPUT_LAYER, is_quantized
from kd_perception.training.binary.binarization import convolutions
from kd_perception.training.binary.layers import BinaryConv2d
from kd_perception.training.data.rendered import render_scene
from kd_perception.training.export.fold import norm_pairs
from kd_perception.training.export.stored_weights import read_stored, StoredWeight
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.networks.preprocess import FromCamera

# Adam moves a weight by at most about its rate a step: at 5e-4 a sign flips after some forty that agree.
LATENT_SIZE = 0.02
# Of the outputs' deviation: above rounding (8-bit weights made of float ones), below another architecture's.
OUTPUT_TOLERANCE = 0.2
_CALIBRATION_IMAGES = 8


def unfold(network: PlainDetector, path: Path, labels: tuple[str, ...], images: torch.Tensor | None = None
           ) -> None:
    """
    Fill a fresh network, in place, so that it computes what a model file computes, and can train on.

    Binary layers stay inactive, as a schedule expects them; from their activation on they compute the file's
    function, before only something near it (so let their stages start at 0). Layers of the file that are not
    binary may become so in training. Keeps the network's mode.

    :param network: of the file's architecture, prepared by `binarize` or float, with initial weights.
    :param path: a model file of this package, packed or its float twin.
    :param labels: classes to train for, which must be the file's.
    :param images: (N, 3, H, W) float32 RGB, normalised, to calibrate on; None takes rendered scenes.
    :raises TrainingError: the file is unreadable, has other labels or is of another architecture.
    """
    try:
        content, _ = read_model(path)
        detector = OnnxDetector.from_bytes(content, path)
    except ModelError as error:
        raise TrainingError(str(error)) from error
    spec = detector.spec
    if spec.labels != labels:
        raise TrainingError(f'{path}: knows {list(spec.labels)}, the configuration has {list(labels)}')
    if spec.decoder != network.decoder_spec() or (spec.input.dtype, spec.input.layout, spec.input.color) != (
            'uint8', 'NHWC', 'bgr'):
        raise TrainingError(f'{path}: is of another network: decoder {spec.decoder}, '
                            f'expected {network.decoder_spec()} on uint8 NHWC BGR images')
    precision = spec.documents.get('precision')
    uniform = isinstance(precision, dict) and 'uniform_input' in (precision.get(INPUT_LAYER) or {})
    if uniform and not is_quantized(network):
        raise TrainingError(f'{path}: was made for integer activations; give the configuration '
                            '`activations: {bits: 8}`')
    stored = read_stored(content, precision, path)
    layers, norms = convolutions(network), dict(norm_pairs(network))
    if set(stored) != set(layers):
        different = sorted(set(stored) ^ set(layers))
        where = 'the file' if different[0] in stored else 'the configured network'
        raise TrainingError(f'{path}: is of another network: only {where} has a layer {different[0]}')
    for name, layer in layers.items():
        if stored[name].codes.shape != tuple(layer.weight.shape):
            raise TrainingError(f'{path}: {name} has weights of shape {list(stored[name].codes.shape)}, '
                                f'the configured network {list(layer.weight.shape)}')
        norm = getattr(*norms[name]) if name in norms else None
        _fill(layer, norm, stored[name], f'{path}: {name}')
    if is_quantized(network) and not uniform:
        adopt_uniform_input(network)
    floats = {name for name, weight in stored.items() if not weight.binary}
    calibrate(network, rendered_images(_CALIBRATION_IMAGES) if images is None else images, floats)
    _compare(network, detector, floats, path)


@torch.no_grad()
def _fill(layer: nn.Conv2d, norm: nn.BatchNorm2d | None, stored: StoredWeight, place: str) -> None:
    """Set a layer's weights, and a norm that makes of them what is stored, on no images yet."""
    codes, scale, bias = (torch.from_numpy(value).double()
                          for value in (stored.codes, stored.scale, stored.bias))
    if norm is None:
        layer.weight.copy_(codes * scale.view(-1, 1, 1, 1))
        layer.bias.copy_(bias)
        return
    if stored.binary and isinstance(layer, BinaryConv2d):
        if layer.standardise:
            codes = _mixed_where_unused(codes, scale, place)
        layer.weight.copy_(latent_weights(codes, layer.standardise))
        with _active([layer]):
            if not torch.equal(layer.codes(), codes.to(torch.int8)):
                raise TrainingError(f'{place}: its signs do not survive in latent weights')
            gain = scale / layer.code_scale().double()
    else:
        # The size of fresh weights, which the run's learning rate is made for.
        size = codes.square().mean(dim=(1, 2, 3)).sqrt()
        unit = torch.where(size > 0, layer.weight.double().square().mean().sqrt() / size, 1.0)
        layer.weight.copy_(codes * unit.view(-1, 1, 1, 1))
        gain = scale / unit
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.copy_(gain)
    norm.bias.copy_(bias)


def _mixed_where_unused(codes: torch.Tensor, scale: torch.Tensor, place: str) -> torch.Tensor:
    """Return codes with both signs in each filter, changing only filters of scale zero."""
    one_sign = codes.sum(dim=(1, 2, 3)).abs() == codes[0].numel()
    wrong = (one_sign & (scale != 0)).nonzero()
    if len(wrong):
        raise TrainingError(f'{place}: filter {int(wrong[0])} has weights of one sign only, which '
                            'binarization.standardise: true cannot hold')
    alternating = 1.0 - 2.0 * (torch.arange(codes[0].numel()) % 2).to(codes.dtype)
    return torch.where(one_sign.view(-1, 1, 1, 1), alternating.view(codes[0].shape), codes)


def latent_weights(codes: torch.Tensor, standardise: bool) -> torch.Tensor:
    """
    Return latent weights (Cout, Cin, kh, kw) whose signs are the codes, with one mean size a filter.

    Where a kernel position has both signs over the input channels, its weights there have mean zero: centring
    and standardising then change nothing, neither signs nor mean |W| (see `BinaryConv2d.project`). Where it
    has one sign only, centring (which no longer keeps that sign) would move it whatever its size; with
    `standardise` the filter as a whole then has mean zero. mean |W| = mean |W - mean W| is `LATENT_SIZE`, or
    less where the rarer sign's weights would exceed 1, the clamp.

    :param codes: (Cout, Cin, kh, kw) of +-1; with `standardise` both in each filter.
    """
    def balanced(dims: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        positive = (codes > 0).to(codes.dtype).mean(dim=dims, keepdim=True)
        own = torch.where(codes > 0, positive, 1 - positive)  # share of the weights with this sign
        return torch.where(own < 1, codes / (2 * own), codes), own < 1

    latent, mixed = balanced((1,))
    if standardise:
        everywhere = mixed.flatten(1).all(dim=1).view(-1, 1, 1, 1)
        latent = torch.where(everywhere, latent, balanced((1, 2, 3))[0])
    largest = latent.abs().amax(dim=(1, 2, 3), keepdim=True)
    return latent * torch.clamp_max(1 / largest, LATENT_SIZE)


@contextlib.contextmanager
def _active(layers: Collection[BinaryConv2d]) -> Iterator[None]:
    """Make layers binary for a while."""
    changed = [layer for layer in layers if not layer.binary]
    try:
        for layer in changed:
            layer.activate()
        yield
    finally:
        for layer in changed:
            layer.binary.fill_(False)


def _as_activated(network: nn.Module, floats: Collection[str]) -> contextlib.AbstractContextManager:
    return _active([layer for name, layer in convolutions(network).items()
                    if isinstance(layer, BinaryConv2d) and name not in floats])


@torch.no_grad()
def calibrate(network: nn.Module, images: torch.Tensor, floats: Collection[str] = ()) -> None:
    """
    Give batch norms the statistics of some images, in place, without changing what the network computes.

    Gain and shift make up for the change, so evaluation mode computes what it did, with binary layers
    active; and training mode computes the same on these images. One pass is enough: a norm is set right
    after its convolution has run, and what comes out of it does not change.

    :param images: (N, 3, H, W) float32 RGB, normalised: better of the run's data than rendered.
    :param floats: names of layers that are to be taken as they are if they are not binary yet.
    """
    norms = {name: getattr(*place) for name, place in norm_pairs(network)}

    def fit(norm: nn.BatchNorm2d, output: torch.Tensor) -> None:
        values = output.double()
        mean, var = values.mean(dim=(0, 2, 3)), values.var(dim=(0, 2, 3), unbiased=False)
        ratio = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        shift = norm.bias.double() - norm.running_mean.double() * ratio
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        # Of the statistics as they are stored, in float32.
        norm.weight.copy_(ratio * (norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(shift + norm.running_mean.double() * ratio)

    handles = [layer.register_forward_hook(lambda _, __, output, norm=norms[name]: fit(norm, output))
               for name, layer in convolutions(network).items() if name in norms]
    training = network.training
    try:
        with _as_activated(network, floats):
            network.eval()(images)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()


def rendered_images(count: int, seed: int = 0) -> torch.Tensor:
    """Return `count` rendered scenes, (N, 3, 192, 384) float32 RGB, normalised; the same for a seed."""
    scenes = [render_scene(np.random.default_rng([seed, i]))[0] for i in range(count)]
    return FromCamera(nn.Identity()).normalise(torch.from_numpy(np.stack(scenes)))


@torch.no_grad()
def _compare(network: nn.Module, detector: OnnxDetector, floats: Collection[str], path: Path) -> None:
    """Refuse a file whose layers fit but which connects them otherwise, such as without shortcuts."""
    pixels = np.random.default_rng(0).integers(0, 256, detector.spec.input.shape, dtype=np.uint8)
    outputs = detector.session.run(list(output_shapes(detector.spec)), {'images': pixels})
    training = network.training
    with _as_activated(network, floats):
        made = FromCamera(network).eval()(torch.from_numpy(pixels))
    network.train(training)
    stored = np.concatenate([output.ravel() for output in outputs])
    error = float(np.std(stored - torch.cat([output.flatten() for output in made]).numpy()))
    if not error <= OUTPUT_TOLERANCE * float(stored.std()):
        raise TrainingError(f'{path}: is of another network: its layers fit, but outputs of the configured '
                            f'one differ by {error:.3g}, their deviation being {stored.std():.3g}')
