# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Folders of KITTI text files into an `ObjectTable`, thousands of files at once.

Parsing line by line costs more than the whole evaluation, so files are joined and NumPy reads them.
What it refuses, and what is out of range, goes through `parse_label_text`, which gives the same values
or the error with file and line.
"""
from collections.abc import Sequence
import hashlib
import os
from pathlib import Path
from typing import Optional

import numpy as np

from kd_perception.errors import LabelError
from kd_perception.labels.kitti_text import (
    decode_label_bytes,
    DETECTION_COLUMNS,
    KittiObjects,
    LABEL_COLUMNS,
    parse_label_text,
    read_label_bytes,
)
from kd_perception.labels.object_table import concatenate_tables, ObjectTable

# What is joined and parsed at once: bounds the memory that it takes.
_BATCH_BYTES = 2 * 1024 * 1024
_MAX_TYPE_CHARS = 64
_MAX_INT = 2 ** 31 - 1
_TRUNCATION, _OCCLUSION, _BOX, _SCORE = 0, 1, slice(3, 7), 14


class _NotPlain(Exception):
    """The batch holds something that only the line parser can judge."""


def _parse_batch(names: Sequence[str], contents: Sequence[bytes], scores: bool) -> ObjectTable:
    """Parse joined files on the fast path; raise _NotPlain where the line parser must judge."""
    columns = DETECTION_COLUMNS if scores else LABEL_COLUMNS
    lines: list[str] = []
    offsets = [0]
    try:
        for content in contents:
            lines += [line for line in content.decode().split('\n') if line and not line.isspace()]
            offsets.append(len(lines))
        if not lines:
            return ObjectTable.from_objects([KittiObjects.empty(scores) for _ in names], names)
        # One more character than is taken, so that nothing is cut off unseen.
        rows = np.loadtxt(lines, [('type', f'U{_MAX_TYPE_CHARS + 1}'), ('numbers', np.float64, columns - 1)],
                          comments=None, ndmin=1)
    except ValueError:  # UnicodeDecodeError is one
        raise _NotPlain from None
    types, numbers = rows['type'].tolist(), rows['numbers']
    ids: dict[str, int] = {}
    type_ids = np.array([ids.setdefault(name, len(ids)) for name in types], np.int32)
    boxes, occlusion = numbers[:, _BOX], numbers[:, _OCCLUSION]
    # NumPy ends a line at a carriage return, the line parser does not; and it knows byte order marks.
    if len(rows) != len(lines) or max(map(len, ids)) > _MAX_TYPE_CHARS or '\ufeff' in ''.join(ids) or (
            not np.isfinite(numbers).all()) or (boxes[:, 2:] < boxes[:, :2]).any() or (
            occlusion != np.clip(np.rint(occlusion), -_MAX_INT, _MAX_INT)).any():
        raise _NotPlain
    return ObjectTable(tuple(names), np.array(offsets, np.int64), tuple(ids), type_ids, boxes.copy(),
                       np.full(len(rows), -1.0) if scores else numbers[:, _TRUNCATION].copy(),
                       occlusion.astype(np.int64),
                       numbers[:, _SCORE].copy() if scores else np.zeros(len(rows)))


def parse_label_files(frames: Sequence[str], sources: Sequence[str], contents: Sequence[bytes],
                      scores: bool) -> ObjectTable:
    """
    Parse many files at once.

    :param frames: frame names, one a file.
    :param sources: file names for errors.
    :param contents: the files' bytes.
    :param scores: True for detections (16 columns), False for labels (15).
    :raises LabelError: as `parse_label_text` does, for the first wrong file.
    """
    try:
        return _parse_batch(frames, contents, scores)
    except _NotPlain:
        return ObjectTable.from_objects(
            [parse_label_text(decode_label_bytes(content, source), source, scores)
             for source, content in zip(sources, contents)], frames)


def list_frames(folder: str | os.PathLike) -> dict[str, str]:
    """
    Return {frame name: path} of a folder's ``*.txt`` files, in whatever case, sorted by name.

    Hidden files are no labels: file managers put ``._000007.txt`` beside ``000007.txt``.

    :raises LabelError: no folder, no such file in it, or two names for one frame (7.txt and 000007.txt).
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder)
                       if entry.name.lower().endswith('.txt') and not entry.name.startswith('.'))
    except OSError as error:
        raise LabelError(f'{folder}: not a readable folder: {error.strerror}') from None
    known: dict[int | str, str] = {}
    for name in names:
        stem = name[:-4]
        twin = known.setdefault(int(stem) if stem.isascii() and stem.isdigit() else stem, name)
        if twin != name:
            raise LabelError(f'{folder}: {twin} and {name} name the same frame')
    return {name[:-4]: os.path.join(folder, name) for name in names}


def count_frames(folders: Sequence[str | os.PathLike]) -> int | None:
    """
    Return how many frames folders label.

    :return: None where one is a topic, which does not say beforehand how many of its labels have an image.
    """
    return sum(len(list_frames(folder)) for folder in folders) if all(map(os.path.isdir, folders)) else None


def read_label_folder(folder: str | os.PathLike, scores: bool, frames: Sequence[str] | None = None,
                      digest: Optional['hashlib._Hash'] = None) -> ObjectTable:
    """
    Read a folder of KITTI text files, ``<frame>.txt`` each.

    :param scores: True for detections, False for labels.
    :param frames: read only these frames; all in name order where left out.
    :param digest: a hash that is fed with name, size and content of each file.
    :raises LabelError: the folder is missing, or a file is malformed (``file:line: what``).
    """
    paths = list_frames(folder)
    chosen = list(paths) if frames is None else list(frames)
    missing = [frame for frame in chosen if frame not in paths]
    if missing:
        raise LabelError(f'{Path(folder) / missing[0]}.txt: no such file')
    tables: list[ObjectTable] = []
    names: list[str] = []
    contents: list[bytes] = []
    size = 0
    for i, frame in enumerate(chosen):
        content = read_label_bytes(paths[frame])
        names.append(frame)
        contents.append(content)
        if digest is not None:
            digest.update(f'{frame}\0{len(content)}\0'.encode())
            digest.update(content)
        size += len(content)
        if size >= _BATCH_BYTES or i + 1 == len(chosen):
            tables.append(parse_label_files(names, [paths[name] for name in names], contents, scores))
            names, contents, size = [], [], 0
    return concatenate_tables(tables)
