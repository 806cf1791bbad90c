# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Configuration: what is accepted, and that every mistake names its place."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest

from kd_perception.config import (
    changed_from_defaults,
    from_mapping,
    load_config,
    load_yaml,
    MAX_CONFIG_BYTES,
    to_mapping,
    with_base,
)
from kd_perception.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (1, 2)
    rates: tuple[float, ...] = ()

    def __post_init__(self):
        if self.size[0] < 0:
            raise ValueError('size must not be negative')


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    mode: Literal['a', 'b'] = 'a'
    limit: float | None = None
    folder: Path | None = None
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    free: Any = None
    on: bool = False
    alternatives: int | str = 0


FULL = {'name': 'x', 'inner': {'size': [3, 4], 'rates': [1, 2.5]}, 'mode': 'b', 'limit': 3, 'folder': 'a/b',
        'weights': {'car': 1}, 'free': [1, {'k': None}], 'on': True, 'alternatives': 'many'}


def test_full_and_minimal():
    full = from_mapping(Outer, FULL, 'here')
    assert full.inner == Inner((3, 4), (1.0, 2.5))
    assert full.limit == 3.0 and isinstance(full.limit, float)
    assert full.folder == Path('a/b')
    assert full.weights == {'car': 1.0}
    assert from_mapping(Outer, {'name': 'x'}, 'here') == Outer('x')


def test_round_trip():
    full = from_mapping(Outer, FULL, 'here')
    assert from_mapping(Outer, to_mapping(full), 'there') == full


def test_changed_values_give_the_configuration_back():
    for mapping in (FULL, {'name': 'x'}, {'name': 'x', 'inner': {'rates': [2]}}):
        settings = from_mapping(Outer, mapping, 'here')
        changed = changed_from_defaults(settings)
        assert from_mapping(Outer, changed, 'there') == settings
    assert changed == {'name': 'x', 'inner': {'rates': [2.0]}}
    assert changed_from_defaults(Outer('x', weights={})) == {'name': 'x'}


@pytest.mark.parametrize('mapping,message', [
    ({}, 'file.name: is missing'),
    ({'name': 'x', 'nmae': 1}, 'file: unknown key nmae; expected alternatives, folder'),
    ({'name': 1}, 'file.name: expected str, got int 1'),
    ({'name': 'x', 'on': 1}, 'file.on: expected bool'),
    ({'name': 'x', 'limit': True}, 'file.limit: expected float'),
    ({'name': 'x', 'limit': float('nan')}, 'file.limit: expected a finite number'),
    ({'name': 'x', 'limit': '3'}, 'file.limit: expected float'),
    ({'name': 'x', 'mode': 'c'}, "file.mode: expected one of a, b, got 'c'"),
    ({'name': 'x', 'inner': []}, 'file.inner: expected a mapping, got list'),
    ({'name': 'x', 'inner': {'size': [1]}}, 'file.inner.size: expected 2 items, got 1'),
    ({'name': 'x', 'inner': {'size': [1, 2.5]}}, r'file.inner.size\[1\]: expected int'),
    ({'name': 'x', 'inner': {'size': [-1, 2]}}, 'file.inner: size must not be negative'),
    ({'name': 'x', 'inner': {'size': 3}}, 'file.inner.size: expected a list'),
    ({'name': 'x', 'weights': {'car': 'heavy'}}, 'file.weights.car: expected float'),
    ({'name': 'x', 'weights': [1]}, 'file.weights: expected'),
    ({'name': 'x', 'alternatives': 1.5}, 'file.alternatives: expected'),
    ([], 'file: expected a mapping, got list'),
])
def test_each_mistake_names_its_place(mapping, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(Outer, mapping, 'file')


def test_load(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('name: x\ninner: {size: [5, 6]}\n')
    assert load_config(Outer, path).inner.size == (5, 6)
    path.write_text('')
    assert load_yaml(path) == {}


@pytest.mark.parametrize('content,message', [
    (b'a: [1', 'a.yaml:'),
    (b'- 1\n- 2\n', 'expected a mapping at the top level, got list'),
    (b'name: x\nname: y\n', "a.yaml:2: key 'name' is given twice"),
    (b'\xff\xfe\x00', 'not UTF-8'),
    (b'a: !!python/object/apply:os.system [ls]', 'a.yaml:1'),
    (b'#' * (MAX_CONFIG_BYTES + 1), 'at most'),
    (b'[' * 5000, 'a.yaml'),
])
def test_bad_file(tmp_path, content, message):
    path = tmp_path / 'a.yaml'
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_yaml(path)
    assert '\n' not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match='absent.yaml: cannot be read'):
        load_yaml(tmp_path / 'absent.yaml')


def test_a_file_may_lie_over_another(tmp_path):
    (tmp_path / 'base.yaml').write_text('name: x\ninner: {size: [5, 6]}\n')
    (tmp_path / 'middle.yaml').write_text('base: base.yaml\nname: y\n')
    (tmp_path / 'top.yaml').write_text('base: middle.yaml\ninner: {size: [7, 8]}\n')
    assert load_config(Outer, tmp_path / 'middle.yaml') == dataclasses.replace(
        load_config(Outer, tmp_path / 'base.yaml'), name='y')
    top = load_config(Outer, tmp_path / 'top.yaml')
    assert (top.name, top.inner.size) == ('y', (7, 8))
    assert with_base({'a': {'b': 1}}, tmp_path / 'any.yaml') == {'a': {'b': 1}}
    merged = with_base({'base': 'base.yaml', 'inner': {'more': 1}, 'name': [2]}, tmp_path / 'any.yaml')
    assert merged == {'name': [2], 'inner': {'size': [5, 6], 'more': 1}}
    assert with_base({'deep': {'er': {'base': 'middle.yaml', 'name': 'z'}}}, tmp_path / 'any.yaml') == {
        'deep': {'er': {'name': 'z', 'inner': {'size': [5, 6]}}}}


@pytest.mark.parametrize('base, message', [
    ('absent.yaml', 'absent.yaml: cannot be read'), ('a.yaml', 'a.yaml: is its own base'),
    ('../a.yaml', 'expected the name of a file in its folder'), ('[1]', 'expected the name of a file')])
def test_bad_bases_are_named(base, message, tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text(f'base: {base}\n')
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, path)
