# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
KITTI object text files: one object a line, 15 columns, and a score as 16th column in detections.

Columns (KITTI object development kit, readme.txt): type, truncation [0..1], occlusion {0,1,2,3},
alpha [rad], left, top, right, bottom [px], height, width, length [m], x, y, z [m], rotation_y [rad],
score. Unknown values are -1 (truncation, occlusion, dimensions), -10 (angles) and -1000 (location).
"""
import codecs
from collections.abc import Sequence
from dataclasses import dataclass
import math
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike

from kd_perception.errors import LabelError
from kd_perception.files import decode_text, read_bytes

LABEL_COLUMNS = 15
DETECTION_COLUMNS = 16
# A KITTI label file has under 3 kB; 10,000 detections take 1 MB. More is not a label file.
MAX_LABEL_BYTES = 8 * 1024 * 1024
# The official program reads the type into char[255].
MAX_TYPE_LENGTH = 254
COLUMN_NAMES = ('type', 'truncation', 'occlusion', 'alpha', 'left', 'top', 'right', 'bottom', 'height',
                'width', 'length', 'x', 'y', 'z', 'rotation_y', 'score')
UNKNOWN_TRUNCATION, UNKNOWN_OCCLUSION, UNKNOWN_DIMENSION = -1.0, -1, -1.0
UNKNOWN_ANGLE, UNKNOWN_LOCATION = -10.0, -1000.0


@dataclass(frozen=True)
class KittiObjects:
    """
    The objects of one frame as arrays, in file order (N objects).

    :ivar types: class names as written, length N.
    :ivar truncation: (N,) float64, 0 to 1, or -1 where unknown.
    :ivar occlusion: (N,) int64: 0 visible, 1 partly, 2 largely, 3 unknown, -1 not given.
    :ivar alpha: (N,) float64 observation angle [rad], -10 where unknown.
    :ivar boxes_xyxy: (N, 4) float64 left, top, right, bottom [px], continuous coordinates.
    :ivar dimensions: (N, 3) float64 height, width, length [m].
    :ivar location: (N, 3) float64 x, y, z in camera coordinates [m].
    :ivar rotation_y: (N,) float64 [rad].
    :ivar scores: (N,) float64, or None for labels.
    """

    types: tuple[str, ...]
    truncation: np.ndarray
    occlusion: np.ndarray
    alpha: np.ndarray
    boxes_xyxy: np.ndarray
    dimensions: np.ndarray
    location: np.ndarray
    rotation_y: np.ndarray
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.types)

    @classmethod
    def empty(cls, scores: bool = False) -> 'KittiObjects':
        """Return no objects, as labels or (``scores=True``) as detections."""
        return cls._from_columns((), np.zeros((0, LABEL_COLUMNS)), scores)

    @classmethod
    def _from_columns(cls, types: tuple[str, ...], columns: np.ndarray, scored: bool) -> 'KittiObjects':
        """Build from (N, 14 or 15) float64: all columns but the type."""
        return cls(types, columns[:, 0], columns[:, 1].astype(np.int64), columns[:, 2], columns[:, 3:7],
                   columns[:, 7:10], columns[:, 10:13], columns[:, 13], columns[:, 14] if scored else None)

    @classmethod
    def from_boxes(cls, types: Sequence[str], boxes_xyxy: ArrayLike,
                   scores: np.ndarray | None = None) -> 'KittiObjects':
        """
        Build from 2D boxes alone; every 3D column takes KITTI's value for unknown.

        :param types: class names, length N.
        :param boxes_xyxy: (N, 4) px.
        :param scores: (N,), or None for labels.
        :raises LabelError: where the lengths differ or a box is not finite or inverted.
        """
        count = len(types)
        boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
        if len(boxes) != count or (scores is not None and len(scores) != count):
            raise LabelError(f'from_boxes: {count} types, {len(boxes)} boxes and '
                             f'{"no" if scores is None else len(scores)} scores')
        values = None if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
        wrong = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
        if values is not None:
            wrong |= ~np.isfinite(values)
        if wrong.any():
            raise LabelError(f'from_boxes: object {int(np.argmax(wrong))} is not finite or inverted')
        return cls(tuple(types), np.full(count, UNKNOWN_TRUNCATION), np.full(count, UNKNOWN_OCCLUSION),
                   np.full(count, UNKNOWN_ANGLE), boxes, np.full((count, 3), UNKNOWN_DIMENSION),
                   np.full((count, 3), UNKNOWN_LOCATION), np.full(count, UNKNOWN_ANGLE), values)

    def select(self, index: np.ndarray) -> 'KittiObjects':
        """Return the objects at ``index`` (a boolean mask (N,), or integers), in that order."""
        chosen = np.arange(len(self))[np.asarray(index)]
        return KittiObjects(tuple(self.types[i] for i in chosen), self.truncation[chosen],
                            self.occlusion[chosen], self.alpha[chosen], self.boxes_xyxy[chosen],
                            self.dimensions[chosen], self.location[chosen], self.rotation_y[chosen],
                            None if self.scores is None else self.scores[chosen])


def _refuse(source: str, number: int, what: str) -> NoReturn:
    raise LabelError(f'{source}:{number}: {what}')


def _parse_line(fields: list[str], source: str, number: int) -> list[float]:
    """Return the numbers of one split line, each checked; raise LabelError that names the column."""
    if len(fields[0]) > MAX_TYPE_LENGTH:
        _refuse(source, number, f'type has {len(fields[0])} characters, at most {MAX_TYPE_LENGTH} expected')
    values = []
    for name, field in zip(COLUMN_NAMES[1:], fields[1:]):
        try:
            if '_' in field:  # float() reads 1_0 as 10
                raise ValueError
            value = float(field)
        except ValueError:
            _refuse(source, number, f'{name} is {field[:40]!r}, a number expected')
        if not math.isfinite(value):
            _refuse(source, number, f'{name} is {field[:40]}, a finite number expected')
        values.append(value)
    if values[1] != int(values[1]) or abs(values[1]) > 2 ** 31 - 1:
        _refuse(source, number, f'occlusion is {fields[2][:40]}, an integer expected')
    left, top, right, bottom = values[3:7]
    if right < left or bottom < top:
        _refuse(source, number, f'box {left:g} {top:g} {right:g} {bottom:g} is inverted, '
                                'left <= right and top <= bottom expected')
    return values


def parse_label_text(text: str, source: str, scores: bool | None = None) -> KittiObjects:
    """
    Parse the text of one KITTI label or detection file; blank lines are allowed, an empty text is empty.

    :param text: the file's content.
    :param source: its name for error messages.
    :param scores: True: 16 columns demanded; False: 15; None: either, the same on every line.
    :raises LabelError: ``source:line: what`` for a wrong column count, a value that is no finite number,
        an occlusion that is no integer, or an inverted box.
    """
    types: list[str] = []
    rows: list[list[float]] = []
    expected = {True: DETECTION_COLUMNS, False: LABEL_COLUMNS, None: 0}[scores]
    for number, line in enumerate(text.split('\n'), 1):
        fields = line.split()
        if not fields:
            continue
        if not expected and len(fields) in (LABEL_COLUMNS, DETECTION_COLUMNS):
            expected = len(fields)
        if len(fields) != expected:
            wanted = str(expected) if expected else f'{LABEL_COLUMNS} or {DETECTION_COLUMNS}'
            _refuse(source, number, f'{len(fields)} columns, {wanted} expected')
        types.append(fields[0])
        rows.append(_parse_line(fields, source, number))
    scored = expected == DETECTION_COLUMNS
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), (expected or LABEL_COLUMNS) - 1)
    return KittiObjects._from_columns(tuple(types), columns, scored)


def parse_label_lines(text: str, source: str) -> tuple[KittiObjects, list[int], list[str]]:
    """
    Parse labels past their wrong lines, for a list of all that is wrong.

    :return: the objects of the right lines, their line numbers, and ``source:line: what`` of the others.
    """
    types: list[str] = []
    rows: list[list[float]] = []
    numbers: list[int] = []
    wrong: list[str] = []
    for number, line in enumerate(text.split('\n'), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            if len(fields) != LABEL_COLUMNS:
                _refuse(source, number, f'{len(fields)} columns, {LABEL_COLUMNS} expected')
            rows.append(_parse_line(fields, source, number))
        except LabelError as error:
            wrong.append(str(error))
            continue
        types.append(fields[0])
        numbers.append(number)
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), LABEL_COLUMNS - 1)
    return KittiObjects._from_columns(tuple(types), columns, False), numbers, wrong


def read_label_bytes(path: str | os.PathLike) -> bytes:
    """
    Read a label file, at most `MAX_LABEL_BYTES` of it, without a byte order mark.

    :raises LabelError: the file is missing, unreadable, no regular file, or too large.
    """
    data = read_bytes(path, MAX_LABEL_BYTES, LabelError)
    return data[len(codecs.BOM_UTF8):] if data.startswith(codecs.BOM_UTF8) else data


def decode_label_bytes(data: bytes, source: str) -> str:
    """Decode UTF-8; raise LabelError naming the line of the first byte that is not."""
    return decode_text(data, source, LabelError)


def read_label_file(path: str | os.PathLike, scores: bool | None = None) -> KittiObjects:
    """Read one KITTI label or detection file; see `parse_label_text` for ``scores`` and errors."""
    source = str(Path(path))
    return parse_label_text(decode_label_bytes(read_label_bytes(path), source), source, scores)


def _number(value: float, unknown: float) -> str:
    """Print as KITTI does (two decimals, unknown as integer), with up to six decimals where needed."""
    if value == unknown:
        return f'{unknown:.0f}'
    text = f'{value:.6f}'.rstrip('0')
    whole, _, decimals = text.partition('.')
    return f'{whole}.{decimals:0<2}'


def format_objects(objects: KittiObjects) -> str:
    """
    Return the KITTI text of ``objects``, one line each, with the score last where there is one.

    Official label files come back byte for byte; float32 scores survive exactly (9 digits), px to 1e-6.

    :raises LabelError: where a type is empty or holds white space (it would shift every column).
    """
    lines = []
    for i, name in enumerate(objects.types):
        if len(name.split()) != 1 or name != name.strip():
            raise LabelError(f'object {i}: type {name!r} cannot be written: one word expected')
        fields = [name, _number(objects.truncation[i], UNKNOWN_TRUNCATION), str(int(objects.occlusion[i])),
                  _number(objects.alpha[i], UNKNOWN_ANGLE)]
        fields += [_number(value, math.nan) for value in objects.boxes_xyxy[i]]
        fields += [_number(value, UNKNOWN_DIMENSION) for value in objects.dimensions[i]]
        fields += [_number(value, UNKNOWN_LOCATION) for value in objects.location[i]]
        fields.append(_number(objects.rotation_y[i], UNKNOWN_ANGLE))
        if objects.scores is not None:
            fields.append(f'{objects.scores[i]:.9g}')
        lines.append(' '.join(fields) + '\n')
    return ''.join(lines)
