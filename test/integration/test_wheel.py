# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`pip install .`: executables where `ros2 run` looks, and nothing in bin/ that hides other programs."""

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

from kd_perception.cli.main import COMMANDS
from ros_harness import REPOSITORY


def test_pip_installs_the_executables_where_ros_looks(tmp_path):
    source, prefix = tmp_path / 'source', tmp_path / 'prefix'
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
    if subprocess.run([*pip, '--version'], capture_output=True, check=False).returncode:
        pytest.skip('pip is not installed')
    # Without the models, which are most of its bytes.
    shutil.copytree(REPOSITORY, source, ignore=shutil.ignore_patterns(
        '.git', '.venv*', 'build', 'test', 'docs', '*.onnx', '*.egg-info', '__pycache__'))
    done = subprocess.run(
        [*pip, 'install', '--quiet', '--no-deps', '--no-build-isolation', '--no-index', '--prefix',
         str(prefix), str(source)], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    executables = prefix / 'lib' / 'kd_perception'
    nodes = {path.stem for path in (REPOSITORY / 'kd_perception' / 'nodes').glob('*_node.py')}
    assert {path.name for path in executables.iterdir()} == nodes | set(COMMANDS)
    assert [path.name for path in (prefix / 'bin').iterdir()] == ['kd_perception']
    assert (prefix / 'share' / 'kd_perception' / 'LICENSE').is_file()
    packages = sysconfig.get_path('purelib', vars={'base': str(prefix), 'platbase': str(prefix)})
    environment = {**os.environ, 'PYTHONPATH': packages,
                   'PATH': os.pathsep.join((os.path.dirname(sys.executable), os.environ['PATH']))}
    for name in ('check-labels', 'model'):
        shown = subprocess.run([str(executables / name), '--help'], capture_output=True, text=True,
                               env=environment, check=False, timeout=60, cwd=tmp_path)
        assert shown.returncode == 0 and f'kd_perception {name}' in shown.stdout, shown.stderr


def test_the_environment_of_make_has_them_too():
    """Its editable install is another kind of wheel, whose executables make_env.py moves."""
    folder = os.path.join(sys.prefix, 'lib', 'kd_perception')
    if not os.path.isdir(folder):
        pytest.skip('not the environment that make sets up')
    nodes = {path.stem for path in (REPOSITORY / 'kd_perception' / 'nodes').glob('*_node.py')}
    assert set(os.listdir(folder)) == nodes | set(COMMANDS)
