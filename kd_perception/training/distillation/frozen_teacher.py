# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The teacher's forward pass through onnxruntime.

Its weights do not change, so that it can run as an exported graph: on a CPU in little more than half of
torch's time for PicoDet-S, whose layers are many and small.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_perception.detection.onnx_session import create_session, ExecutionOptions
from kd_perception.training.export.model_file import graph_of
from kd_perception.training.settings.distillation import DistillationSettings


def taught_maps(settings: DistillationSettings) -> tuple[str, ...]:
    """Return the names of the teacher's maps that the settings ask for, each once."""
    names: list[str] = []
    if settings.needs_teacher_head:
        names += [taught for _, taught in settings.levels]
    for term in (settings.pyramid, settings.regions):
        if term.weight > 0:
            names += [taught for _, taught in term.pairs]
    return tuple(dict.fromkeys(names))


class _Named(nn.Module):
    def __init__(self, network: nn.Module, names: Sequence[str]):
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.network.forward_features(images)
        return tuple(maps[name] for name in self.names)


class FrozenTeacher:
    """
    Named feature maps of a frozen network.

    :param network: names its maps by `forward_features`; in evaluation mode, on the CPU.
    :param names: the maps wanted.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]):
        self.network = _Named(network, names).eval()
        self._sessions: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the wanted maps of (N, 3, H, W) float32 normalised images, by name, without gradient."""
        if not self.network.names:
            return {}
        shape = tuple(images.shape)
        if shape not in self._sessions:
            self._sessions[shape] = self._session(shape)
        found = self._sessions[shape].run(None, {'images': images.detach().contiguous().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self.network.names, found)}

    def _session(self, shape: tuple[int, ...]) -> Any:
        graph = graph_of(self.network, torch.zeros(shape), list(self.network.names))
        return create_session(graph, ExecutionOptions(threads=torch.get_num_threads()),
                              Path('the exported teacher'))
