# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The dispatcher: help, exit codes, one-line errors, lazy imports."""

import subprocess
import sys

import pytest

from kd_perception.cli import main as cli
from kd_perception.errors import BagError


class Command:
    HELP = 'Do it.'
    EXAMPLES = '  kd_perception demo'

    def __init__(self, error=None):
        self.error = error

    def add_arguments(self, parser):
        parser.add_argument('--level', type=int, default=0)

    def run(self, args):
        if self.error:
            raise self.error
        return args.level


def install(monkeypatch, command):
    monkeypatch.setattr(cli.importlib, 'import_module', lambda name: command)


def test_result_is_the_exit_code(monkeypatch):
    install(monkeypatch, Command())
    assert cli.main(['demo']) == 0
    assert cli.main(['demo', '--level', '1']) == 1


def test_our_errors_are_one_line_and_exit_2(monkeypatch, capsys):
    install(monkeypatch, Command(BagError('x.mcap: is empty')))
    assert cli.main(['demo']) == 2
    assert capsys.readouterr().err == 'kd_perception demo: error: x.mcap: is empty\n'


def test_other_errors_are_not_hidden(monkeypatch):
    install(monkeypatch, Command(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(['demo'])


def test_interrupt_and_missing_package(monkeypatch, capsys):
    install(monkeypatch, Command(KeyboardInterrupt()))
    assert cli.main(['demo']) == 130
    install(monkeypatch, Command(ModuleNotFoundError("No module named 'torch'", name='torch')))
    assert cli.main(['demo']) == 2
    assert "needs the Python package 'torch'" in capsys.readouterr().err


def test_unknown_command_and_no_command(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(['dance'])
    assert error.value.code == 2
    assert 'invalid choice' in capsys.readouterr().err
    assert cli.main([]) == 2
    assert 'detect' in capsys.readouterr().out


def test_help_of_the_program_imports_no_command():
    code = ('import sys; from kd_perception.cli.main import main\n'
            'try: main(["--help"])\nexcept SystemExit as e: assert e.code == 0\n'
            'heavy = {"numpy", "cv2", "onnxruntime", "rclpy", "torch"} & set(sys.modules)\n'
            'assert not heavy, heavy')
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert 'kd_perception COMMAND --help' in result.stdout
