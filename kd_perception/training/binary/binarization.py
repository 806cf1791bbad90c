# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Turn a float network into a binary-weight one, in stages, while it trains.

    binarize(network, settings)                                # still float: same outputs
    schedule = BinarizationSchedule(network, settings, steps)
    for step in range(steps):
        schedule.before_step(step)                             # deep layers turn binary first
        ...forward, backward, optimiser.step()...
        schedule.after_step(step)                              # centring, clamping, freezing
    reestimate_batch_norm(network, batches)

The state lives in the network's own buffers, so that a checkpoint of the network resumes exactly.
Use Adam without weight decay on the latent weights (`latent_parameters`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import math

import torch
from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.binary.layers import BinaryConv2d, RoundedConv2d
from kd_perception.training.settings.binarization import BinarizationSettings

STAGES = ('deep', 'middle', 'early')


@dataclasses.dataclass(frozen=True)
class BinarizationReport:
    """Names of the convolutions: which became binary, by stage, and which keep higher precision."""

    stages: dict[str, tuple[str, ...]]
    kept: tuple[str, ...]

    @property
    def binary(self) -> tuple[str, ...]:
        """All that became binary."""
        return tuple(name for names in self.stages.values() for name in names)


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the network's 2-d convolutions by name, in order of definition."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def binarize(network: nn.Module, settings: BinarizationSettings) -> BinarizationReport:
    """
    Replace convolutions of a network, in place, by layers that can become binary.

    The outputs do not change until a schedule activates the layers; only `kept_bits: 8` acts at once.
    Layers named by the network's `full_precision` (else the first and the last), by `settings.keep`, and
    by default depthwise layers keep higher precision. Parameters stay the same objects.

    :raises TrainingError: a name fits no convolution, or the network is binarised already.
    """
    layers = convolutions(network)
    if any(isinstance(layer, (BinaryConv2d, RoundedConv2d)) for layer in layers.values()):
        raise TrainingError('the network is binarised already')
    kept = kept_layers(network, settings)
    groups = _depth_groups(network, [name for name in layers if name not in kept])
    for name, layer in layers.items():
        if name not in kept:
            replace_module(network, name, BinaryConv2d.adopt(
                layer, stage=next(stage for stage, names in groups.items() if name in names),
                estimator=settings.estimator, standardise=settings.standardise,
                learned_scale=settings.scale == 'learned', track_flips=settings.freeze is not None))
        elif settings.kept_bits == 8:
            replace_module(network, name, RoundedConv2d.adopt(layer))
    return BinarizationReport(groups, tuple(name for name in layers if name in kept))


def kept_layers(network: nn.Module, settings: BinarizationSettings) -> set[str]:
    """
    Return the names of the convolutions that are not binarised.

    :raises TrainingError: a name fits no convolution.
    """
    layers = convolutions(network)
    named = tuple(getattr(network, 'full_precision', ())) or tuple(layers)[:1] + tuple(layers)[-1:]
    for name in (*named, *settings.keep):
        if name not in layers:
            raise TrainingError(f'binarisation: {name!r} is no convolution of {type(network).__name__}')
    depthwise = {name for name, layer in layers.items() if layer.groups == layer.in_channels > 1}
    return {*named, *settings.keep} | (set() if settings.depthwise else depthwise)


def _depth_groups(network: nn.Module, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Sort layers into stages by the network's own `depth_groups`, else into thirds by order."""
    prefixes = getattr(network, 'depth_groups', None)
    groups: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for index, name in enumerate(names):
        if prefixes:
            fits = [stage for stage in STAGES
                    if any(name == p or name.startswith(p + '.') for p in prefixes[stage])]
            if len(fits) != 1:
                raise TrainingError(f'binarisation: {name!r} is in {len(fits)} of the depth groups of '
                                    f'{type(network).__name__}, expected one')
            groups[fits[0]].append(name)
        else:
            groups[('early', 'middle', 'deep')[3 * index // len(names)]].append(name)
    return {stage: tuple(found) for stage, found in groups.items()}


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, attribute = name.rpartition('.')
    setattr(network.get_submodule(parent), attribute, module)


def latent_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the latent weights of binary layers: to be trained without weight decay."""
    return [layer.weight for layer in network.modules() if isinstance(layer, BinaryConv2d)]


def activate_all(network: nn.Module) -> None:
    """Make every binary layer binary now, whatever the schedule says (export of untrained networks)."""
    for layer in network.modules():
        if isinstance(layer, BinaryConv2d):
            layer.activate()


class BinarizationSchedule:
    """
    Staged binarisation over a run of `steps` optimiser steps.

    Everything depends on the step's number alone, never on how many calls came before, apart from what
    the network's buffers hold.
    """

    def __init__(self, network: nn.Module, settings: BinarizationSettings, steps: int):
        self.settings, self.steps = settings, steps
        binary = [layer for layer in network.modules() if isinstance(layer, BinaryConv2d)]
        self._layers = {stage: [layer for layer in binary if layer.stage == stage] for stage in STAGES}

    def start(self, stage: str) -> int:
        """Return the step at which a stage becomes binary."""
        return round(getattr(self.settings.stages, stage) * self.steps)

    def before_step(self, step: int) -> None:
        """Activate what is due, and set the estimator's temperature."""
        for stage, layers in self._layers.items():
            start = self.start(stage)
            if step < start:
                continue
            low, high = self.settings.temperature
            done = min(1.0, (step - start) / max(1, self.steps - 1 - start))
            temperature = low * (high / low) ** done  # IR-Net: 10^(log tmin + i / N * log(tmax / tmin))
            for layer in layers:
                layer.activate()
                layer.temperature.fill_(temperature)

    def after_step(self, step: int) -> None:
        """Project the latent weights of active layers and freeze oscillating ones."""
        freeze = self.settings.freeze
        for layers in self._layers.values():
            for layer in layers:
                if not layer.binary:
                    continue
                layer.project(self.settings.centre, self.settings.clamp)
                if freeze is not None:
                    done = min(1.0, step / max(1, self.steps - 1))
                    span = freeze.first - freeze.last
                    threshold = freeze.last + span * 0.5 * (1 + math.cos(math.pi * done))
                    layer.freeze_oscillating(threshold, freeze.momentum)

    def finish(self) -> None:
        """Activate every layer, whatever the step: nothing float is left by accident."""
        for layers in self._layers.values():
            for layer in layers:
                layer.activate()


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """
    Replace the running statistics of all batch norms by their plain average over some batches.

    Binary weights jump at each flip, so the running averages of training lag behind them (Nagel et al.,
    2022, section 5.1).

    :param batches: inputs of the network, without augmentation where possible.
    :return: number of batches used; with none the statistics stay as they are.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    count = 0
    try:
        for batch in batches:
            if count == 0:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # torch: cumulative average
                    norm.train()
            network(batch)
            count += 1
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    return count
