# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The status command without ROS, on a graph of the test's own: exit codes, JSON, the live screen."""

import contextlib
import json
import sys

import pytest

from kd_perception.cli import status as command
from kd_perception.cli.main import main
from kd_perception.monitoring.board import RawStatus

PLAIN = [RawStatus('student: model', 0, 'model ready'), RawStatus('fallback: camera front', 0, 'NOMINAL')]


@pytest.fixture
def graph(monkeypatch):
    """
    Return run(statuses, arguments): the command on a graph that says `statuses` at once, then nothing.

    The third wait of a live run is ended as Ctrl-C does.
    """
    def run(statuses, *arguments, publishers=()):
        waits = []

        @contextlib.contextmanager
        def listen(board):
            def spin(seconds, condition):
                if not waits and statuses:
                    board.hear(statuses)
                waits.append(seconds)
                if len(waits) > 3 and '--once' not in arguments:
                    raise KeyboardInterrupt
                return condition()
            yield spin, lambda: set(publishers)
        monkeypatch.setattr(command, '_listening', listen)
        monkeypatch.setattr(command, 'require_ros', lambda *packages: None)
        return main(['status', *arguments])
    return run


@pytest.mark.parametrize('level, code', [(0, 0), (1, 1), (2, 3), (3, 3)])
def test_the_exit_code_is_that_of_the_worst_level(graph, capsys, level, code):
    assert graph([*PLAIN, RawStatus('x: y', level, 'so it is')], '--once') == code
    out = capsys.readouterr().out
    assert out.startswith(('OK', 'WARN', 'ERROR', 'STALE')[level] + '  3 of 3 nodes report\n')
    assert 'so it is' in out and '\x1b' not in out


def test_who_is_expected_and_who_only_publishes(graph, capsys):
    assert graph(PLAIN, '--once', '--expect', 'student, /robot/teacher',
                 publishers=['/student', '/hung']) == 3
    out = capsys.readouterr().out
    assert 'missing: /robot/teacher' in out and '/hung' in out and '/robot/teacher  -          never' in out
    assert graph(PLAIN, '--once', '--expect', 'student,fallback') == 0
    capsys.readouterr()
    assert graph(PLAIN, '--once', '--nodes', '/s*', '--json') == 0
    assert [node['name'] for node in json.loads(capsys.readouterr().out)['nodes']] == ['/student']


@pytest.mark.parametrize('arguments', [(), ('--once',), ('--once', '--json'), ('--json',)])
def test_when_nothing_is_heard_it_says_so(graph, capsys, monkeypatch, arguments):
    monkeypatch.setenv('ROS_DOMAIN_ID', '42')
    assert graph([], '--wait', '3', *arguments) == 4
    out, error = capsys.readouterr()
    assert error.count('\n') == 1
    assert 'nothing was heard on /diagnostics within 3 s (ROS_DOMAIN_ID 42)' in error
    if '--json' in arguments:
        assert json.loads(out) == {'level': 'STALE', 'missing': [], 'unheard': [], 'nodes': []}
    else:
        assert out == ''


def test_live_it_prints_on_until_interrupted(graph, capsys):
    assert graph(PLAIN) == 0
    assert capsys.readouterr().out.count('OK  2 of 2 nodes report\n') == 2
    assert graph(PLAIN, '--json') == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(json.loads(line)['level'] == 'OK' for line in lines)


def test_in_a_terminal_the_screen_is_painted_over_and_fits(graph, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    monkeypatch.setenv('COLUMNS', '20')
    monkeypatch.setenv('LINES', '5')
    assert graph(PLAIN) == 0
    screens = capsys.readouterr().out.split(command.CLEAR)[1:]
    assert len(screens) == 2 and all(screen.startswith('\x1b[32mOK\x1b[0m  2 of') for screen in screens)
    assert all(screen.count('\n') < 5 for screen in screens)


@pytest.mark.parametrize('arguments, words', [
    (['--wait', '-1'], '--wait: -1, expected 0 to 3600'), (['--wait', 'nan'], '--wait: nan, expected'),
    (['--stale', '1'], '--stale: 1, expected 1.5 to 3600')])
def test_bad_options_are_refused(graph, capsys, arguments, words):
    assert graph(PLAIN, *arguments) == 2
    assert words in capsys.readouterr().err
