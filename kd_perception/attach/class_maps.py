# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Class maps as data: those that ship, a user's own, and the one that fits a network's names."""

from __future__ import annotations

import ast
from collections.abc import Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any

from kd_perception.config import load_config, load_yaml
from kd_perception.errors import ConfigError
from kd_perception.files import read_text
from kd_perception.models.class_map import ClassMap, RiderRule
from kd_perception.resources import config_folder

FIRST_LABELS = ('Car', 'Pedestrian', 'Cyclist')
MAX_NAMES_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class ClassMapFile:
    """
    A file of `config/class_maps`: a label set and what its classes become.

    :param names: the classes by number, where the label set has an order of its own.
    """

    to: dict[str, str]
    names: tuple[str, ...] = ()
    rider: RiderRule | None = None

    def __post_init__(self):
        """Check that the file, where it has names, agrees with itself."""
        if self.names:
            ClassMap(self.names, self.to, self.rider)

    def for_names(self, names: Sequence[str]) -> ClassMap | None:
        """
        Return the map for a network with these classes; None where it maps none of them.

        Names agree whatever their case, with blanks for underscores.
        """
        here = {_key(name): name for name in names if name}
        to = {here[_key(name)]: label for name, label in self.to.items() if _key(name) in here}
        if not to:
            return None
        return ClassMap(tuple(names), to, self._rider(here))

    def _rider(self, here: dict[str, str]) -> RiderRule | None:
        if self.rider is None:
            return None
        parts = {part: tuple(here[_key(name)] for name in getattr(self.rider, part) if _key(name) in here)
                 for part in ('person', 'machine', 'other_machine')}
        return dataclasses.replace(self.rider, **parts) if parts['person'] and parts['machine'] else None


def _key(name: str) -> str:
    return name.lower().replace('_', ' ').strip()


def shipped_maps() -> dict[str, Path]:
    """Return name -> file of the maps that ship."""
    return {path.stem: path for path in sorted((config_folder() / 'class_maps').glob('*.yaml'))}


def load_class_map(name_or_path: str) -> ClassMapFile:
    """
    Read a map by the name of one that ships, or by path.

    :raises ConfigError: there is none, or it is malformed.
    """
    maps = shipped_maps()
    if name_or_path in maps:
        return load_config(ClassMapFile, maps[name_or_path])
    if not Path(name_or_path).is_file():
        raise ConfigError(f'class map {name_or_path!r}: no such file, nor one of {", ".join(maps)}')
    return load_config(ClassMapFile, Path(name_or_path))


def fitting_map(names: Sequence[str]) -> tuple[str, ClassMap] | None:
    """Return the shipped map that knows most of a network's names, with its name; None where none does."""
    fits = []
    for name in shipped_maps():
        found = load_class_map(name)
        fitted = found.for_names(names)
        if fitted is not None:
            known = {_key(each) for each in found.names or found.to}
            strangers = sum(_key(each) not in known for each in names if each)
            fits.append((len(fitted.to) + (fitted.rider is not None), -strangers, name, fitted))
    return max(fits, key=lambda entry: entry[:2])[2:] if fits else None


def labels_of(classes: ClassMap) -> tuple[str, ...]:
    """Return the labels that a map leads to: Car, Pedestrian, Cyclist first, then in the map's order."""
    used = [*classes.to.values(), *([classes.rider.label] if classes.rider else [])]
    return tuple(dict.fromkeys([*(label for label in FIRST_LABELS if label in used), *used]))


def changed(classes: ClassMap | None, names: Sequence[str], changes: Sequence[str]) -> ClassMap:
    """
    Apply changes 'NAME=LABEL' ('NAME=' drops a class) to a map, or make one of them alone.

    :raises ConfigError: a change is malformed, or names a class that the network does not have.
    """
    to = dict(classes.to) if classes else {}
    for text in changes:
        name, equals, label = text.partition('=')
        if not equals or name not in names or not name:
            raise ConfigError(f'--map {text}: expected NAME=LABEL with a class of the network '
                              f'({", ".join(filter(None, names))})')
        to.pop(name, None)
        if label:
            to[name] = label
    try:
        return ClassMap(tuple(names), to, classes.rider if classes else None)
    except ValueError as error:
        raise ConfigError(f'--map: {error}') from error


def read_names(path: Path) -> tuple[str, ...]:
    """
    Read a network's class names by number.

    :param path: text with a name a line, .csv whose last column is the name, or YAML or JSON: a list, or a
        mapping with `names` or `id2label`.
    :raises ConfigError: the file is missing or holds no names.
    """
    text = read_text(path, MAX_NAMES_BYTES, ConfigError)
    if path.suffix.lower() in ('.yaml', '.yml', '.json'):
        try:
            content: Any = json.loads(text) if path.suffix.lower() == '.json' else load_yaml(path)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f'{path}: is not valid JSON ({error})') from error
        if isinstance(content, dict):
            content = content.get('names', content.get('id2label', content))
        names = by_number(content)
    else:
        lines = [line.strip() for line in text.splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        if path.suffix.lower() == '.csv':
            lines = [line.rsplit(',', 1)[-1].strip() for line in lines]
        names = tuple(lines)
    if not any(names):
        raise ConfigError(f'{path}: holds no class names')
    return names


def by_number(content: Any) -> tuple[str, ...]:
    """Return names from a list, or from a mapping whose keys are numbers; empty for anything else."""
    if isinstance(content, (list, tuple)):
        return tuple(map(str, content))
    try:
        numbered = {int(number): str(name) for number, name in content.items()}
    except (AttributeError, TypeError, ValueError):
        return ()
    if not numbered or min(numbered) < 0 or max(numbered) >= 10_000:
        return ()
    return tuple(numbered.get(number, '') for number in range(max(numbered) + 1))


def names_in_metadata(text: str) -> tuple[str, ...]:
    """Return class names from what an exporter wrote: JSON or a Python literal; empty where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return by_number(read(text[:MAX_NAMES_BYTES]))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return ()
