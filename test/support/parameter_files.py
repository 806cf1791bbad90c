# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What every configuration file owes to the parameter table that it belongs to."""

import re

from kd_perception.nodes.shared.parameters import check_values
import yaml


def check_table(table, check_combination):
    """Assert that names differ, defaults are fine, and every parameter is explained and bounded."""
    defaults = {spec.name: spec.default for spec in table}
    assert len(defaults) == len(table), 'names differ'
    assert check_values(table, defaults) == '' and check_combination(defaults) == ''
    for spec in table:
        assert re.fullmatch('[a-z][a-z0-9_]*', spec.name)
        assert spec.description.endswith('.') and '|' not in spec.description
        assert (spec.minimum is None) == (spec.maximum is None)
        assert spec.type in ('int', 'double') or spec.minimum is None


def check_config_file(path, table):
    """Assert that the file holds the table's names, order, values and types, each with its explanation."""
    text = path.read_text()
    parameters = yaml.safe_load(text)['/**']['ros__parameters']
    defaults = {spec.name: spec.default for spec in table}
    assert parameters == defaults
    assert list(parameters) == list(defaults), 'in the same order'
    assert all(type(parameters[name]) is type(defaults[name]) for name in defaults), 'ROS minds 1 and 1.0'
    lines = text.splitlines()
    for spec in table:
        index = next(i for i, line in enumerate(lines) if line.startswith(f'    {spec.name}:'))
        comment = []
        while lines[index - 1].startswith('    # ') and '---' not in lines[index - 1]:
            index -= 1
            comment.insert(0, lines[index].strip('# '))
        explanation = ' '.join(comment)
        assert spec.description in explanation and spec.bounds in explanation, spec.name
        assert ('live' in comment[-1]) == (spec.changes == 'live'), spec.name
