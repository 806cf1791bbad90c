# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Typed configuration: YAML (or JSON) mappings into frozen dataclasses.

A typing mistake in a configuration must not become a silent default: an unknown key, a missing
field, a wrong type or a value out of range raises `ConfigError`, which names the file and the
dotted field.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
from pathlib import Path
import types
import typing
from typing import Any, cast, TypeVar

import yaml

from kd_perception.errors import ConfigError
from kd_perception.files import read_text

MAX_CONFIG_BYTES = 1 << 20

T = TypeVar('T')
_UNION_TYPES = (typing.Union, getattr(types, 'UnionType', typing.Union))


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (YAML itself keeps the last one silently)."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, collections.abc.Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'key {key!r} is given twice', key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path) -> dict:
    """
    Read one YAML file whose top level is a mapping.

    :param path: file of at most `MAX_CONFIG_BYTES`.
    :raises ConfigError: the file is missing, too large, not UTF-8, not YAML, holds a key twice,
        or its top level is not a mapping.
    """
    path = Path(path)
    text = read_text(path, MAX_CONFIG_BYTES, ConfigError)
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, 'problem_mark', None)
        where = f'{path}:{mark.line + 1}' if mark else str(path)
        problem = getattr(error, 'problem', None) or 'is not valid YAML'
        raise ConfigError(f'{where}: {problem}') from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f'{path}: expected a mapping at the top level, got {_type_name(data)}')
    return data


def load_config(cls: type[T], path: str | Path) -> T:
    """Read a YAML file into the frozen dataclass `cls`; see `load_yaml`, `with_base` and `from_mapping`."""
    return from_mapping(cls, with_base(load_yaml(path), path), str(path))


def with_base(mapping: Any, path: str | Path) -> Any:
    """
    Lay a mapping that has a key `base` over the file that the key names, at any depth.

    Mappings are merged key by key; any other value, a list too, takes the place of the base's.

    :param path: the file that the mapping is from; `base` is the name of a file in its folder.
    :raises ConfigError: `base` is no such name, cannot be read, or leads back to itself.
    """
    seen = [Path(path)]
    changes = []
    while isinstance(mapping, dict) and 'base' in mapping:
        name = mapping['base']
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f'{seen[-1]}.base: expected the name of a file in its folder, got {name!r}')
        changes.append({key: value for key, value in mapping.items() if key != 'base'})
        seen.append(seen[-1].parent / name)
        if seen[-1] in seen[:-1]:
            raise ConfigError(f'{seen[-1]}: is its own base')
        mapping = load_yaml(seen[-1])
    for change in reversed(changes):
        mapping = _merged(mapping, change)
    if isinstance(mapping, dict):
        # All files of a chain lie in one folder: a name further in means the same wherever it stands.
        return {key: with_base(value, path) for key, value in mapping.items()}
    return mapping


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return {**base, **{key: _merged(base.get(key), value) for key, value in change.items()}}


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """
    Build a dataclass from a mapping, checking every key and type.

    Understands nested dataclasses, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, `Optional`,
    `Literal`, `Path`, `Any` and plain scalars. An int is taken where a float is asked for, never
    the other way round; a bool is never a number; floats must be finite.

    :param where: how messages name the mapping, for example the file's path.
    :raises ConfigError: naming `where.field`, what was expected and what was found; also when the
        dataclass's own `__post_init__` raises ValueError.
    """
    if not isinstance(mapping, collections.abc.Mapping):
        raise ConfigError(f'{where}: expected a mapping, got {_type_name(mapping)}')
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    hints = _type_hints(cast(Any, cls))
    unknown = [str(key) for key in mapping if key not in fields]
    if unknown:
        raise ConfigError(
            f'{where}: unknown key {", ".join(sorted(unknown))}; expected {", ".join(sorted(fields))}')
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], f'{where}.{name}')
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f'{where}.{name}: is missing')
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f'{where}: {error}') from error


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields; working them out takes a millisecond, lists hold thousands."""
    return typing.get_type_hints(cls)


def to_mapping(value: Any) -> Any:
    """Turn a configuration dataclass back into plain dicts, lists and scalars (for YAML, JSON)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, collections.abc.Mapping):
        return {str(key): to_mapping(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def changed_from_defaults(value: Any) -> dict[str, Any]:
    """
    Turn a configuration dataclass into plain values as `to_mapping` does, leaving out what is as by default.

    `from_mapping` of the result gives the same configuration back, as long as the defaults stay.
    """
    result = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if not field.init or item == _default(field):
            continue
        result[field.name] = _changed(item)
    return result


def _changed(item: Any) -> Any:
    if dataclasses.is_dataclass(item):
        return changed_from_defaults(item)
    if isinstance(item, (list, tuple)):
        return [_changed(each) for each in item]
    return to_mapping(item)


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNION_TYPES:
        if value is None and type(None) in args:
            return None
        inner = [arg for arg in args if arg is not type(None)]
        if len(inner) == 1:
            return _convert(inner[0], value, where)
        for arg in inner:
            try:
                return _convert(arg, value, where)
            except ConfigError:
                continue
        raise _wrong(where, hint, value)
    if origin is typing.Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
        raise ConfigError(f'{where}: expected one of {", ".join(map(str, args))}, got {value!r}')
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, collections.abc.Mapping):
            raise _wrong(where, hint, value)
        return {_convert(args[0], k, where): _convert(args[1], v, f'{where}.{k}') for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_mapping(cast(Any, hint), value, where)
    return _convert_scalar(hint, value, where)


def _convert_tuple(args: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f'{where}: expected a list, got {_type_name(value)}')
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ConfigError(f'{where}: expected {len(args)} items, got {len(value)}')
    return tuple(_convert(arg, item, f'{where}[{i}]') for i, (arg, item) in enumerate(zip(args, value)))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f'{where}: expected a finite number, got {value}')
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise _wrong(where, hint, value)


def _wrong(where: str, hint: Any, value: Any) -> ConfigError:
    expected = getattr(hint, '__name__', hint)
    return ConfigError(f'{where}: expected {expected}, got {_type_name(value)} {value!r:.60}')


def _type_name(value: Any) -> str:
    return {dict: 'mapping', list: 'list', type(None): 'nothing'}.get(type(value), type(value).__name__)
