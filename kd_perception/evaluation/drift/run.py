# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate drift` as a function: false alarms and delays of the monitors on given images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from kd_perception.drift.fallback_drift import AuditedRates
from kd_perception.drift.monitor import DriftSettings
from kd_perception.drift.reference import build_reference, DriftReference
from kd_perception.errors import ConfigError
from kd_perception.evaluation.drift.corruptions import CORRUPTIONS
from kd_perception.evaluation.drift.frames import count_images, Images, measure_images, MeasuredFrames
from kd_perception.evaluation.drift.replay import delays, false_alarms, ReplaySettings
from kd_perception.evaluation.drift.report import draw, markdown
from kd_perception.evaluation.hybrid.plots import png
from kd_perception.evaluation.report.folder import REPORT_JSON
from kd_perception.progress import progress


@dataclasses.dataclass(frozen=True)
class Sets:
    """
    Images by what they are for.

    :param reference: to compute a reference of; empty: the model's file holds it.
    :param unchanged: nothing has changed in them. :param changed: something has; by name.
    :param corruptions: names of artificial changes of the unchanged ones.
    """

    reference: Sequence[Images]
    unchanged: Sequence[Images]
    changed: Mapping[str, Sequence[Images]]
    corruptions: Sequence[str]


@dataclasses.dataclass(frozen=True)
class DriftOptions:
    """
    How to evaluate.

    :param scene_frames: of a reference that is computed; `rate_hz` likewise.
    :param stream_scene_frames: also count false alarms on streams of scenes of these lengths.
    :param scorer: as of fallback_node.
    """

    settings: DriftSettings
    replay: ReplaySettings
    scene_frames: int
    rate_hz: float
    stream_scene_frames: Sequence[int] = ()
    scorer: str = 'signals'


def evaluate_drift(sets: Sets, detector: Any, teacher: Any, options: DriftOptions, quiet: bool = False
                   ) -> dict[str, Any]:
    """
    Run the model over the images once, and the monitors over streams of what was measured.

    :param teacher: asked for disagreement and audited rates; None: there is none.
    :return: the content of report.json, but for the command.
    :raises ConfigError: there is no reference.
    """
    every = [*sets.reference, *sets.unchanged, *(item for group in sets.changed.values() for item in group),
             *(len(sets.corruptions) * list(sets.unchanged))]
    with progress(total=count_images(every), unit='frame', description='frames', quiet=quiet) as bar:
        reference = _reference(sets.reference, detector, teacher, options, bar.update)
        unchanged = measure_images(sets.unchanged, detector, teacher, tick=bar.update)
        conditions = {name: measure_images(item, detector, teacher, tick=bar.update)
                      for name, item in sets.changed.items()}
        conditions.update({name: measure_images(sets.unchanged, detector, teacher, CORRUPTIONS[name],
                                                bar.update) for name in sets.corruptions})
    return {
        'models': {name: f'{model.spec.name}, sha256 {model.sha256}'
                   for name, model in (('model', detector), ('teacher', teacher)) if model},
        'sets': {'unchanged': unchanged.sets, **{name: item.sets for name, item in conditions.items()}},
        **_replayed(reference, unchanged, conditions, options, teacher is not None, quiet),
        'warnings': [line for item in (unchanged, *conditions.values()) for line in item.problems]}


def report_files(report: dict[str, Any]) -> dict[str, str | bytes]:
    """Return the files of a report by name, report.json last."""
    files = {'delays.png': png(draw, report)} if report['conditions'] else {}
    return {**files, 'report.md': markdown(report),
            REPORT_JSON: json.dumps(report, indent=1, allow_nan=False) + '\n'}


def _reference(sets: Sequence[Images], detector: Any, teacher: Any, options: DriftOptions, tick: Any
               ) -> DriftReference:
    if not sets:
        reference = DriftReference.of_model(detector.spec, str(detector.path))
        if reference is None:
            raise ConfigError(f'{detector.path}: holds no reference statistics; give --reference')
        return reference
    measured = measure_images(sets, detector, teacher, tick=tick)
    return build_reference(measured.values, measured.drives, options.scene_frames, options.rate_hz,
                           measured.disagreements if teacher else (), {'sets': measured.sets})


def _replayed(reference: DriftReference, unchanged: MeasuredFrames, conditions: Mapping[str, MeasuredFrames],
              options: DriftOptions, audited: bool, quiet: bool) -> dict[str, Any]:
    settings, replay = options.settings, options.replay
    lengths = [reference.scene_frames, *options.stream_scene_frames]
    total = len(lengths) * round(replay.hours * 3600 * reference.rate_hz)
    with progress(total=total, unit='it', description='streams', quiet=quiet) as bar:
        alarms = [{'scene_frames': length, **false_alarms(
            unchanged, reference, settings, dataclasses.replace(replay, scene_frames=length), options.scorer,
            bar.update)} for length in lengths]
    with progress(total=len(conditions) * replay.runs, unit='it', description='streams', quiet=quiet) as bar:
        found = {name: delays(unchanged, frames, reference, settings, replay, options.scorer, bar.update)
                 for name, frames in conditions.items()}
    rates = {}
    for name, frames in (('unchanged', unchanged), *conditions.items()) if audited else ():
        counted = AuditedRates()
        for item in frames.audits:
            counted.add(item)
        rates[name] = dict(counted.values())
    return {
        'reference': {key: getattr(reference, key)
                      for key in ('frames', 'scenes', 'scene_frames', 'rate_hz', 'made')},
        'settings': {**dataclasses.asdict(settings), **dataclasses.asdict(replay), 'scorer': options.scorer},
        'false_alarms': alarms, 'conditions': found, 'rates': rates}
