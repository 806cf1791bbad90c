# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The findings of `poc` as one document: gathered from the steps' reports, with pictures for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kd_perception.detection.drawing import contact_sheet, draw_detections
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import EvaluationError
from kd_perception.evaluation.hybrid.gates import DEFAULT, LEARNED
from kd_perception.evaluation.report.compare import compare, load_report
from kd_perception.files import write_whole
from kd_perception.labels.label_check import FolderCheck
from kd_perception.poc import site_gaps
from kd_perception.poc.camera_cost import CameraPlan, cost_table, least_share
from kd_perception.poc.page import render
from kd_perception.poc.site_split import SiteSplit
from kd_perception.review.page import picture_uri
from kd_perception.sources.folders import images_in, read_image_file

SCHEMA, SCHEMA_VERSION = 'kd_perception.poc', 1
LEVEL = 'moderate'
_PICTURES, _TILE_PX = 4, 460
_LABEL_BGR = (255, 255, 255)
_MAX_JSON_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Findings:
    """
    What the page is made of.

    :param folders: {'before' | 'teacher' | 'after' | 'old_before' | 'old_after': folder of its report}.
    :param signals: `SceneSignals` of the usable frames. :param train_objects: {class: objects trained on}.
    :param footprint: {'student' | 'teacher': what `poc.footprint` prints}.
    :param state: of `poc_steps.Steps`. :param models: files of 'before', 'after' (if adapted) and 'teacher'.
    """

    out: Path
    folders: Mapping[str, Path]
    split: SiteSplit
    check: FolderCheck
    signals: Sequence[Any]
    train_objects: Mapping[str, int]
    footprint: Mapping[str, Mapping[str, float]]
    plan: CameraPlan
    title: str
    command: Sequence[str]
    state: Mapping[str, Any]
    models: Mapping[str, Path]


def write_page(found: Findings, page: Path, document: Path) -> None:
    """
    Write the JSON document and the page, and print what they say first.

    :raises EvaluationError: they cannot be written, or a step's report is damaged.
    """
    reports = {name: load_report(folder / 'report.json') for name, folder in found.folders.items()}
    low = {name: load_report(folder.parent / f'{folder.name}_iou50' / 'report.json')
           for name, folder in found.folders.items()}
    hybrid = _load(found.out / 'hybrid' / 'report.json')
    content = build(found, reports, low, hybrid, _load(found.out / 'benchmark' / 'models_benchmark.json'))
    try:
        write_whole(document, json.dumps(content, indent=1, allow_nan=False) + '\n')
        write_whole(page, render(content, hybrid, _pictures(found)))
    except OSError as error:
        raise EvaluationError(f'{page}: cannot be written ({error.strerror or error})') from None
    for line in content['summary']:
        print(line)
    print(f'wrote {page}')


def build(found: Findings, reports: Mapping[str, Any], low: Mapping[str, Any], hybrid: Mapping[str, Any],
          benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document (docs/how-to/poc.md): plain values only."""
    last = 'after' if 'after' in reports else 'before'
    classes = list(reports['before']['results'])
    ground = {name: report for name, report in reports.items() if not name.startswith('old_')}
    old = {name[len('old_'):]: report for name, report in reports.items() if name not in ground}
    accuracy = {key: {name: compared({run: group[run] for run in ground}, name)
                      for name in classes} for key, group in (('kitti', reports), ('iou50', low))}
    conditions = {tag: {'frames': entry['frames'], 'classes': {name: compared(
        {run: report['conditions'].get(tag, {}) for run, report in ground.items()}, name)
        for name in classes}} for tag, entry in reports['before']['conditions'].items()}
    speed = dict(zip(('teacher', 'student'), benchmark['threads']['1']))
    metric = next(iter(hybrid['metrics'].values()))
    gate = LEARNED if LEARNED in metric['gates'] else DEFAULT
    shares = metric['shares']
    cost = cost_table(found.plan, found.footprint['student']['cpu_ms'], found.footprint['teacher']['cpu_ms'],
                      shares)
    for row, index in zip(cost, range(len(shares))):
        row['ap'] = metric['gates'][gate]['ap'][index]
    gaps = [*site_gaps.label_gaps(found.check),
            *site_gaps.data_gaps(found.split, found.train_objects, reports['before'], found.signals),
            *(site_gaps.gain_gaps(reports['before'], reports['after'], len(found.split.held_out), LEVEL)
              if 'after' in reports else ()),
            *site_gaps.teacher_gaps(hybrid, bool(old)),
            *(site_gaps.loss_gaps(old, LEVEL) if len(old) > 1 else ()),
            *site_gaps.machine_gaps(benchmark['machine'])]
    content = {
        'schema': SCHEMA, 'schema_version': SCHEMA_VERSION, 'title': found.title, 'level': LEVEL,
        'frames': {'images': found.check.images, 'label_files': found.check.label_files,
                   'usable': len(found.check.usable), 'train': len(found.split.train),
                   'held_out': len(found.split.held_out), 'left_out': len(found.split.left_out),
                   'sequences': found.split.sequences, 'block_frames': found.split.block_frames,
                   'held_out_blocks': found.split.held_out_blocks},
        'objects': {'train': dict(found.train_objects), 'all': dict(found.check.objects)},
        'conditions_covered': site_gaps.condition_counts(found.signals),
        'accuracy': accuracy, 'conditions': conditions,
        'old_ground': {name: compared(old, name) for name in classes} if old else None,
        'found': {run: {name: low[run]['operating_points'][name] for name in classes}
                  for run in ('before', 'after', 'teacher') if run in low},
        'hybrid': {'metric': metric['text'], 'mean_over': metric['mean_over'], 'gate': gate,
                   'student_ap': metric['student_ap'], 'teacher_ap': metric['teacher_ap'],
                   'least_share_for_half': least_share(metric, gate)},
        'speed_ms': speed, 'machine': benchmark['machine'], 'image_hw': benchmark['image_hw'],
        'footprint': {role: dict(entry) for role, entry in found.footprint.items()},
        'cost': {'cameras': found.plan.cameras, 'rate_hz': found.plan.rate_hz, 'rows': cost},
        'gaps': [dataclasses.asdict(gap) for gap in gaps],
        'training': _training(found), 'adapted': last == 'after',
        'command': list(found.command),
        'commands': {name: {'command': step['command'], 'took_s': step['took_s']}
                     for name, step in found.state['steps'].items()},
        'models': {name: report['model'] for name, report in ground.items()},
        'versions': reports['before']['versions']}
    content['summary'] = _summary(content)
    return content


def compared(reports: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """
    Return a class's AP before, after and of the teacher, with counts, intervals and the change.

    :param reports: of 'before', 'after' and 'teacher', or the parts of them that one condition has.
    """
    def entry(run: str) -> dict[str, Any] | None:
        item = reports.get(run, {}).get('results', {}).get(name, {}).get(LEVEL)
        return None if item is None else {key: item[key] for key in (
            'ap_r40', 'ci95', 'valid_ground_truths', 'few_ground_truths')}

    found: dict[str, Any] = {run: entry(run) for run in ('before', 'after', 'teacher')}
    found['change'] = None
    if found['before'] and found['after']:
        (delta,) = compare(reports['before'], reports['after'], [f'results.{name}.{LEVEL}.ap_r40'])
        # Resamples of next to no objects are next to one figure: their interval says nothing.
        few = found['before']['few_ground_truths']
        found['change'] = {'difference': delta.difference, 'interval': list(delta.interval or ()) or None,
                           'beyond_chance': delta.beyond_chance and not few}
    return found


def _training(found: Findings) -> dict[str, Any] | None:
    config = found.out / 'adapt.yaml'
    step = found.state['steps'].get('train')
    if step is None or not config.is_file():
        return None
    from kd_perception.config import load_yaml
    settings = load_yaml(config)
    return {'steps': settings['steps'], 'batch': settings['batch'], 'took_s': step['took_s'],
            'images': len(found.split.train)}


def _summary(content: Mapping[str, Any]) -> list[str]:
    """Return what to tell somebody who reads nothing else."""
    lines = []
    frames, held = content['frames'], content['frames']['held_out']
    for name, item in content['accuracy']['kitti'].items():
        before, change = item['before'], item['change']
        if not before['valid_ground_truths']:
            lines.append(f'{name}: no labelled object in the {held} held-out frames; not measured.')
        elif before['ap_r40'] is None:
            lines.append(f'{name}: never detected; {before["valid_ground_truths"]} labelled.')
        elif change is None or change['difference'] is None:
            lines.append(f'{name}: AP {before["ap_r40"]:.1f} on {held} held-out frames '
                         f'({before["valid_ground_truths"]} objects).')
        else:
            span = change['interval']
            sure = '' if span is None else (
                ': too few objects to tell' if before['few_ground_truths'] else
                f', 95 % {span[0]:+.1f} to {span[1]:+.1f}: '
                + ('beyond' if change['beyond_chance'] else 'within') + ' chance')
            lines.append(f'{name}: AP {before["ap_r40"]:.1f} before, {item["after"]["ap_r40"]:.1f} after '
                         'adapting on '
                         f'{frames["train"]} frames ({change["difference"]:+.1f}{sure}); '
                         f'{before["valid_ground_truths"]} objects in {held} held-out frames.')
    cost, hybrid = content['cost'], content['hybrid']
    alone, all_sent = cost['rows'][0], cost['rows'][-1]
    lines.append(f'{cost["cameras"]} cameras at {cost["rate_hz"]:g} Hz: {alone["cores"]:.1f} cores for the '
                 'student '
                 f'alone, {all_sent["cores"]:.1f} with every frame sent to the teacher.')
    share = hybrid['least_share_for_half']
    if hybrid['teacher_ap'] <= hybrid['student_ap']:
        lines.append('The teacher is no better than the student here: sending frames buys nothing.')
    elif share is None:
        lines.append('No measured share of the frames brings half of what the teacher is better by.')
    else:
        row = next(row for row in cost['rows'] if row['share'] == share)
        lines.append(f'{100 * share:g} % of the frames sent bring half of what the teacher is better by '
                     f'(AP {hybrid["student_ap"]:.1f} to {row["ap"]:.1f}; all of them '
                     f'{hybrid["teacher_ap"]:.1f}), '
                     f'for {row["cores"]:.1f} cores.')
    serious = [gap['finding'] for gap in content['gaps'] if gap['weight'] == site_gaps.SERIOUS]
    lines += [f'Missing: {finding}.' for finding in serious]
    lines.append(f'{len(content["gaps"]) - len(serious)} smaller gaps: see the end of the page.')
    return lines


def _pictures(found: Findings) -> list[tuple[str, str | None]]:
    """Return (frame name, picture as data address): the held-out frames with most objects, one of a block."""
    held_out = found.out / 'data' / 'held_out'
    files = {path.stem: path for path in images_in(held_out / 'images')}
    order = sorted(found.split.held_out, key=lambda name: -len(found.check.labels[name]))
    chosen: dict[int, str] = {}
    for name in order:
        chosen.setdefault(found.split.blocks[name], name)
    names = list(chosen.values())[:_PICTURES]
    shown = [(title, OnnxDetector.named(str(path))) for title, path in found.models.items()]
    result = []
    for name in names:
        image = read_image_file(files[name])
        tiles = []
        for _, detector in shown:
            tile = draw_detections(image, detector.detect(image).detections, detector.spec.labels)
            for kind, box in zip(found.check.labels[name].types, found.check.labels[name].boxes_xyxy):
                if kind in detector.spec.labels:
                    (x1, y1), (x2, y2) = np.round(box.reshape(2, 2)).astype(int).tolist()
                    cv2.rectangle(tile, (x1, y1), (x2, y2), _LABEL_BGR, 1)
            tiles.append(tile)
        sheet = contact_sheet(tiles, [title for title, _ in shown], len(shown), _TILE_PX)
        result.append((name, picture_uri(sheet)))
    return result


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise EvaluationError(f'{path}: larger than {_MAX_JSON_BYTES} bytes')
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise EvaluationError(f'{path}: cannot be read ({error})') from None
    return found
