# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Folders of KITTI text files into an `ObjectTable`, thousands of files at once.

Parsing line by line costs more than the whole evaluation, so files are joined and their numbers
read with array operations. Whatever is not plain decimal text goes through `parse_label_text`, which
gives the same values or the error with file and line.
"""
from collections.abc import Sequence
import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from kd_perception.errors import LabelError
from kd_perception.labels.kitti_text import (
    decode_label_bytes,
    DETECTION_COLUMNS,
    LABEL_COLUMNS,
    parse_label_text,
    read_label_bytes,
)
from kd_perception.labels.object_table import concatenate_tables, ObjectTable

# Two MB keep the temporary arrays inside the processor's cache.
_BATCH_BYTES = 2 * 1024 * 1024
# A decimal of at most 15 digits is an integer below 2**53 over a power of ten up to 10**22: both are exact
# doubles, so that one division rounds exactly as strtod does (Clinger 1990).
_EXACT_DIGITS = 15
_MAX_TOKEN = 24
_MAX_TYPE_BYTES = 16
_POWERS = 10.0 ** np.arange(23)
_TRUNCATION, _OCCLUSION, _SCORE = 1, 2, 15
_SPACE, _MINUS, _DOT, _NEWLINE = ord(' '), ord('-'), ord('.'), ord('\n')
# What may stand in a batch on the fast path: digits, letters, '_', '-', '+', '.', blanks, line ends.
_PLAIN = np.zeros(256, dtype=bool)
_PLAIN[[ord(c) for c in ' \t\r\n-+._0123456789']] = True
_PLAIN[[*range(ord('A'), ord('Z') + 1), *range(ord('a'), ord('z') + 1)]] = True
_IS_DIGIT = np.zeros(256, dtype=bool)
_IS_DIGIT[ord('0'):ord('9') + 1] = True


class _NotPlain(Exception):
    """The batch holds something that only the line parser can judge."""


class _Tokens(NamedTuple):
    """Tokens of a batch's lines: (L, columns) start and end positions in the text."""

    starts: np.ndarray
    ends: np.ndarray


def _tokenize(text: np.ndarray, columns: int) -> _Tokens:
    """Find the tokens of a text (B,) uint8 that begins with a blank and ends with a line end."""
    blank = text <= _SPACE
    edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    per_line = np.diff(np.searchsorted(starts, np.flatnonzero(text == _NEWLINE)), prepend=0)
    if (per_line[per_line > 0] != columns).any():
        raise _NotPlain
    return _Tokens(starts.reshape(-1, columns), ends.reshape(-1, columns))


def _take_odd_numbers(text: np.ndarray, tokens: _Tokens) -> list[tuple[int, int, float]]:
    """
    Read the numbers with an exponent or a sign `+` one by one and overwrite them with zeros.

    :return: (line, column, value) of each.
    """
    odd = np.flatnonzero((text >= ord('A')) | (text == ord('+')))
    columns = tokens.starts.shape[1]
    starts, ends = tokens.starts.ravel(), tokens.ends.ravel()
    found = []
    for i in np.unique(np.searchsorted(starts, odd, side='right') - 1).tolist():
        token = bytes(text[starts[i]:ends[i]])
        try:
            value = float(token)
        except ValueError:
            raise _NotPlain from None
        if not math.isfinite(value) or b'_' in token:
            raise _NotPlain
        found.append((i // columns, i % columns, value))
        text[starts[i]:ends[i]] = ord('0')
    return found


def _check_numbers(text: np.ndarray, tokens: _Tokens) -> None:
    """Raise _NotPlain unless every token is ``-?[0-9]*[.]?[0-9]+``."""
    if not _IS_DIGIT[text[tokens.ends - 1]].all():
        raise _NotPlain
    if (text[np.flatnonzero(text == _MINUS) - 1] > _SPACE).any():
        raise _NotPlain
    dot = text == _DOT
    marks = dot[np.flatnonzero(dot | (text <= _SPACE))]
    if (marks[1:] & marks[:-1]).any():  # two dots and no blank between them
        raise _NotPlain


def _parse_decimals(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the values of tokens (M,) that `_check_numbers` accepts, rounded as strtod rounds."""
    negative = text[starts] == _MINUS
    position = starts + negative
    length = ends - position
    longest = int(length.max()) if len(length) else 0
    if longest > _MAX_TOKEN:
        raise _NotPlain
    mantissa = np.zeros(len(starts), dtype=np.int64)
    decimals = np.zeros(len(starts), dtype=np.int64)
    digits = np.zeros(len(starts), dtype=np.int64)
    seen_dot = np.zeros(len(starts), dtype=bool)
    last = len(text) - 1
    for i in range(longest):
        active = length > i
        char = text[np.minimum(position + i, last)]
        seen_dot |= active & (char == _DOT)
        digit = active & (char != _DOT)
        mantissa = np.where(digit & (digits < 18), mantissa * 10 + (char - np.uint8(ord('0'))), mantissa)
        digits += digit & ((mantissa > 0) | (char != ord('0')))
        decimals += digit & seen_dot
    values = mantissa / _POWERS[np.minimum(decimals, 22)]
    for i in np.flatnonzero((digits > _EXACT_DIGITS) | (decimals > 22)):
        values[i] = float(bytes(text[position[i]:ends[i]]))
    return np.where(negative, -values, values)


def _take_types(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct type names and each line's index into them; overwrite the names with zeros."""
    length = ends - starts
    if len(length) and length.max() > _MAX_TYPE_BYTES:
        raise _NotPlain
    place = np.arange(_MAX_TYPE_BYTES)
    inside = place < length[:, None]
    at = np.minimum(starts[:, None] + place, len(text) - 1)
    words = np.where(inside, text[at], 0).astype(np.uint8).view(np.uint64)
    ids = np.full(len(starts), -1, dtype=np.int32)
    names: list[str] = []
    first = 0
    while first < len(ids):
        ids[(words == words[first]).all(axis=1)] = len(names)
        names.append(bytes(text[starts[first]:ends[first]]).decode('ascii'))
        rest = ids[first:] < 0
        first = first + int(np.argmax(rest)) if rest.any() else len(ids)
        if len(names) > 100:
            raise _NotPlain
    text[at[inside]] = ord('0')
    return tuple(names), ids


def _parse_batch(names: Sequence[str], contents: Sequence[bytes], scores: bool) -> ObjectTable:
    """Parse joined files on the fast path; raise _NotPlain where the line parser must judge."""
    sizes = [len(content) + 1 for content in contents]
    text = np.frombuffer(bytearray(b' ' + b'\n'.join(contents) + b'\n'), dtype=np.uint8)
    if not _PLAIN[text].all():
        raise _NotPlain
    tokens = _tokenize(text, DETECTION_COLUMNS if scores else LABEL_COLUMNS)
    type_names, type_ids = _take_types(text, tokens.starts[:, 0], tokens.ends[:, 0])
    odd = _take_odd_numbers(text, tokens)
    _check_numbers(text, tokens)
    wanted = [_OCCLUSION, *range(4, 8), _SCORE if scores else _TRUNCATION]
    values = _parse_decimals(text, tokens.starts[:, wanted].T.ravel(), tokens.ends[:, wanted].T.ravel())
    columns = dict(zip(wanted, values.reshape(len(wanted), -1)))
    for line, column, value in odd:
        if column in columns:
            columns[column][line] = value
    count = len(tokens.starts)
    boxes = np.stack([columns[i] for i in range(4, 8)], axis=1)
    occlusion = columns[_OCCLUSION].astype(np.int64)
    if (boxes[:, 2:] < boxes[:, :2]).any() or (occlusion != columns[_OCCLUSION]).any():
        raise _NotPlain
    offsets = np.searchsorted(tokens.starts[:, 0], 1 + np.cumsum([0] + sizes))
    return ObjectTable(tuple(names), offsets.astype(np.int64), type_names, type_ids, boxes,
                       np.full(count, -1.0) if scores else columns[_TRUNCATION], occlusion,
                       columns[_SCORE] if scores else np.zeros(count))


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
