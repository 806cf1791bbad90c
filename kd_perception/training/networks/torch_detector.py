# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run a torch network through the very code that runs model files: one letterbox, decoder and NMS."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, ThresholdSpec
from kd_perception.training.networks.preprocess import FromCamera


class TorchSession:
    """Stand where onnxruntime's session stands, with a torch network behind it."""

    def __init__(self, network: nn.Module):
        self.network = FromCamera(network).eval()

    def run(self, output_names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the head maps, finest stride first, for the one input (1, H, W, 3) uint8 BGR."""
        del output_names  # the network's order is the specification's order
        (images,) = feeds.values()
        with torch.no_grad():
            return [level.numpy() for level in self.network(torch.from_numpy(images))]


def detection_spec(name: str, labels: tuple[str, ...], input_hw: tuple[int, int], network: nn.Module,
                   thresholds: ThresholdSpec = ThresholdSpec(), **facts: object) -> ModelSpec:
    """
    Describe a network that takes uint8 NHWC BGR images.

    Its head is what its `decoder_spec()` says, else a generalised focal loss head.
    """
    if hasattr(network, 'decoder_spec'):
        decoder = network.decoder_spec()
    else:
        decoder = DecoderSpec('gfl', network.strides, network.reg_max)
    size_step = getattr(network, 'size_step_px', None)
    return ModelSpec(name, labels, InputSpec(*input_hw, size_step=size_step), decoder, thresholds, **facts)


def torch_detector(network: nn.Module, spec: ModelSpec) -> OnnxDetector:
    """Return a detector that behaves as the exported file will."""
    return OnnxDetector(TorchSession(network), spec)
