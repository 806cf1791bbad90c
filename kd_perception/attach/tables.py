# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Families with one table of detections or of places, which may stand beside maps that are not needed.

A table says little of itself: how many values a place has is a matter of the number of classes, and which
axis counts the places one of the input's size. What neither tells is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_perception.attach.family import COCO, Recognised, Seen, sizes, STRIDE_SETS
from kd_perception.detection.decoders.gfl import cell_counts
from kd_perception.detection.decoders.yolo import yolox_places
from kd_perception.errors import ConfigError
from kd_perception.models.decoder_spec import BOX_COLUMNS, ROWS

# More detections than any export lists after suppression; places are more, but for the smallest inputs.
_MOST_ROWS = 1000
# Bins of a side's distribution: NanoDet's and PicoDet's; Generalized Focal Loss as published.
_BINS = (8, 17)
# From so many times as many places as values on, no network has the two the other way round.
_FAR_MORE = 8
# Decoded centres lie near their cells, undecoded ones anywhere.
_LEAST_CORRELATION = 0.5


def one_table(seen: Seen) -> Recognised | None:
    """
    Recognise a graph whose one output of two or three axes holds it all.

    :raises ConfigError: what it holds cannot be told; the message names the option that does.
    """
    flat = [port for port in seen.outputs if len(port.shape) in (2, 3)]
    if len(flat) != 1 or any(len(port.shape) < 4 for port in seen.outputs if port is not flat[0]):
        return None
    name, (second, third) = flat[0].name, sizes(flat[0])[-2:]
    if third in (6, 7) and (len(flat[0].shape) == 2 or second is None or second <= _MOST_ROWS):
        found = _rows(seen, name, third)
        if found is not None:
            return found
    if len(flat[0].shape) == 2 or (second is None and third is None):
        return None
    arrangement = seen.told.get('arrangement') or _arrangement(seen, name, second, third)
    count, values = (third, second) if arrangement == 'channels_first' else (second, third)
    return None if values is None else _places(seen, name, arrangement, count, values)


def _rows(seen: Seen, name: str, columns: int) -> Recognised | None:
    """Detections after suppression; of two known orders of columns the class is in that of whole numbers."""
    table = seen.rows(name, columns)
    whole = [bool(len(table)) and bool((column == np.round(column)).all()) for column in table.T]
    order: tuple[str, ...] = ROWS
    told = "by its columns' values"
    if columns == 6 and len(table):
        if not (whole[5] or whole[0]):
            return None
        order = ROWS if whole[5] else ('class', 'score', *BOX_COLUMNS)
    elif columns == 7:
        if len(table) and not (whole[0] and any(whole[i] for i in (1, 5, 6))):
            return None
        order, told = _seven(name, whole)
    if not len(table) or not table.any():
        told = 'a guess of the columns, since it found nothing on noise; see with --check'
    return Recognised('yolo_end_to_end', {'type': 'end_to_end', 'columns': order, 'outputs': {'rows': name}},
                      f'output [N, {columns}], {told}')


def _seven(name: str, whole: list[bool]) -> tuple[tuple[str, ...], str]:
    """With the image in front: YOLOv7 with NMS puts the class before the score, YOLO-NAS after it."""
    if whole[1] and not (whole[5] or whole[6]):
        return ('image', 'class', 'score', *BOX_COLUMNS), "by its columns' values"
    if whole[5] == whole[6]:
        last, told = name.startswith('graph'), "a guess of the columns by the output's name"
    else:
        last, told = whole[6], "by its columns' values"
    family = 'YOLO-NAS' if last else 'YOLOv7'
    return ('image', *BOX_COLUMNS, *(('score', 'class') if last else ('class', 'score'))), (
        f'{told}: as in {family}')


def _arrangement(seen: Seen, name: str, second: int | None, third: int | None) -> str:
    """Return which axis counts the places: one place or three a cell, or far more places than values."""
    if second is None or third is None:
        return 'channels_last' if second is None else 'channels_first'
    places = {each * sum(cell_counts(strides, seen.input_hw)) for strides in STRIDE_SETS for each in (1, 3)}
    likely = {values for values, *_ in _widths(seen)}
    for first, last in ((third in places, second in places), (second in likely, third in likely),
                        (third >= _FAR_MORE * second, second >= _FAR_MORE * third)):
        if first != last:
            return 'channels_first' if first else 'channels_last'
    raise ConfigError(
        f'{seen.facts.path}: output {name} [1, {second}, {third}]: it cannot be told which axis counts '
        f'the places; give --names FILE, or --set decoder.arrangement=channels_first ({second} values a '
        f'place) or channels_last ({third} values a place)')


def _widths(seen: Seen) -> list[tuple[int, str, int]]:
    """Return (values a place, kind, bins) for what the number of classes allows."""
    classes = COCO if seen.names is None else seen.names
    return [(classes + 4, 'plain', 0), (classes + 5, 'objectness', 0),
            *((classes + 4 * bins, 'gfl', bins) for bins in _BINS)]


def _places(seen: Seen, name: str, arrangement: str, count: int | None, values: int) -> Recognised:
    kind, bins = _kind(seen, name, values)
    strides = seen.strides_of(count)
    reason = f'output [1, {count or "N"}, {values}]' if arrangement == 'channels_last' else (
        f'output [1, {values}, {count or "N"}]')
    table: dict[str, Any] = {'outputs': {'predictions': name}}
    if kind == 'gfl':
        if strides is None or arrangement != 'channels_last':
            raise ConfigError(f'{seen.facts.path}: {reason} looks like a distribution a side, but its '
                              f'places are not the cells of a {seen.input_hw[1]}x{seen.input_hw[0]} input; '
                              'give --size, or describe it with --set')
        return Recognised('nanodet', {'type': 'gfl', 'strides': strides, 'arrangement': 'table',
                                      'reg_max': bins - 1, **table},
                          f'{reason}, a distribution a side', values - 4 * bins)
    classes = values - (5 if kind == 'objectness' else 4)
    ours = from_ultralytics(seen.facts.metadata)
    yolo = {'type': 'yolo', 'arrangement': arrangement, 'objectness': kind == 'objectness', **table}
    if ours and 'rtdetr' in seen.facts.metadata.get('description', '').lower().replace('-', ''):
        return Recognised('ultralytics_rtdetr', yolo, f'{reason}, metadata description', classes)
    if kind == 'objectness' and strides is not None and arrangement == 'channels_last' and not ours:
        return _one_a_cell(seen, name, strides, yolo, f'{reason}, one place a cell', classes)
    return Recognised('ultralytics' if ours else 'yolo', yolo, reason, classes)


def _kind(seen: Seen, name: str, values: int) -> tuple[str, int]:
    """Return what a place's values are besides box and classes, and the bins of a distribution."""
    told = {key: seen.told[key] for key in ('objectness', 'type') if key in seen.told}
    if told.get('type') == 'yolox' or told.get('objectness') is True:
        return 'objectness', 0
    if told.get('objectness') is False:
        return 'plain', 0
    for width, kind, bins in _widths(seen):
        if width == values:
            return kind, bins
    either = (f'a box and {values - 4} classes, or a box, an objectness and {values - 5} classes; '
              '--set decoder.objectness=false or true tells')
    if seen.names is None:
        raise ConfigError(f'{seen.facts.path}: holds no class names, and output {name} has {values} '
                          f'values a place: give --names FILE ({either})')
    raise ConfigError(f'{seen.facts.path}: output {name} has {values} values a place, which {seen.names} '
                      f'class names do not explain: {either}')


def _one_a_cell(seen: Seen, name: str, strides: tuple[int, ...], yolo: dict[str, Any], reason: str,
                classes: int) -> Recognised:
    """YOLOX, decoded or not, or another network with one place a cell (YOLOv6)."""
    decoded = _decoded(seen, name, strides)
    exponential = 'Exp' in seen.facts.operators
    how = 'by their values'
    if decoded is None:
        decoded, how = exponential, 'a guess, by the operator Exp'
    if not decoded:
        return Recognised('yolox', {'type': 'yolox', 'strides': strides, 'outputs': {'predictions': name}},
                          f'{reason}, boxes not decoded ({how})', classes)
    preset = 'yolox' if exponential else 'yolo'
    return Recognised(preset, yolo, f'{reason}, boxes decoded ({how})', classes)


def _decoded(seen: Seen, name: str, strides: tuple[int, ...]) -> bool | None:
    """Whether the centres follow the cells, whatever their unit; None where it was not run."""
    if name not in seen.values:
        return None
    centres = np.asarray(seen.values[name][0, :, :2], np.float64)
    cells = yolox_places(strides, seen.input_hw)
    if len(cells) != len(centres) or not np.isfinite(centres).all() or (np.ptp(centres, axis=0) == 0).any():
        return None
    ours = (cells[:, :2] + 0.5) * cells[:, 2:]
    return min(np.corrcoef(ours[:, axis], centres[:, axis])[0, 1] for axis in (0, 1)) > _LEAST_CORRELATION


def from_ultralytics(metadata: dict[str, str]) -> bool:
    """Whether Ultralytics' exporter wrote these metadata."""
    return 'Ultralytics' in metadata.get('author', '') or {'names', 'stride'} <= set(metadata)
