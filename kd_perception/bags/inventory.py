# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Which files of a recording's folder are its parts: every file is read or named.

`metadata.yaml` may be missing, old or wrong (a killed recorder, a folder sorted by hand): the folder decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import dataclasses
from pathlib import Path

from kd_perception.bags.parts import is_storage_name, open_part, part_key, storage_of, STORAGE_SUFFIXES
from kd_perception.files import natural_key

METADATA_NAME = 'metadata.yaml'
_NAMES_SHOWN = 5
# What SQLite keeps beside a database.
_COMPANIONS = ('-wal', '-shm', '-journal')


@dataclasses.dataclass(frozen=True)
class FolderParts:
    """
    Opened parts of a recording.

    :param listed: those that metadata.yaml names, in its order.
    :param others: those that it does not name, in natural order.
    """

    listed: list
    others: list


def metadata_file(folder: Path) -> Path | None:
    """Return a folder's metadata.yaml, whatever its case; None if there is none."""
    plain = folder / METADATA_NAME
    if plain.is_file():
        return plain
    return next((item for item in folder.iterdir()
                 if item.name.lower() == METADATA_NAME and item.is_file()), None)


def open_folder(folder: Path, listed: Sequence[str], scratch, problems: list[str]) -> FolderParts:
    """
    Open every part of a recording's folder.

    :param listed: the file names in metadata.yaml; empty: none are known.
    :param scratch: see `parts.open_part`.
    :param problems: gets a line for each file that is missing or left out.
    :raises BagError: there is no room to unpack a part.
    """
    forms, rest = _sort_files(folder)
    opened: dict[str, object] = {}
    for key in dict.fromkeys([part_key(name) for name in listed] + list(forms)):
        if key in forms:
            part = _open_best(forms[key], scratch, problems)
            if part is not None:
                opened[key] = part
    named = dict.fromkeys(part_key(name) for name in listed)
    for name in listed:
        if part_key(name) not in forms:
            problems.append(f'{name}: this file of the recording is missing')
    parts = FolderParts([opened[key] for key in named if key in opened], [])
    for key, part in opened.items():
        if key not in named:
            _add_other(part, parts, bool(listed), problems)
    if rest:
        shown = ', '.join(rest[:_NAMES_SHOWN]) + (', ...' if len(rest) > _NAMES_SHOWN else '')
        problems.append(f'{len(rest)} files or folders are no part of the recording, left out: {shown}')
    return parts


def _sort_files(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the storage files by what their forms have in common, and the names of everything else."""
    forms: dict[str, list[Path]] = {}
    rest = []
    for item in sorted(folder.iterdir(), key=lambda item: natural_key(item.name)):
        name = item.name
        if name.lower() == METADATA_NAME or part_key(name).endswith(_COMPANIONS):
            continue
        hidden = name.startswith('.')
        try:
            ours = item.is_file() and not hidden and (
                is_storage_name(name) or storage_of(item) in STORAGE_SUFFIXES)
        except OSError:
            ours = False
        if ours:
            forms.setdefault(part_key(name), []).append(item)
        elif not hidden or is_storage_name(name):
            rest.append(name)
    return forms, rest


def _open_best(paths: Sequence[Path], scratch, problems: list[str]):
    """
    Open one of several forms of a part, the one that holds most: None if none can be read.

    A recorder that is killed while it compresses leaves a part whole and half compressed.
    """
    best, others, unread = None, [], []
    for path in sorted(paths, key=lambda path: (part_key(path.name) != path.name.lower(), path.name)):
        if best is not None and best.intact:
            others.append(path.name)
            continue
        notes: list[str] = []
        try:
            part = open_part(path, scratch, notes)
        except OSError as error:
            unread.append(f'{path.name}: cannot be read ({error.strerror or error})')
            continue
        if best is not None and part.counts.total() <= best.counts.total():
            part.close()
            others.append(path.name)
            continue
        if best is not None:
            best.close()
            others.append(best.name)
        best, best_notes = part, notes
    problems += unread
    if best is not None:
        problems += best_notes
        problems += [f'{name}: holds the same part as {best.name}, which is read' for name in others]
    return best


def _add_other(part, parts: FolderParts, some_listed: bool, problems: list[str]) -> None:
    """Take a part that metadata.yaml does not name, unless it repeats what another holds."""
    for known in (*parts.listed, *parts.others):
        if _repeats(part, known):
            problems.append(f'{part.name}: left out, it repeats messages of {known.name}')
            part.close()
            return
    parts.others.append(part)
    if some_listed:
        problems.append(f'{part.name}: not named in metadata.yaml, read too')


def _repeats(part, known) -> bool:
    """Tell whether at least half of a part's messages (topic and log time) are in another."""
    topics = set(part.counts) & set(known.counts)
    if not topics or None in (part.start_ns, known.start_ns):
        return False
    if part.start_ns > known.end_ns or part.end_ns < known.start_ns:
        return False
    there = Counter((record.topic, record.log_ns) for record in known.records(topics, part.start_ns, []))
    here = Counter((record.topic, record.log_ns) for record in part.records(topics, None, []))
    return 2 * (here & there).total() >= part.counts.total() > 0
