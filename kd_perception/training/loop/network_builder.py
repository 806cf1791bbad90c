# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Build the network that a configuration asks for, and count what it costs."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from kd_perception.training.binary.activations import quantize_activations
from kd_perception.training.binary.binarization import binarize
from kd_perception.training.networks.darknet import DarkNet19YoloV2
from kd_perception.training.networks.mobilenet import MobileNetV1YoloV2
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.settings.activations import ActivationSettings
from kd_perception.training.settings.binarization import BinarizationSettings
from kd_perception.training.settings.network import NetworkSettings


def build_network(settings: NetworkSettings, classes: int,
                  binarization: BinarizationSettings | None = None,
                  activations: ActivationSettings | None = None) -> nn.Module:
    """
    Build a network with random weights (of torch's global generator).

    :param binarization: prepares its layers to become binary (see `binarize`); None leaves it float.
    :param activations: prepares it for integer activations (see `quantize_activations`).
    """
    network = _float_network(settings, classes)
    if binarization is not None:
        binarize(network, binarization)
    if activations is not None:
        quantize_activations(network, activations)
    return network


def _float_network(settings: NetworkSettings, classes: int) -> nn.Module:
    if settings.kind == 'picodet_s':
        return PicoDet(classes)
    if settings.kind == 'plain':
        return PlainDetector(classes, settings.width, settings.channels, settings.blocks, settings.neck,
                             settings.reg_max, settings.towers, settings.shortcut, settings.levels,
                             settings.shared_prediction)
    if settings.kind == 'darknet19_yolov2':
        return DarkNet19YoloV2(classes, settings.anchors_px, settings.activation)
    return MobileNetV1YoloV2(classes, settings.anchors_px)


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """
    What one forward pass of one image takes.

    :param weights: weights of all convolutions, without biases and norms.
    :param multiply_adds: of all convolutions.
    """

    weights: int
    multiply_adds: int


def network_cost(network: nn.Module, input_hw: tuple[int, int]) -> NetworkCost:
    """Count by running the network once on zeros of (1, 3, H, W)."""
    total = 0

    def count(layer: nn.Conv2d, _: tuple, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output.numel()

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    training = network.training
    try:
        with torch.no_grad():
            # Zeros on the network's own device: a network on 'meta' costs nothing to count.
            network.eval()(torch.zeros(1, 3, *input_hw, device=layers[0].weight.device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return NetworkCost(sum(layer.weight.numel() for layer in layers), total)
