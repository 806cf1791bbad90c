# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The code style: flake8 with the settings of setup.cfg, and ROS's docstring rules where ROS is."""

from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ['kd_perception', 'launch', 'setup.py', 'test', 'tools']
# Not asked for: how a first line is phrased and ends (D400, D401, D402, D403, D415), on which line it stands
# (D213), raw strings (D301).
FREE = ['D213', 'D301', 'D400', 'D401', 'D402', 'D403', 'D415']


def test_flake8():
    pytest.importorskip('flake8', reason='flake8 is not installed')
    result = subprocess.run([sys.executable, '-m', 'flake8', *SOURCES], cwd=ROOT, capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == 0, '\n' + result.stdout + result.stderr


def test_pep257(capsys, monkeypatch):
    pep257 = pytest.importorskip('ament_pep257.main', reason='ament_pep257 comes with ROS only')
    monkeypatch.chdir(ROOT)
    code = pep257.main(argv=['kd_perception', 'launch', 'setup.py', 'tools', '--add-ignore', *FREE])
    assert code == 0, '\n'.join(
        line for line in sum(map(str.splitlines, capsys.readouterr()), []) if not line.startswith('checking'))
