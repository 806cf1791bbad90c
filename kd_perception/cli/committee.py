# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`committee`: measure several detectors and what they see together; fit what their scores mean."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
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
from kd_perception.exit_codes import EXIT_OK
from kd_perception.files import write_whole
from kd_perception.labels.kitti_text import KittiObjects, read_label_file
from kd_perception.labels.label_folder import list_frames
from kd_perception.output_folder import cannot_be_written, OutputFolder
from kd_perception.sources.folders import read_image_file

HELP = 'Precision and recall of each member of a committee, and of all together, on labelled images.'
EXAMPLES = """\
  kd_perception committee --committee committee.yaml --input data/kitti_object --out report
                      AP, precision and recall by class and box height: report/committee.json,
                      committee.md
  kd_perception committee --committee raw.yaml --input data/site_labelled --out report --fit
  committee.yaml
                      also writes the committee file anew, with calibrated scores"""
REPORT_NAME, TABLE_NAME = 'committee.json', 'committee.md'
TOGETHER = 'committee'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--committee', required=True, type=Path, help='YAML file that names the members')
    parser.add_argument('--input', required=True, nargs='+', type=Path, metavar='FOLDER',
                        help='labelled sets: images/ and label_2/')
    parser.add_argument('--out', required=True, type=Path,
                        help=f'writes OUT/{REPORT_NAME} and OUT/{TABLE_NAME}')
    parser.add_argument('--neutral', action='append', default=[], metavar='TYPE=CLASS',
                        help='labels of this type are neither missed nor wrongly found as this class '
                             '(KITTI: Van as Car, Person_sitting as Pedestrian); repeat for several')
    parser.add_argument('--fit', type=Path, metavar='FILE',
                        help="fit the members' calibration to these images, and write the committee file "
                             'with it; the report is of the new one, on the same images')
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='threads of each model; default 0: one for each core that the process may use')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    """Measure; 0 when done."""
    try:
        options = ExecutionOptions(threads=args.threads)
    except ValueError as error:
        raise ConfigError(f'--threads: {error}') from error
    with OutputFolder(args.out, 'kd_perception committee', lambda: [
            name for name in (REPORT_NAME, TABLE_NAME) if (args.out / name).exists()]) as out:
        return _measure(args, options, out)


def _measure(args: argparse.Namespace, options: ExecutionOptions, out: OutputFolder) -> int:
    committee = load_committee(args.committee, options)
    neutral = _neutral(args.neutral, committee.labels)
    frames = [frame for folder in args.input for frame in _frames(folder)]
    truths = [_renamed(read_label_file(label, scores=False), neutral) for _, label in frames]
    raw = _found(committee, [image for image, _ in frames], args.quiet)
    if args.fit is not None:
        committee = _fitted(committee, truths, raw)
        mapping = committee_file(committee.settings, args.committee.parent, args.fit.parent)
        _write(args.fit, yaml.safe_dump(mapping, sort_keys=False))
    rows = _rows(committee, truths, raw)
    report = {'members': committee.facts(), 'images': len(frames), 'sets': [str(path) for path in args.input],
              'protocol': 'IoU 0.5; precision and recall at the score of the best F1 over all objects of '
                          '25 px and more',
              'rows': rows}
    table = _table(rows)
    out.make_room(overwrite=True, alone=False)
    _write(out.new(TABLE_NAME), table)
    _write(out.new(REPORT_NAME), json.dumps(report, indent=1) + '\n')
    print(table, end='')
    return EXIT_OK


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
        settings = dataclasses.replace(member.settings, calibration={**member.settings.calibration, **fitted})
        members.append(dataclasses.replace(member, settings=settings))
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


def _found(committee: Committee, images: Sequence[Path], quiet: bool) -> list[list[Detections]]:
    """Return each member's uncalibrated detections in each image."""
    return [committee.find_raw(read_image_file(path)) for path in _progress(images, quiet)]


def _progress(items: Sequence, quiet: bool) -> Iterable:
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc='detect', unit='image', disable=quiet or None)


def _frames(folder: Path) -> list[tuple[Path, Path]]:
    """Return image and label file of each labelled frame of a set."""
    if not (folder / 'images').is_dir() or not (folder / 'label_2').is_dir():
        raise ConfigError(f'{folder}: expected a set with images/ and label_2/')
    images = {path.stem: path for path in sorted((folder / 'images').iterdir())
              if path.suffix.lower() in ('.png', '.jpg', '.jpeg')}
    labels = list_frames(folder / 'label_2')
    both = [(images[name], path) for name, path in labels.items() if name in images]
    if not both:
        raise ConfigError(f'{folder}: no label file has an image')
    return both


def _neutral(texts: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return label type -> the type that the matching knows as neutral for the named class."""
    known = {'Car': 'Van', 'Pedestrian': 'Person_sitting'}
    result = {}
    for text in texts:
        kind, _, label = text.partition('=')
        if not kind or label not in labels or label not in known:
            raise ConfigError(f'--neutral {text}: expected TYPE=CLASS with a class of {", ".join(known)}')
        result[kind] = known[label]
    return result


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
