# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The launch files' arguments; needs no ROS."""

import pytest

from kd_perception.nodes.shared.launch_arguments import boolean, camera_names, number, require_file


@pytest.mark.parametrize('text,value', [('true', True), ('False', False), ('TRUE', True)])
def test_truth_values(text, value):
    assert boolean({'loop': text}, 'loop') is value
    assert boolean({'loop': text}, 'loop', optional=True) is value


def test_only_an_optional_one_may_be_empty():
    assert boolean({'loop': ''}, 'loop', optional=True) is None
    with pytest.raises(ValueError, match='loop:=: expected true or false'):
        boolean({'loop': ''}, 'loop')


@pytest.mark.parametrize('text', ['1', 'yes', ' true', 'None'])
def test_what_is_no_truth_value_is_named(text):
    with pytest.raises(ValueError, match=f'loop:={text}: expected true or false'):
        boolean({'loop': text}, 'loop', optional=True)


def test_numbers_and_their_bounds():
    assert number({'share': '0.25'}, 'share', 0, 1) == 0.25
    assert number({'rate': '-1e3'}, 'rate') == -1000
    assert number({'share': '1'}, 'share', 0, 1) == 1


@pytest.mark.parametrize('text,bounds,told', [
    ('fast', (), 'rate:=fast: expected a number$'), ('', (), 'rate:=: expected a number$'),
    ('nan', (), 'rate:=nan: expected a number$'), ('1.1', (0, 1), 'rate:=1.1: expected a number, 0 to 1$'),
    ('x', (0, 1), 'rate:=x: expected a number, 0 to 1$')])
def test_bad_numbers_are_named(text, bounds, told):
    with pytest.raises(ValueError, match=told):
        number({'rate': text}, 'rate', *bounds)


def test_cameras():
    assert camera_names({'cameras': ' front, rear ,,'}) == ['front', 'rear']
    assert camera_names({'cameras': ''}) == []


def test_files(tmp_path):
    require_file({'params_file': __file__}, 'params_file')
    with pytest.raises(ValueError, match='params_file:=.*: no such file'):
        require_file({'params_file': str(tmp_path)}, 'params_file')
