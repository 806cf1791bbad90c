# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Gather what an exported model is made of: weights, thresholds, measurements and provenance."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from torch import nn

from kd_perception.config import changed_from_defaults
from kd_perception.detection.model_spec import ModelSpec, ThresholdSpec
from kd_perception.training.binarization import activate_all
from kd_perception.training.datasets import load_dataset
from kd_perception.training.half_scales import fit_half_scales
from kd_perception.training.measure import measure
from kd_perception.training.models.picodet_onnx import load_picodet, PICODET_S_416_SHA256
from kd_perception.training.run_inputs import data_folder
from kd_perception.training.settings import TrainingSettings
from kd_perception.training.torch_detector import detection_spec
from kd_perception.training.trainer import validate
from kd_perception.training.validation import best_threshold, report
from kd_perception.training.weights import (
    average_weights, initial_network, load_checkpoint, trained_network)

_DEFAULT_SCORE = 0.4


def assemble(settings: TrainingSettings, checkpoint: Path | None, init_path: Path | None,
             data_root: Path | None, run_folder: Path, measured: bool,
             config_name: str) -> tuple[nn.Module, ModelSpec]:
    """
    Build the network to export and its specification.

    :param checkpoint: of a training run; None exports the initial weights.
    :param measured: choose the working threshold on the development set (unless configured) and
        measure on the evaluation sets; reads the data.
    :raises TrainingError: a part is missing or does not fit the configuration.
    """
    state = None if checkpoint is None else load_checkpoint(checkpoint)
    if state is None:
        network = initial_network(settings, init_path)
        activate_all(network)  # the schedule of a run that never was has not come to its end
    else:
        network = trained_network(settings, state, checkpoint)
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


def _provenance(settings: TrainingSettings, config_name: str, state: dict[str, Any] | None,
                checkpoint: Path | None, counts: dict[str, int]) -> dict[str, Any]:
    import onnx
    import torch
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
        'average_with_initial': settings.export.average_with_initial,
        'commands': [f'python -m kd_perception train --config config/training/{config_name} --data DATA '
                     '--init INIT' + ' --teacher TEACHER' * (settings.distillation is not None)
                     + ' --start START' * (settings.init.kind == 'model'),
                     f'python -m kd_perception export --config config/training/{config_name} '
                     '--checkpoint runs/.../last.pt --data DATA --init INIT --out OUT']}
    if state is not None and checkpoint is not None:
        document['steps'] = int(state['step'])
        document['checkpoint_sha256'] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return document
