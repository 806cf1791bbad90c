# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A part of a set as a folder of its own: the very images that training leaves out."""

import subprocess
import sys

import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.training.data.datasets import load_dataset
from kd_perception.training.data.rendered import render_dataset
from kd_perception.training.held_out import part_of
from kd_perception.training.settings.run import DatasetSettings


def run(*arguments):
    return subprocess.run([sys.executable, '-m', 'kd_perception.training.held_out', *map(str, arguments)],
                          capture_output=True, text=True, timeout=60)


def test_held_out_is_what_training_leaves_out(tmp_path):
    render_dataset(tmp_path / 'data' / 'site', 12, 0)
    settings = DatasetSettings('site', (100, 200), train_below=0.5, develop=True)
    trained, held = load_dataset(tmp_path / 'data', settings)
    assert trained and held
    out = tmp_path / 'held'
    done = run('--data', tmp_path / 'data', '--folder', 'site', '--from', '0.5', '--out', out)
    assert done.returncode == 0 and f'{len(held)} images' in done.stdout
    assert {path.stem for path in (out / 'images').iterdir()} == {image.name for image in held}
    assert {path.stem for path in (out / 'label_2').iterdir()} == {image.name for image in held}
    assert all(path.read_bytes() for path in out.rglob('*.*'))
    assert {i.name for i in part_of(tmp_path / 'data', 'site', high=0.5)} == {i.name for i in trained}

    again = run('--data', tmp_path / 'data', '--folder', 'site', '--from', '0.5', '--out', out)
    assert again.returncode == 2 and 'exists and is not empty' in again.stderr
    none = run('--data', tmp_path / 'data', '--folder', 'site', '--from', '1', '--out', tmp_path / 'none')
    assert none.returncode == 2 and none.stderr.count('\n') == 1 and 'no image' in none.stderr
