# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a training run starts from: data folder, networks, the pretrained network's view of the images."""

from __future__ import annotations

from collections.abc import Callable
import copy
from pathlib import Path

import torch
from torch import nn

from kd_perception.boxes.detections import Detections
from kd_perception.errors import TrainingError
from kd_perception.training.binary.binarization import BinarizationSchedule
from kd_perception.training.data.datasets import LabelledImage
from kd_perception.training.data.pretrained import PretrainedView
from kd_perception.training.data.rendered import render_dataset
from kd_perception.training.loop.weights import initial_network
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.networks.picodet_onnx import load_picodet
from kd_perception.training.settings.run import TrainingSettings

VIEW_NAME = 'pretrained_view.json'


def data_folder(settings: TrainingSettings, data_root: Path | None, run_folder: Path, render: bool = True
                ) -> Path:
    """
    Return the folder of the data sets, rendering them first where the configuration says so.

    :param render: False where another process has rendered them.
    :raises TrainingError: there is no such folder.
    """
    if settings.rendered:
        folder = run_folder / 'rendered'
        for number, dataset in enumerate(settings.datasets if render else ()):
            render_dataset(folder / dataset.folder, settings.rendered, settings.seed + number)
        return folder
    if data_root is None or not data_root.is_dir():
        raise TrainingError(f'{data_root or "data root"}: no such folder of data sets; give it with --data')
    return data_root


def starting_networks(settings: TrainingSettings, init_path: Path | None, start_path: Path | None
                      ) -> tuple[nn.Module, PicoDet | None, nn.Module | None]:
    """
    Return the network to train, the 80-class network and, where it teaches itself, its frozen copy.

    The last two are None where the configuration needs none.

    :raises TrainingError: published weights are needed and not given.
    """
    network = initial_network(settings, init_path, start_path)
    pretrained = reference = None
    # Sets whose labels are not the whole truth need the published network's view of them.
    if settings.init.kind == 'picodet_onnx' or any(d.verify or not d.complete for d in settings.datasets):
        if init_path is None:
            raise TrainingError('labels are to be completed or verified: give the published weights '
                                'with --init')
        pretrained = load_picodet(init_path).requires_grad_(False)
    if settings.init.kind != 'random' and settings.loss.distil > 0:
        reference = copy.deepcopy(network).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        if settings.binarization is not None:  # as the run's first step finds the network
            BinarizationSchedule(reference, settings.binarization, settings.steps).before_step(0)
    return network, pretrained, reference


def pretrained_view(settings: TrainingSettings, pretrained: PicoDet | None,
                    groups: list[list[LabelledImage]], folder: Path) -> Callable[[LabelledImage], Detections]:
    """Return what gives the 80-class network's detections of a training image; its cache is in `folder`."""
    if pretrained is None:
        return lambda image: Detections.empty()
    view = PretrainedView(pretrained, folder / VIEW_NAME, settings.pseudo_labels.scale)
    view.prepare([image for group in groups for image in group])
    return view
