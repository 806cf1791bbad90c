# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Workers that are stopped, left alone or killed: none stays, and each puts its files away."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

LIMIT_S = 60
# Each call says that it has begun, by a file that holds its process, and waits; `.done` is its clean-up.
PROGRAM = """
import os, pathlib, sys, time
from kd_perception.cli.main import run_command
from kd_perception.cli import status
from kd_perception.processes.workers import worker_pool

def work(name):
    begun = pathlib.Path(sys.argv[1]) / name
    try:
        begun.with_suffix('.new').write_text(str(os.getpid()))
        begun.with_suffix('.new').rename(begun)
        while name != 'short':
            time.sleep(0.01)
        return name
    finally:
        begun.with_suffix('.done').touch()

def run(args):
    with worker_pool(2) as spread:
        print(list(spread(work, sys.argv[2:])))
    return 0

if __name__ == '__main__':
    status.run = run
    sys.exit(run_command('status', []))
"""


def heeds_ctrl_c():
    # A suite in the background of a shell ignores it, and its children with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def begin(tmp_path):
    """Start the program in a process group of its own; it ends with the test, as do its workers."""
    program, processes = tmp_path / 'program.py', []
    program.write_text(PROGRAM)

    def start(*calls):
        process = subprocess.Popen(
            [sys.executable, program, tmp_path, *calls], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True, preexec_fn=heeds_ctrl_c,
            env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])})
        processes.append(process)
        return process
    yield start
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def wait_until(condition, what):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def workers_of(tmp_path, *names):
    wait_until(lambda: all((tmp_path / name).exists() for name in names), 'the calls begin')
    return [int((tmp_path / name).read_text()) for name in names]


def assert_none_left(process):
    def gone():
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False
    process.wait(LIMIT_S)
    wait_until(gone, 'all processes end')


@pytest.mark.parametrize('send,number,told', [
    (os.killpg, signal.SIGINT, 'interrupted'), (os.kill, signal.SIGINT, 'interrupted'),
    (os.killpg, signal.SIGTERM, 'terminated'), (os.kill, signal.SIGTERM, 'terminated')])
def test_a_signal_to_the_parent_or_to_all_ends_all_with_one_line(send, number, told, begin, tmp_path):
    process = begin('a', 'b', 'c', 'd')
    workers_of(tmp_path, 'a', 'b')
    send(process.pid, number)
    assert process.wait(LIMIT_S) == 128 + number
    assert_none_left(process)
    lines = process.stderr.read().splitlines()
    # In a group's SIGTERM a worker may be the first to be told.
    assert len(lines) == 1 and lines[0].startswith('kd_perception status: '), lines
    assert lines[0].endswith(told), lines
    assert {path.name for path in tmp_path.glob('*.done')} == {'a.done', 'b.done'}


def test_a_signal_while_workers_start_is_one_line_too(begin, tmp_path):
    process = begin('a', 'b')
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    wait_until(lambda: len(children.read_text().split()) > 1, 'the workers start')
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    assert_none_left(process)
    assert process.stderr.read() == 'kd_perception status: interrupted\n'


def test_workers_end_with_a_parent_that_is_killed(begin, tmp_path):
    process = begin('a', 'b')
    workers_of(tmp_path, 'a', 'b')
    process.kill()
    assert_none_left(process)
    assert {path.name for path in tmp_path.glob('*.done')} == {'a.done', 'b.done'}


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_ended_from_outside_is_an_error(number, begin, tmp_path):
    process = begin('a', 'b')
    os.kill(workers_of(tmp_path, 'a', 'b')[0], number)
    assert process.wait(LIMIT_S) == 2
    assert_none_left(process)
    lines = process.stderr.read().splitlines()
    assert len(lines) == 1 and 'error: a worker process was killed; if memory' in lines[0], lines
    assert (tmp_path / 'b.done').exists(), 'the other one has put its files away'


def test_results_come_in_order(begin):
    output, errors = begin('short', 'short', 'short').communicate(timeout=LIMIT_S)
    assert (output, errors) == ("['short', 'short', 'short']\n", '')
