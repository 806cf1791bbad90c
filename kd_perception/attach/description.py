# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What is known of a foreign model, field by field, and where each field came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_perception.config import from_mapping
from kd_perception.errors import ConfigError
from kd_perception.models.spec import ModelSpec


class Description:
    """Fields of `ModelSpec` by dotted name, each with its source; what is set later counts."""

    def __init__(self) -> None:
        self._fields: dict[str, tuple[Any, str]] = {}

    def set(self, name: str, value: Any, source: str) -> None:
        """Set one field, such as `input.color`."""
        self._fields[name] = value, source

    def update(self, mapping: Mapping[str, Any], source: str, prefix: str = '') -> None:
        """Set the fields of a mapping; one level of mappings inside becomes dotted names."""
        for name, value in mapping.items():
            if not prefix and name in ('input', 'decoder', 'thresholds') and isinstance(value, Mapping):
                self.update(value, source, f'{name}.')
            else:
                self.set(f'{prefix}{name}', value, source)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field's value, or the default."""
        return self._fields[name][0] if name in self._fields else default

    def drop(self, name: str) -> None:
        """Forget a field."""
        self._fields.pop(name, None)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return field, value and source of each, as text for people."""
        return [(name, _short(value), source) for name, (value, source) in self._fields.items()]

    def spec(self, where: str) -> ModelSpec:
        """
        Return the fields as a spec.

        :raises ConfigError: a field is missing or contradicts another.
        """
        nested: dict[str, Any] = {}
        for name, (value, _) in self._fields.items():
            part, dot, field = name.partition('.')
            if dot:
                nested.setdefault(part, {})[field] = value
            else:
                nested[name] = value
        try:
            return from_mapping(ModelSpec, nested, where)
        except ConfigError as error:
            raise ConfigError(f'{error}; --set FIELD=VALUE gives a field') from error


MAX_SHOWN = 60


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= MAX_SHOWN else f'{text[:MAX_SHOWN - 3]}...'


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        if 'names' in value:
            return f'{len(value["names"])} names; ' + ', '.join(f'{a}: {b}' for a, b in value['to'].items())
        return ', '.join(f'{name}: {_text(item)}' for name, item in value.items()) or 'none'
    if isinstance(value, (list, tuple)):
        return ', '.join(map(_text, value))
    return f'{value:g}' if isinstance(value, float) else str(value)
