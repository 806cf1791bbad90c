# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Gather what an exported model is made of: weights, thresholds, measurements and provenance."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from kd_perception.config import changed_from_defaults
from kd_perception.detection.letterbox import Letterbox
from kd_perception.evaluation.metrics.detector_matches import best_threshold, report
from kd_perception.models.spec import ModelSpec, ThresholdSpec
from kd_perception.training.binary.activations import (
    adopt_uniform_input,
    calibrate_activations,
    INPUT_ZERO,
    without_rounding,
)
from kd_perception.training.binary.binarization import activate_all
from kd_perception.training.data.datasets import load_dataset
from kd_perception.training.export.half_scales import fit_half_scales
from kd_perception.training.export.unfold import rendered_images
from kd_perception.training.loop.network_builder import build_network
from kd_perception.training.loop.run_inputs import data_folder
from kd_perception.training.loop.validation import validate
from kd_perception.training.loop.weights import (
    average_weights,
    initial_network,
    load_checkpoint,
    trained_network,
)
from kd_perception.training.measure import measure
from kd_perception.training.networks.picodet_onnx import load_picodet, PICODET_S_416_SHA256
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.networks.torch_detector import detection_spec
from kd_perception.training.settings.run import TrainingSettings

_DEFAULT_SCORE = 0.4


def assemble(settings: TrainingSettings, checkpoint: Path | None, init_path: Path | None,
             data_root: Path | None, run_folder: Path, measured: bool,
             config_name: str, calibration_images: int = 0, float_activations: bool = False
             ) -> tuple[nn.Module, ModelSpec]:
    """
    Build the network to export and its specification.

    :param checkpoint: of a training run; None exports the initial weights.
    :param measured: choose the working threshold on the development set (unless configured) and
        measure on the evaluation sets; reads the data.
    :param calibration_images: the checkpoint is of a network without integer activations: calibrate these on
        so many training images.
    :param float_activations: return the network with rounding switched off.
    :raises TrainingError: a part is missing or does not fit the configuration.
    """
    state = None if checkpoint is None else load_checkpoint(checkpoint)
    if state is None:
        network = initial_network(settings, init_path)
        activate_all(network)  # the schedule of a run that never was has not come to its end
        if settings.activations is not None:
            calibrate_activations(network, [rendered_images(4)])
    elif calibration_images:
        network = calibrated_network(settings, state, checkpoint, calibration_images,
                                     data_folder(settings, data_root, run_folder))
    else:
        network = trained_network(settings, state, checkpoint)
    if float_activations:
        network = without_rounding(network)
    share = settings.export.average_with_initial
    if state is not None and share > 0:
        network = average_weights(network, initial_network(settings, init_path), share)
    if settings.export.scale_bits == 16:
        fit_half_scales(network)
    documents: dict[str, Any] = {}
    score = settings.export.score or _DEFAULT_SCORE
    counts: dict[str, int] = {}
    if measured:
        root = data_folder(settings, data_root, run_folder)
        groups = [load_dataset(root, dataset) for dataset in settings.datasets]
        counts = {d.folder: len(images) for d, (images, _) in zip(settings.datasets, groups)}
        development = [image for _, held in groups for image in held]
        found = validate(network, settings, development)
        best, f1 = best_threshold(found.values())
        if settings.export.score is None and math.isfinite(best):
            score = round(max(best, settings.export.score_low), 2)
        published = load_picodet(init_path) if settings.init.kind == 'picodet_onnx' and init_path else None
        held_out: dict[str, Any] = {'images': len(development), 'model': report(found)}
        if math.isfinite(best):
            held_out.update(best_f1=round(f1, 4), best_f1_score=round(best, 4))
        documents['metrics'] = {**measure(settings, root, network, published), 'development': held_out}
    documents['provenance'] = _provenance(settings, config_name, state, checkpoint, counts)
    export = settings.export
    thresholds = ThresholdSpec(score, export.score_low, export.nms_iou, export.max_detections)
    return network, detection_spec(export.name, settings.labels, settings.input_hw, network, thresholds,
                                   licence=export.licence, documents=documents)


def calibrated_network(settings: TrainingSettings, state: dict[str, Any], checkpoint: Path, count: int,
                       root: Path) -> nn.Module:
    """
    Give integer activations to a network that was trained without, by calibration alone.

    :param count: training images, taken evenly from all sets, whole and at the input's size.
    :raises TrainingError: there is no image, or the checkpoint does not fit.
    """
    plain = trained_network(dataclasses.replace(settings, activations=None), state, checkpoint)
    network = build_network(settings.network, len(settings.labels), settings.binarization,
                            settings.activations)
    network.load_state_dict({**network.state_dict(), **plain.state_dict()})
    adopt_uniform_input(network)
    images = [image for dataset in settings.datasets for image in load_dataset(root, dataset)[0]]
    chosen = images[::max(1, len(images) // count)][:count]
    camera = FromCamera(network)

    def batches() -> Iterator[torch.Tensor]:
        for image in tqdm(chosen, desc='calibrate', unit='image'):
            pixels = image.read()
            boxed = Letterbox.fit(pixels.shape[:2], settings.input_hw).apply(pixels, INPUT_ZERO)
            yield camera.normalise(torch.from_numpy(boxed[None]))

    calibrate_activations(network, batches())
    return network.eval()


def _provenance(settings: TrainingSettings, config_name: str, state: dict[str, Any] | None,
                checkpoint: Path | None, counts: dict[str, int]) -> dict[str, Any]:
    import onnx
    initial = {'kind': settings.init.kind}
    if settings.init.kind == 'picodet_onnx':
        initial.update(name='PicoDet-S 416, COCO, PaddleDetection', licence='Apache-2.0',
                       sha256=PICODET_S_416_SHA256, class_rows=list(settings.init.class_rows))
    chosen = changed_from_defaults(settings)
    for entry in chosen['datasets']:
        entry.pop('licence', None)  # stands below
    document: dict[str, Any] = {
        'config': config_name, 'settings': chosen, 'seed': settings.seed,
        'initial_weights': initial,
        'software': {'torch': torch.__version__, 'onnx': onnx.__version__},
        'datasets': [{'folder': d.folder, 'split': d.split, 'licence': d.licence,
                      'training_images': counts.get(d.folder)} for d in settings.datasets],
        'commands': [f'python -m kd_perception train --config config/training/{config_name} --data DATA '
                     '--init INIT' + ' --teacher TEACHER' * (settings.distillation is not None)
                     + ' --start START' * (settings.init.kind == 'model'),
                     f'python -m kd_perception export --config config/training/{config_name} '
                     '--checkpoint runs/.../last.pt --data DATA --init INIT --out OUT']}
    if state is not None and checkpoint is not None:
        document['steps'] = int(state['step'])
        document['checkpoint_sha256'] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return document
