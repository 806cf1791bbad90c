# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Style and types: ruff and mypy as pyproject.toml sets them; ROS's docstring rules where ROS is."""

import importlib.util
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Not asked for: how a first line is phrased and ends (D400, D401, D402, D403, D415), on which line it stands
# (D213), raw strings (D301).
FREE = ['D213', 'D301', 'D400', 'D401', 'D402', 'D403', 'D415']


@pytest.mark.parametrize('command', [['ruff', 'check'], ['mypy']], ids=lambda command: command[0])
def test_source_passes(command):
    if not importlib.util.find_spec(command[0]):
        pytest.skip(f'{command[0]} is not installed; no ROS distribution has it')
    result = subprocess.run([sys.executable, '-m', *command], cwd=ROOT, capture_output=True, text=True,
                            timeout=280)
    assert result.returncode == 0, '\n' + result.stdout + result.stderr


def test_pep257(capsys, monkeypatch):
    pep257 = pytest.importorskip('ament_pep257.main', reason='ament_pep257 comes with ROS only')
    monkeypatch.chdir(ROOT)
    code = pep257.main(argv=['kd_perception', 'launch', 'setup.py', 'tools', '--add-ignore', *FREE])
    assert code == 0, '\n'.join(
        line for line in sum(map(str.splitlines, capsys.readouterr()), []) if not line.startswith('checking'))
