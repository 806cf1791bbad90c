# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Networks with weights: fresh, out of a published file, out of a checkpoint, as a teacher."""

from __future__ import annotations

from collections.abc import Mapping
import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_perception.config import from_mapping
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.training.binary.activations import adopt_uniform_input, is_quantized, QUANTIZER_STATE
from kd_perception.training.binary.layers import BINARY_STATE
from kd_perception.training.export.unfold import unfold
from kd_perception.training.loop.network_builder import build_network
from kd_perception.training.networks.picodet import STRIDES as PICODET_STRIDES
from kd_perception.training.networks.picodet_onnx import load_exported_picodet, load_picodet
from kd_perception.training.settings.run import TrainingSettings

STATE_PARTS = {'settings', 'step', 'network', 'average', 'optimiser'}


def load_checkpoint(path: Path) -> dict:
    """
    Read a checkpoint; only tensors and plain values are accepted from the file.

    :raises TrainingError: it is missing, unreadable or lacks a part.
    """
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises several unrelated types for damaged files
        reason = (str(error).splitlines() or [''])[0][:200]
        raise TrainingError(f'{path}: is not a readable checkpoint ({reason})') from error
    missing = STATE_PARTS - set(state if isinstance(state, dict) else ())
    if missing:
        raise TrainingError(f'{path}: lacks {sorted(missing)}, not a checkpoint of this program')
    return state


def initial_network(settings: TrainingSettings, init_path: Path | None, start_path: Path | None = None
                    ) -> nn.Module:
    """
    Build the network with its initial weights.

    :param init_path: the published weights, for `init.kind: picodet_onnx`.
    :param start_path: a checkpoint or model file (of PicoDet-S or the plain network, packed or not), for
        `init.kind: model`.
    :raises TrainingError: the configuration needs a weights file and none, or a wrong one, is given.
    """
    if settings.init.kind != 'picodet_onnx':
        torch.manual_seed(settings.seed)
        network = build_network(settings.network, len(settings.labels), settings.binarization,
                                settings.activations)
        if settings.init.kind == 'model':
            _start_from(network, settings, start_path, init_path)
        return network
    if init_path is None:
        raise TrainingError('init.kind is picodet_onnx: give the published weights with --init')
    return load_picodet(init_path, settings.init.class_rows)


def is_unfolded(kind: str, path: Path) -> bool:
    """Whether a network of this kind is started from a file by `unfold`: a plain detector's model file."""
    return kind == 'plain' and path.suffix == '.onnx'


def _start_from(network: nn.Module, settings: TrainingSettings, path: Path | None,
                init_path: Path | None) -> None:
    """
    Copy the averaged weights of an earlier run; what only binary layers and quantizers have stays as it is.

    A model file of the plain network, packed or not, needs no checkpoint: see `unfold`.
    """
    if path is None:
        raise TrainingError('init.kind is model: give the checkpoint or model file to go on from '
                            'with --start')
    if is_unfolded(settings.network.kind, path):
        unfold(network, path, settings.labels)
        return
    source = load_teacher(path, settings.labels, init_path)
    weights = source.state_dict()
    known = network.state_dict()
    state = {name.rpartition('.')[2] for name in known} & (BINARY_STATE | QUANTIZER_STATE)
    for name, value in known.items():
        if name in weights and weights[name].shape == value.shape:
            known[name] = weights[name]
        elif name.rpartition('.')[2] not in state:
            raise TrainingError(f'{path}: weights do not fit the network at {name}')
    network.load_state_dict(known)
    if is_quantized(network) and not is_quantized(source):
        adopt_uniform_input(network)


def trained_network(settings: TrainingSettings, state: Mapping[str, Any], source: Path) -> nn.Module:
    """
    Return the averaged weights of a checkpoint as a network in evaluation mode.

    :raises TrainingError: the checkpoint was made for other labels or another network.
    """
    labels = state['settings'].get('labels', ())
    if list(labels) != list(settings.labels):
        raise TrainingError(f'{source}: was trained for labels {list(labels)}, '
                            f'the configuration has {list(settings.labels)}')
    network = build_network(settings.network, len(settings.labels), settings.binarization,
                            settings.activations).eval()
    try:
        network.load_state_dict(state['average'])
    except RuntimeError as error:
        raise TrainingError(f'{source}: weights do not fit the network') from error
    return network


def average_weights(tuned: nn.Module, initial: nn.Module, share: float) -> nn.Module:
    """
    Mix two networks of one shape: (1 - share) * tuned + share * initial.

    Keeps abilities that tuning wears away, at no cost in running (Wortsman et al., 'Robust
    fine-tuning of zero-shot models', CVPR 2022).
    """
    mixed = copy.deepcopy(tuned)
    with torch.no_grad():
        for parameter, start in zip(mixed.parameters(), initial.parameters()):
            parameter.lerp_(start, share)
    return mixed


def load_teacher(path: Path, labels: tuple[str, ...], init_path: Path | None = None) -> nn.Module:
    """
    Return a teacher as its export holds it, frozen, in evaluation mode.

    :param path: a checkpoint, which says itself which network it is of; or a PicoDet-S model file of this
        package (`.onnx`), such as `models/teacher.onnx`.
    :param labels: the classes that the student learns, which must be the teacher's.
    :param init_path: published initial weights, needed where the teacher's export mixes them in.
    :raises TrainingError: the file is neither, has other labels, or the weights are missing.
    """
    if path.suffix == '.onnx':
        return _exported_teacher(path, labels)
    state = load_checkpoint(path)
    settings = from_mapping(TrainingSettings, state['settings'], f'{path}: settings')
    _same_labels(path, settings.labels, labels)
    network = trained_network(settings, state, path)
    if settings.export.average_with_initial > 0:
        if init_path is None:
            raise TrainingError(f'{path}: this teacher is mixed with its initial weights: give them '
                                'with --init')
        network = average_weights(network, initial_network(settings, init_path),
                                  settings.export.average_with_initial)
    return network.eval().requires_grad_(False)


def _exported_teacher(path: Path, labels: tuple[str, ...]) -> nn.Module:
    spec = OnnxDetector.load(path).spec
    _same_labels(path, spec.labels, labels)
    if spec.decoder.type != 'gfl' or spec.decoder.strides != PICODET_STRIDES:
        raise TrainingError(
            f'{path}: has no head or maps that a loss could compare ({spec.decoder.type}); it teaches by '
            f'labels: run `kd_perception pseudo-label --model {path}` and train on what that writes')
    return load_exported_picodet(path, len(labels)).requires_grad_(False)


def _same_labels(path: Path, taught: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    if taught != wanted:
        raise TrainingError(f'{path}: the teacher knows {list(taught)}, the student is to learn '
                            f'{list(wanted)}')
