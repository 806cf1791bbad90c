# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameter tables of all nodes, and the files that tools/parameter_files.py writes from them."""

import importlib
import importlib.util
from pathlib import Path
import re

import pytest
import yaml

from kd_perception.nodes.shared.parameters import check_values, ParameterSpec

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location('parameter_files', ROOT / 'tools' / 'parameter_files.py')
parameter_files = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(parameter_files)
TABLES = {name: node.table for name, node in parameter_files.NODES.items()}


@pytest.mark.parametrize('path, text', parameter_files.current_texts().items(), ids=lambda value: value[:40])
def test_file_is_current(path, text):
    assert (ROOT / path).read_text() == text, 'run `make params`'


@pytest.mark.parametrize('node', TABLES)
def test_table_is_sound(node):
    table = TABLES[node]
    defaults = {spec.name: spec.default for spec in table}
    assert len(defaults) == len(table), 'names differ'
    assert check_values(table, defaults) == ''
    reason = importlib.import_module(f'kd_perception.nodes.{node}.parameters').check_combination(defaults)
    # Of all nodes the replay alone needs to be told something.
    assert reason.startswith('input: is empty') if node == 'replay' else reason == ''
    assert table[0].section
    for spec in table:
        assert re.fullmatch('[a-z][a-z0-9_]*', spec.name)
        assert spec.description.endswith('.') and '|' not in spec.description
        assert (spec.minimum is None) == (spec.maximum is None)
        assert spec.type in ('int', 'double') or spec.minimum is None


@pytest.mark.parametrize('node', TABLES)
def test_config_file_gives_the_defaults(node):
    parameters = yaml.safe_load((ROOT / 'config' / f'{node}.yaml').read_text())['/**']['ros__parameters']
    defaults = {spec.name: spec.default for spec in TABLES[node]}
    assert list(parameters.items()) == list(defaults.items())
    assert all(type(parameters[name]) is type(defaults[name]) for name in defaults), 'ROS minds 1 and 1.0'


def test_what_is_written_of_a_parameter(monkeypatch):
    table = [ParameterSpec('a_b', 'double', 1.0, "It's. " + 'Words ' * 20 + 'end.', changes='live', minimum=0,
                           maximum=2, model_default=-1, section='First'),
             ParameterSpec('names', 'string_list', ["it's", ''], 'What.')]
    assert parameter_files.parameter_table(table[1:]).splitlines()[-1] == \
        "| `names` | string_list | `['it''s', '']` | unconfigured | What. |"
    monkeypatch.setitem(parameter_files.NODES, 'detector', parameter_files.Node(table, 'README.md'))
    lines = parameter_files.config_file('detector').splitlines()
    assert max(map(len, lines)) <= parameter_files.WIDTH
    assert lines[-4:] == [
        '    #   (0 to 2 or -1; live)', '    a_b: 1.0', '    # What.', "    names: ['it''s', '']"]
    assert '    # --- First ---' in lines


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match='make params: parameters'):
        parameter_files.with_table('# Page\n', 'parameters', 'table')
