# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Model files side by side on held-out images: the same images, and differences with their chance."""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.benchmark.rectangle_model import write_rectangle_model
from kd_perception.evaluation.metrics.class_matches import ClassMatches
from kd_perception.training.compare import paired_interval
from kd_perception.training.data.rendered import render_dataset

CONFIG = """\
labels: [Car, Pedestrian, Cyclist]
train_hw: [64, 96]
input_hw: [64, 96]
steps: 1
init: {kind: random}
datasets:
  - {folder: site, width_px: [100, 200], train_below: 0.5, develop: true}
"""


def run(*arguments):
    return subprocess.run([sys.executable, '-m', 'kd_perception.training.compare', *map(str, arguments)],
                          capture_output=True, text=True, timeout=120)


def matches(scores, hits, images, count):
    return ClassMatches(np.array(scores), np.array(hits), np.array(images), np.ones(count, int))


def test_a_model_is_compared_with_the_first_on_what_is_held_out(tmp_path):
    render_dataset(tmp_path / 'data' / 'site', 12, 0)
    (tmp_path / 'c.yaml').write_text(CONFIG)
    one, other = (write_rectangle_model(tmp_path / f'{name}.onnx', labels=('Car', 'Pedestrian', 'Cyclist'))
                  for name in ('one', 'other'))
    given = ('--config', tmp_path / 'c.yaml', '--data', tmp_path / 'data')
    done = run(*given, '--model', one, '--model', other)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    first, second = ([row for row in rows if row[0] == str(path)] for path in (one, other))
    assert [row[1:5] for row in first] == [row[1:5] for row in second]
    assert {row[2] for row in rows} == {'site', 'all'}
    assert all(row[5:] == ['+0.000', '[0.000,', '0.000]'] for row in second if row[4] != 'nan')
    whole = run(*given, '--part', 'site', '--model', one)
    assert whole.returncode == 0
    held, every = (sum(int(line.split()[3]) for line in text.splitlines()
                       if ' all ' in line and line.startswith(str(one)))
                   for text in (done.stdout, whole.stdout))
    assert 0 < held < every, 'half of the images is held out'


@pytest.mark.parametrize('more, message', [
    (('--part', 'site@2'), 'expected FOLDER'), (('--part', 'nowhere'), 'nowhere'),
    (('--model', 'student@big'), 'expected camera, model or WIDTHxHEIGHT')])
def test_wrong_input_is_one_line(tmp_path, more, message):
    render_dataset(tmp_path / 'data' / 'site', 2, 0)
    (tmp_path / 'c.yaml').write_text(CONFIG.replace('0.5', '0.0'))
    done = run('--config', tmp_path / 'c.yaml', '--data', tmp_path / 'data', *more, '--model', 'student')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and message in done.stderr


def test_the_interval_is_of_differences_on_the_same_images():
    count = 60
    rng = np.random.default_rng(0)
    half = rng.random(count) < 0.5
    weak = matches(np.ones(count), half, np.arange(count), count)
    equal = paired_interval(weak, weak, [np.arange(count)])
    assert equal == (0, 0)
    strong = matches(np.ones(count), np.ones(count, bool), np.arange(count), count)
    low, high = paired_interval(weak, strong, [np.arange(30), np.arange(30, count)])
    assert 0 < low < strong.average_precision() - weak.average_precision() < high
