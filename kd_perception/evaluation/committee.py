# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A committee on labelled images: what each member and all together find, and what their scores mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import yaml

from kd_perception.boxes.detections import Detections
from kd_perception.config import changed_from_defaults
from kd_perception.detection.committee import Committee, CommitteeSettings, load_committee
from kd_perception.detection.onnx_detector import ExecutionOptions
from kd_perception.errors import ConfigError
from kd_perception.evaluation.metrics.committee_report import fit_calibration, match_heights, report_rows
from kd_perception.files import write_whole
from kd_perception.labels.image_sets import list_labelled_images
from kd_perception.labels.kitti_text import KittiObjects, read_label_file
from kd_perception.output_folder import cannot_be_written, check_file_place, OutputFolder
from kd_perception.progress import progress
from kd_perception.sources.folders import read_image_file

REPORT_NAME, TABLE_NAME = 'committee.json', 'committee.md'
TOGETHER = 'committee'
# Label types that the matching takes as neither missed nor wrongly found, by the class they resemble.
NEUTRAL = {'Car': 'Van', 'Pedestrian': 'Person_sitting'}


def evaluate_committee(path: Path, sets: Sequence[Path], out: Path, neutral: Mapping[str, str],
                       options: ExecutionOptions, fit: Path | None = None, quiet: bool = False) -> str:
    """
    Measure, and write report and table.

    :param path: of the committee file. :param sets: folders with images/ and label_2/.
    :param neutral: label type -> class of `NEUTRAL` that it is neutral for.
    :param fit: also fit the members' calibration, and write the committee file with it here.
    :return: the table.
    """
    if fit is not None:
        check_file_place(fit)
    with OutputFolder(out, 'kd_perception committee', lambda: [
            name for name in (REPORT_NAME, TABLE_NAME) if (out / name).exists()]) as folder:
        committee = load_committee(path, options)
        frames = [frame for item in sets for frame in list_labelled_images(item)]
        types = _neutral_types(neutral, committee.labels)
        truths = [_renamed(read_label_file(label, scores=False), types) for _, label in frames]
        raw = [committee.find_raw(read_image_file(image)) for image, _ in progress(
            frames, unit='image', description='detect', quiet=quiet)]
        if fit is not None:
            committee = _fitted(committee, truths, raw)
            mapping = committee_file(committee.settings, path.parent, fit.parent)
            fit.parent.mkdir(parents=True, exist_ok=True)
            _write(fit, yaml.safe_dump(mapping, sort_keys=False))
        rows = _rows(committee, truths, raw)
        report = {'members': committee.facts(), 'images': len(frames), 'sets': [str(item) for item in sets],
                  'protocol': 'IoU 0.5; precision and recall at the score of the best F1 over all objects of '
                              '25 px and more',
                  'rows': rows}
        table = _table(rows)
        folder.make_room(overwrite=True, alone=False)
        _write(folder.new(TABLE_NAME), table)
        _write(folder.new(REPORT_NAME), json.dumps(report, indent=1) + '\n')
    return table


def _rows(committee: Committee, truths: Sequence[KittiObjects], raw: Sequence[Sequence[Detections]]
          ) -> list[dict]:
    """Return the report's rows: of the committee first, then of each member."""
    own = [committee.calibrated(found) for found in raw]
    views = {TOGETHER: [committee.fuse(found).detections for found in own]}
    knows = {TOGETHER: dict.fromkeys(committee.labels, True)}
    for number, member in enumerate(committee.members):
        views[member.settings.name] = [found[number] for found in own]
        knows[member.settings.name] = dict(zip(committee.labels, map(bool, member.knows)))
    return [row for name, found in views.items()
            for row in report_rows(name, match_heights(truths, found, committee.labels), knows[name])]


def _fitted(committee: Committee, truths: Sequence[KittiObjects], raw: Sequence[Sequence[Detections]]
            ) -> Committee:
    """Return the committee with calibrations fitted to raw detections, where there are enough to fit."""
    members = []
    for number, member in enumerate(committee.members):
        matches = match_heights(truths, [found[number] for found in raw], committee.labels,
                                ((15.0, float('inf')),))
        fitted = {label: values for label, (found,) in matches.items()
                  if (values := fit_calibration(found)) is not None}
        members.append(dataclasses.replace(member, settings=dataclasses.replace(
            member.settings, calibration={**member.settings.calibration, **fitted})))
    settings = dataclasses.replace(committee.settings, members=tuple(member.settings for member in members))
    return Committee(settings, members)


def committee_file(settings: CommitteeSettings, source: Path, target: Path) -> dict[str, Any]:
    """
    Return what a committee file holds, as plain values.

    :param source: the folder that paths of models are relative to; `target`: the folder of the new file.
    """
    mapping = changed_from_defaults(settings)
    for entry, member in zip(mapping['members'], settings.members):
        if member.classes:
            entry['classes'] = dict(member.classes)     # YAML tells 0 from '0'
        if not Path(member.model).is_absolute() and (source / member.model).is_file():
            entry['model'] = os.path.relpath(source / member.model, target)
    return mapping


def _neutral_types(neutral: Mapping[str, str], labels: Sequence[str]) -> dict[str, str]:
    """Return label type -> the type that the matching knows as neutral for the named class."""
    for kind, label in neutral.items():
        if not kind or label not in labels or label not in NEUTRAL:
            raise ConfigError(f'--neutral {kind}={label}: expected TYPE=CLASS with a class of '
                              f'{", ".join(NEUTRAL)}')
    return {kind: NEUTRAL[label] for kind, label in neutral.items()}


def _renamed(objects: KittiObjects, neutral: dict[str, str]) -> KittiObjects:
    return dataclasses.replace(objects, types=tuple(neutral.get(kind, kind) for kind in objects.types))


def _table(rows: Sequence[dict]) -> str:
    lines = ['| detector | class | height, px | objects | AP | score | precision | recall |',
             '|---|---|---|---|---|---|---|---|']
    for row in rows:
        low, high = row['height_px']
        height = f'{low:g} and more' if high is None else f'{low:g} to {high:g}'
        figures = ['-' if row[key] is None else f'{row[key]:.3f}'
                   for key in ('ap50', 'score', 'precision', 'recall')]
        cells = [row['detector'], row['label'], height, str(row['objects']), *figures]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise cannot_be_written(path, error) from error
