# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What is remembered of /diagnostics: who reports, who has gone silent, and what is refused."""

import itertools

import pytest

from kd_perception.levels import Level
from kd_perception.monitoring import board as board_module
from kd_perception.monitoring.board import DiagnosticsBoard, RawStatus, split_name
from real_reports import hybrid

S = 1_000_000_000
STALE_NS, FORGET_NS = 5 * S, 60 * S


@pytest.fixture
def clock():
    return [1000 * S]


@pytest.fixture
def board(clock):
    return DiagnosticsBoard(lambda: clock[0], STALE_NS, FORGET_NS)


@pytest.mark.parametrize('name, expected', [
    ('fallback: camera front', ('/fallback', 'camera front')),
    ('robot/fallback: camera front/teacher', ('/robot/fallback', 'camera front/teacher')),
    ('/fallback: a: b', ('/fallback', 'a: b')), ('driver', ('/driver', '')), ('', ('/', ''))])
def test_names_of_statuses(name, expected):
    assert split_name(name) == expected


def test_the_newest_report_of_each_component_counts(board, clock):
    board.hear(hybrid())
    clock[0] += S
    board.hear([RawStatus('student: model', 2, 'broken')])
    views = {view.name: view for view in board.views()}
    assert list(views) == ['/fallback', '/student', '/teacher']
    assert [report.name for report in views['/fallback'].reports] == ['camera front', 'recorder', 'teacher']
    model = views['/student'].reports[2]
    assert (model.name, model.level, model.message, model.values) == ('model', Level.ERROR, 'broken', ())
    assert views['/student'].level == Level.ERROR and views['/student'].age_ns == 0
    assert views['/fallback'].age_ns == S and views['/fallback'].lifecycle == 'active'
    assert all(view.alive for view in views.values()) and board.messages == 2 and not board.refused


def test_a_silent_node_is_stale_then_forgotten_and_returns(board, clock):
    board.hear(hybrid())
    clock[0] += STALE_NS
    assert all(view.alive for view in board.views())
    board.hear([RawStatus('student: model', 0)])
    clock[0] += S
    views = {view.name: view for view in board.views()}
    assert views['/student'].alive and not views['/fallback'].alive
    dead = views['/fallback']
    assert {report.level for report in dead.reports} == {Level.STALE} and dead.level == Level.STALE
    assert dead.reports[0].message.startswith('no report for 6.0 s; the last one: DEGRADED')
    assert dead.lifecycle == '', 'nobody knows'
    board.hear([RawStatus('fallback: teacher', 0, 'answers')])
    view = next(view for view in board.views() if view.name == '/fallback')
    assert view.alive and [report.name for report in view.reports] == ['teacher'], 'only what it said since'
    clock[0] += FORGET_NS + 1
    assert board.views() == ()


def test_a_component_that_its_node_no_longer_mentions_is_forgotten(board, clock):
    board.hear([RawStatus('a: x', 0), RawStatus('a: y', 0)])
    for _ in range(6):
        clock[0] += S
        board.hear([RawStatus('a: x', 0)])
    assert [report.name for report in board.views()[0].reports] == ['x']


def test_only_nodes_of_the_patterns_are_heard(clock):
    board = DiagnosticsBoard(lambda: clock[0], STALE_NS, FORGET_NS, ['/robot/*', '/x'])
    board.hear([RawStatus(name, 0) for name in ('robot/a: m', 'x: m', 'xy: m', 'other: m')])
    assert [view.name for view in board.views()] == ['/robot/a', '/x'] and not board.refused


@pytest.mark.parametrize('status, reason', [
    (RawStatus('', 0), 'bad_name'), (RawStatus('/', 0), 'bad_name'), (RawStatus(': x', 0), 'bad_name'),
    (RawStatus('a' * 257, 0), 'bad_name'), (RawStatus('a\x1b[2J: b', 0), 'bad_name'),
    (RawStatus('a: b\n', 0), 'bad_name'), (RawStatus('a: b', 4), 'bad_level'),
    (RawStatus('a: b', 255), 'bad_level')])
def test_a_status_that_is_none_is_refused_and_counted(board, status, reason):
    assert board.hear([status, RawStatus('good: one', 0)]) and board.refused == {reason: 1}
    assert [view.name for view in board.views()] == ['/good']


def test_bad_values_cost_themselves_only_and_texts_are_fit_for_a_terminal(board):
    many = [(f'k{i}', '1') for i in range(board_module.MAX_VALUES)]
    board.hear([RawStatus('a: b', 0, 'x\x1b[31m\n  y' + 'z' * 9999, 'h\0',
                          [('', '1'), ('k' * 129, '1'), ('a\tb', '1'), ('long', '1' * 4097), ('twice', '1'),
                           ('twice', '2'), ('esc', '\x1b]0;t\7')])])
    report = board.views()[0].reports[0]
    assert report.values == (('twice', '1'), ('esc', '?]0;t?')) and board.refused == {'bad_value': 5}
    assert report.message.startswith('x?[31m yzzz') and len(report.message) == 500
    assert report.hardware_id == 'h?'
    board.hear([RawStatus('a: b', 0, values=[*many, ('more', '1')])])
    assert len(board.views()[0].reports[0].values) == len(many)
    assert board.refused == {'bad_value': 5, 'too_many_values': 1}


def test_memory_is_bounded_and_those_that_report_keep_their_place(board, clock):
    numbers = itertools.count()
    board.hear([RawStatus('good: one', 0)])
    for _ in range(20):
        clock[0] += S
        board.hear([RawStatus(f'n{next(numbers)}: x', 0) for _ in range(50)] + [RawStatus('good: one', 0)])
        assert len(board.views()) <= board_module.MAX_NODES
    assert '/good' in [view.name for view in board.views()]
    assert board.refused['too_many_nodes'] > 100
    board.hear([RawStatus(f'good: {i}', 0) for i in range(100)])
    view = next(view for view in board.views() if view.name == '/good')
    assert len(view.reports) == board_module.MAX_COMPONENTS
    assert board.refused['too_many_components'] == 100 + 1 - board_module.MAX_COMPONENTS
