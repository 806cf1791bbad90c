# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The status screen: what it shows of a hybrid, of a node that fell silent, and of figures that are none."""

import json
from pathlib import Path
import re

import pytest

from kd_perception.fallback.state import FallbackState
from kd_perception.levels import Level
from kd_perception.monitoring.board import DiagnosticsBoard, RawStatus
from kd_perception.monitoring.status_view import as_json, GraphStatus, render
from real_reports import detector_reports, drift_report, fallback_reports, hybrid, raw

S = 1_000_000_000
DOCS = Path(__file__).resolve().parents[2] / 'docs' / 'how-to' / 'status.md'


@pytest.fixture
def clock():
    return [0]


@pytest.fixture
def board(clock):
    return DiagnosticsBoard(lambda: clock[0], 3 * S, 60 * S)


@pytest.fixture
def silent_teacher(board, clock):
    """A hybrid whose teacher fell silent four seconds ago, with a recorder and a component that drifts."""
    board.hear(hybrid())
    clock[0] += 4 * S
    board.hear([*raw('/student', [*detector_reports(), drift_report()]),
                *raw('/fallback', fallback_reports())])
    return GraphStatus(board.views(), ('/gate',), ('/driver',))


def table(text, title):
    """Return the rows of a table as lists of words, up to the empty line behind it."""
    block = next(block for block in text.split('\n\n') if block.startswith(title))
    return [re.split(r' {2,}', line.strip()) for line in block.strip().split('\n')]


def test_the_screen(silent_teacher):
    text = render(silent_teacher)
    assert text.startswith('STALE  2 of 4 nodes report, 1 silent: /teacher, missing: /gate\n\n')
    assert table(text, 'NODE') == [
        ['NODE', 'LIFECYCLE', 'REPORT s', 'LEVEL', 'MODEL'],
        ['/fallback', 'active', '0.0', 'WARN', '-'],
        ['/student', 'active', '0.0', 'WARN', 'rectangles 1.0 cpu'],
        ['/teacher', '-', '4.0', 'STALE', 'rectangles 1.0 cpu'], ['/gate', '-', 'never', 'STALE', '-']]
    assert table(text, 'CAMERA') == [
        ['CAMERA', 'NODE', 'LEVEL', 'STATE', 'IN Hz', 'OUT Hz', 'AGE ms', 'p50 ms', 'p95 ms', 'DROPPED'],
        ['front', '/student', 'OK', 'active', '10.00', '10.00', '4.0', '30.000', '30.000',
         '1 (superseded 1)'],
        ['front/teacher', '/teacher', 'STALE', *['-'] * 7]]
    assert table(text, 'HYBRID')[1:] == [
        ['front', '/fallback', 'WARN', 'DEGRADED', '2.00', '20.0%', '50.0%', '0.0%', '8.000', '3', 'closed']]
    remarks = table(text, 'STALE  /teacher')
    assert [row[:2] for row in remarks] == [
        ['STALE', '/teacher: camera front/teacher'], ['STALE', '/teacher: model'],
        ['WARN', '/fallback: camera front'], ['WARN', '/student: camera front drift'],
        ['WARN', '/student: model'], ['OK', '/fallback: recorder'], ['OK', '/fallback: teacher'],
        ['note', '/driver']]
    assert remarks[0][2] == 'no report for 4.0 s; the last one: active'
    assert remarks[3][2] == 'drift of luminance (ks)'


def test_the_docs_show_this_screen(silent_teacher):
    assert f'```\n{render(silent_teacher)}```' in DOCS.read_text()


def test_colours_and_width_change_no_letter(silent_teacher):
    plain, painted = render(silent_teacher), render(silent_teacher, colour=True)
    assert '\x1b' not in plain
    bare = re.sub(r'\x1b\[\d+m', '', painted)
    assert [line.rstrip() for line in bare.split('\n')] == plain.split('\n')
    for level, code in (('OK', 32), ('WARN', 33), ('STALE', 35)):
        assert re.search(rf'\x1b\[{code}m{level} *\x1b\[0m', painted)
    for width in (1, 7, 20, 60):
        cut = re.sub(r'\x1b\[\d+m', '', render(silent_teacher, True, width)).split('\n')
        assert len(cut) == len(plain.split('\n'))
        assert all(len(line) <= width and whole.startswith(line.rstrip())
                   for line, whole in zip(cut, plain.split('\n')))


def test_json_holds_all_that_was_reported(silent_teacher):
    data = json.loads(json.dumps(as_json(silent_teacher)))
    assert (data['level'], data['missing'], data['unheard']) == ('STALE', ['/gate'], ['/driver'])
    nodes = {node['name']: node for node in data['nodes']}
    assert nodes['/teacher']['alive'] is False and nodes['/teacher']['age_s'] == 4.0
    front = nodes['/fallback']['components'][0]
    report = fallback_reports()[2]
    assert front == {'name': 'camera front', 'level': 'WARN', 'message': report.message,
                     'hardware_id': '/front', 'values': dict(report.values)}


@pytest.mark.parametrize('missing, statuses, level', [
    ((), [], Level.STALE), ((), ['x: y'], Level.OK), (('/z',), ['x: y'], Level.STALE)])
def test_the_worst_level(board, missing, statuses, level):
    board.hear([RawStatus(name, 0) for name in statuses])
    assert GraphStatus(board.views(), missing).level == level
    assert render(GraphStatus(board.views(), missing)).startswith(level.name)


def test_all_well_is_one_word_and_no_remark_but_for_what_no_table_shows(board):
    board.hear(raw('/fallback', fallback_reports(state=FallbackState.NOMINAL)))
    board.hear([RawStatus('fallback: camera front', 0, 'NOMINAL', values=fallback_reports()[2].values)])
    text = render(GraphStatus(board.views()))
    assert text.startswith('OK  1 of 1 nodes report\n') and 'WARN' not in text


def test_figures_that_are_none_are_shown_as_none(board):
    board.hear([RawStatus('f: camera c', 0, values=[
        ('output_rate_hz', 'x'), ('gate.frames', '0'), ('gate.sent', '0'), ('teacher_share', 'unknown')]),
        RawStatus('f: teacher', 0), RawStatus('g', 0, 'hello')])
    text = render(GraphStatus(board.views()))
    assert table(text, 'HYBRID')[1] == ['c', '/f', 'OK', '-', 'x', '-', '-', '-', '-', '-', '-']
    assert 'OK  /g  ' in re.sub(' +', '  ', text)
