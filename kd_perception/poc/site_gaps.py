# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a site's frames cannot tell, and what would: from counts, conditions, intervals and label errors."""
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np

from kd_perception.evaluation.conditions import scene_masks
from kd_perception.evaluation.metrics.kitti_eval import MIN_GROUND_TRUTHS
from kd_perception.evaluation.report.compare import compare
from kd_perception.labels.label_check import FolderCheck
from kd_perception.poc.site_split import SiteSplit

SERIOUS, MINOR = 'serious', 'minor'
# Adapting the shipped student on 59 fog images moved AP by 10 points (docs/results/adapting.md).
FEW_TRAINING_OBJECTS = 100
FEW_CONDITION_FRAMES = 20
FEW_BLOCKS = 8
_SHOWN_ERRORS = 10
# From here on a loss is pointed out, whether or not it is beyond chance: a judgement, not a measurement.
_LOSS_POINTS = 2.0


@dataclass(frozen=True)
class Gap:
    """One thing that is missing: how much it matters, what is the case, and what would help."""

    weight: str
    finding: str
    advice: str


def label_gaps(check: FolderCheck) -> list[Gap]:
    """Say what is wrong with the labels."""
    gaps = []
    if check.errors:
        shown = '; '.join(check.errors[:_SHOWN_ERRORS])
        more = f'; and {len(check.errors) - _SHOWN_ERRORS} more' if len(check.errors) > _SHOWN_ERRORS else ''
        gaps.append(Gap(SERIOUS, f'{len(check.errors)} errors in labels or images, '
                        f'{check.label_files - len(check.usable)} frames left out: {shown}{more}',
                        'correct them; check-labels lists all'))
    if check.warnings:
        gaps.append(Gap(MINOR, f'{len(check.warnings)} doubtful labels, first: {check.warnings[0]}',
                        'look at them; check-labels lists all'))
    return gaps


def data_gaps(split: SiteSplit, train_objects: Mapping[str, int], report: dict[str, Any],
              signals: Sequence[Any]) -> list[Gap]:
    """
    Say which classes, sizes, places and light the frames do not cover.

    :param train_objects: {class: objects in the training part}.
    :param report: an evaluation of the held-out part. :param signals: `SceneSignals` of all frames.
    """
    gaps = []
    for name, levels in report['results'].items():
        count = list(levels.values())[len(levels) // 2]['valid_ground_truths']
        if not count:
            gaps.append(Gap(SERIOUS, f'{name}: none that counts in the held-out part: nothing is known '
                                     'about it',
                            f'label frames with {name}'))
        elif count < MIN_GROUND_TRUTHS:
            gaps.append(Gap(SERIOUS, f'{name}: {count} in the held-out part; below {MIN_GROUND_TRUTHS} the '
                            'figure is limited by their number', f'label frames with {name}'))
        if train_objects.get(name, 0) < FEW_TRAINING_OBJECTS:
            gaps.append(Gap(MINOR, f'{name}: {train_objects.get(name, 0)} to train on',
                            f'from some {FEW_TRAINING_OBJECTS} on a change is to be expected'))
    masks = scene_masks(signals)
    for tag, mask in masks.items():
        if mask.sum() < FEW_CONDITION_FRAMES:
            gaps.append(Gap(MINOR, f'{tag}: {int(mask.sum())} of {len(mask)} frames',
                            'record some, or keep the model out of this condition'))
    far = report['height_bins_px']
    for name, levels in far.items():
        level, item = next(iter(levels.items()))
        if item['valid_ground_truths'] < MIN_GROUND_TRUTHS <= sum(
                entry['valid_ground_truths'] for entry in levels.values()):
            gaps.append(Gap(MINOR, f'{name}, far ({level} px high): {item["valid_ground_truths"]} in the '
                            'held-out part', 'label distant ones too, if they matter'))
    if split.sequences == 1:
        gaps.append(Gap(SERIOUS, 'all frames are of one sequence: what is measured may be objects that were '
                        'trained on, some frames later', 'measure on another day or place'))
    if split.held_out_blocks < FEW_BLOCKS:
        gaps.append(Gap(MINOR, f'{split.held_out_blocks} blocks are held out: intervals over so few are '
                               'rough',
                        'use more frames'))
    return gaps


def gain_gaps(before: dict[str, Any], after: dict[str, Any], frames: int, level: str) -> list[Gap]:
    """Say where the change by adapting is not beyond chance, and how many frames would show it."""
    gaps = []
    for name in before['results']:
        (delta,) = compare(before, after, [f'results.{name}.{level}.ap_r40'])
        if delta.interval is None or delta.difference is None or not delta.after:
            continue
        half = (delta.interval[1] - delta.interval[0]) / 2
        if delta.beyond_chance or not half:
            continue
        text = f'{name}: the change of {delta.difference:+.1f} is within chance (interval ±{half:.1f})'
        needed = frames * (half / delta.difference) ** 2 if delta.difference else math.inf
        advice = (f'a change of this size would show with some {_round(needed)} held-out frames'
                  if needed < 100 * frames else 'more frames would hardly show it')
        gaps.append(Gap(MINOR, text, advice))
    return gaps


def teacher_gaps(hybrid: dict[str, Any] | None, old_ground: bool) -> list[Gap]:
    """Say where the teacher is of no use, and what was not measured."""
    gaps = []
    for metric in (hybrid or {'metrics': {}})['metrics'].values():
        if metric['teacher_ap'] <= metric['student_ap']:
            gaps.append(Gap(SERIOUS, f'{metric["text"]}: the teacher ({metric["teacher_ap"]:.1f}) is no '
                                     'better '
                            f'than the student ({metric["student_ap"]:.1f}) here: sending frames buys '
                            'nothing',
                            'adapt the teacher first (docs/how-to/adapt.md)'))
    if hybrid is not None and not hybrid['estimator']:
        gaps.append(Gap(MINOR, 'the student has no learned gate: plain signals choose the frames to send',
                        'fit-gate makes one'))
    if not old_ground:
        gaps.append(Gap(MINOR, 'what was lost on the frames that the model was proved on is not measured',
                        'give such a labelled set with --old'))
    return gaps


def loss_gaps(old: Mapping[str, Any], level: str) -> list[Gap]:
    """
    Say what adapting has cost on the frames that the model was proved on.

    :param old: {'before' | 'after': report}.
    """
    gaps = []
    for name in old['before']['results']:
        (delta,) = compare(old['before'], old['after'], [f'results.{name}.{level}.ap_r40'])
        if delta.difference is not None and delta.difference <= -_LOSS_POINTS:
            gaps.append(Gap(
                SERIOUS, f'{name}: AP {delta.before:.1f} to {delta.after:.1f} on the frames that the model '
                'was proved on', 'train on some of these too, or keep one model for each site'))
    return gaps


def machine_gaps(machine: Mapping[str, str]) -> list[Gap]:
    """Say where the computer was too busy for its times to mean much."""
    load, cores = float(machine['load_average_at_start'].split()[0]), int(machine['cores'])
    if load <= cores:
        return []
    return [Gap(MINOR, f'the computer was busy (load {load:.1f} on {cores} cores): times on the clock are '
                'too high, and cores needed somewhat', 'measure again on an idle one')]


def condition_counts(signals: Sequence[Any]) -> dict[str, int]:
    """Return {condition: frames}, also of conditions that no frame or every frame is in."""
    return {tag: int(np.count_nonzero(mask)) for tag, mask in scene_masks(signals).items()}


def count_objects(labels: Mapping[str, Any], names: Sequence[str], classes: Sequence[str]) -> Counter:
    """Return {class: objects} of some frames. :param labels: {frame name: KittiObjects}."""
    found = Counter(kind for name in names for kind in labels[name].types)
    return Counter({name: found[name] for name in classes})


def _round(value: float) -> int:
    """Round up to two digits: it is an estimate."""
    unit = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return int(math.ceil(value / unit) * unit)
