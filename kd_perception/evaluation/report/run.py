# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate` as a function: labels and detections, or a model that makes them, become a report's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import resource
import time
from typing import Any

import numpy as np

from kd_perception.evaluation.conditions import automatic_tags, condition_masks, load_frame_info, scene_groups
from kd_perception.evaluation.frame_set import FrameSet, read_frame_set
from kd_perception.evaluation.metrics.class_account import account_of_renames
from kd_perception.evaluation.report.content import evaluate_frames, Evaluation, EvaluationOptions
from kd_perception.evaluation.report.folder import REPORT_HTML, REPORT_JSON, write_report
from kd_perception.output_folder import OutputFolder
from kd_perception.processes.cores import thread_count
from kd_perception.processes.workers import worker_pool


@dataclasses.dataclass(frozen=True)
class Inputs:
    """
    What to evaluate.

    :param labels: folder of KITTI label files, or topic of the bags; `detections` likewise.
    :param images: folder. :param bags: recordings. :param model: makes the detections; a path or a name.
    :param camera: of the bags. :param recorded: recording that holds the topic of detections.
    :param jobs: worker processes where there are several bags; 0: one for each core.
    :param renamed: classes of the detections that go by another name in the labels.
    :param frame_info: file of conditions and scene groups.
    """

    labels: str
    detections: str | None = None
    images: str | None = None
    bags: Sequence[str] = ()
    model: str | None = None
    camera: str | None = None
    recorded: str | None = None
    jobs: int = 1
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    frame_info: str | None = None


@dataclasses.dataclass(frozen=True)
class Page:
    """The page of a report; `gallery`: pictures of misses and of false alarms for each class."""

    title: str = 'Evaluation'
    gallery: int = 8


def evaluate(inputs: Inputs, options: EvaluationOptions, folder: OutputFolder, page: Page | None,
             command: Sequence[str], own_threshold: bool = True) -> dict[str, Any]:
    """
    Evaluate, and write report.json and report.html.

    :param folder: that of `report_folder`, entered. :param page: None: report.json alone.
    :param command: as typed, for the report.
    :param own_threshold: the model's working threshold takes the place of that of the options.
    :return: the content of report.json.
    """
    started = time.monotonic()
    frames = _frame_set(inputs)
    if inputs.renamed:
        frames.warnings += account_of_renames(frames.detections, inputs.renamed)
        frames.detections = frames.detections.renamed(dict(inputs.renamed))
    if own_threshold and 'score_threshold' in frames.model:
        options = dataclasses.replace(options, score_threshold=frames.model['score_threshold'])
    info = load_frame_info(inputs.frame_info) if inputs.frame_info else None
    conditions = _automatic_conditions(frames)
    groups = None
    if info:
        names = frames.labels.frames
        conditions.update(condition_masks(info, names, frames.stamps_ns, frames.bags))
        groups = scene_groups(info, names)
    evaluation = evaluate_frames(frames, options, conditions, groups, list(command))
    evaluation.report['runtime'] = _runtime(started)
    write_report(folder, _files(page, frames, options, evaluation))
    return evaluation.report


def _runtime(started: float) -> dict[str, float]:
    """Return what the figures cost, workers included: wall and processor time [s], peak memory [MiB]."""
    own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
    return {'wall_s': round(time.monotonic() - started, 3), 'cpu_s': round(cpu_s, 3),
            'peak_memory_mib': round(max(own.ru_maxrss, workers.ru_maxrss) / 1024, 1)}  # Linux counts in KiB


def _frame_set(inputs: Inputs) -> FrameSet:
    sources = inputs.bags or ([inputs.images] if inputs.model and inputs.images else [])
    if not sources:
        return read_frame_set(inputs.labels, inputs.detections or '', inputs.images)
    # Imported here: finished text files are evaluated without OpenCV, onnxruntime and rosbags.
    from kd_perception.evaluation.replay import replay_frame_set, ReplayJob
    from kd_perception.models.manifest import pinned_sha256, resolve_model
    from kd_perception.resources import models_folder
    model = str(resolve_model(inputs.model, models_folder())) if inputs.model else ''
    sha256 = pinned_sha256(model) if model else None
    jobs = [ReplayJob(str(source), inputs.labels, model, sha256, inputs.detections or '', inputs.camera,
                      inputs.recorded or '')
            for source in sources]
    workers = min(thread_count(inputs.jobs), len(jobs))
    if workers == 1:
        return replay_frame_set(jobs)
    with worker_pool(workers) as spread:
        return replay_frame_set(jobs, spread)


def _automatic_conditions(frames: FrameSet) -> dict[str, Any]:
    """Return tags by luminance and sharpness where there are images; note the images' sizes, too."""
    if frames.signals is None:
        if frames.images is None:
            return {}
        from kd_perception.images.scene import measure_scene
        count = len(frames.labels.frames)
        found, sizes = {}, {}
        for index, image in frames.images(range(count)):
            found[index], sizes[index] = measure_scene(image), image.shape[:2]
        frames.signals = [found.get(index) for index in range(count)]
        if len(sizes) == count:
            frames.image_hw = np.array([sizes[index] for index in range(count)])
    return automatic_tags(frames.signals)


def _files(page: Page | None, frames: FrameSet, options: EvaluationOptions, evaluation: Evaluation
           ) -> dict[str, str]:
    """Return the report's files by name."""
    files = {}
    if page is not None:
        from kd_perception.evaluation.report.page import render
        gallery = {}
        if page.gallery and frames.images:
            from kd_perception.evaluation.report.gallery import make_gallery
            gallery = make_gallery(frames, evaluation.evaluator, options.classes, evaluation.points,
                                   page.gallery)
        files[REPORT_HTML] = render(evaluation.report, gallery, page.title)
    files[REPORT_JSON] = json.dumps(evaluation.report, indent=1, allow_nan=False) + '\n'
    return files
