# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Outputs that cannot be written: one line and exit code 2 from each command, and no half file."""

import json
from pathlib import Path
import subprocess
import sys

import cv2
import pytest

pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from installed import require
from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from kd_perception.cli.main import COMMANDS, main

SMOKE = Path(__file__).parents[2] / 'config' / 'training'
LABEL = 'Car 0.00 0 -1.57 16 24 48 64 1.5 1.6 3.7 2.0 1.6 20.0 -1.5'
# The file system of files that may hold no byte: what a full disk gives, for any user.
LIMITED = ('import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n'
           'from kd_perception.cli.main import process_main; sys.exit(process_main())')
# Read nothing, or write nothing.
WITHOUT_OUTPUT = {'check-labels', 'status'}


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    """Arguments of each command, without --out; the files that they name."""
    root = tmp_path_factory.mktemp('inputs')
    model = write_rectangle_model(root / 'rectangles.onnx')
    for name in ('images', 'label_2', 'found'):
        (root / name).mkdir()
    for number in range(4):
        image = draw_rectangles((96, 128), (0, (16, 24, 48, 64), 200))
        cv2.imwrite(str(root / 'images' / f'{number}.png'), image)
        (root / 'label_2' / f'{number}.txt').write_text(LABEL)
        (root / 'found' / f'{number}.txt').write_text(f'{LABEL} 0.9')
    (root / 'report').mkdir()
    assert main(['evaluate', '--labels', str(root / 'label_2'), '--detections', str(root / 'found'), '--out',
                 str(root / 'report'), '--no-html', '--bootstrap', '0', '--coco', 'off']) == 0
    (root / 'spec.yaml').write_text(json.dumps({
        'name': 'm', 'labels': ['Car', 'Pedestrian', 'Cyclist'], 'decoder': {'type': 'boxes_scores'},
        'input': {'height': 96, 'width': 128}}))
    images, labels, run = root / 'images', root / 'label_2', ('--model', model)
    both = ('--student', model, '--teacher', model)
    return {
        'detect': ('detect', *run, '--input', images, '--annotated', '--quiet'),
        'detect json': ('detect', *run, '--input', images, '--format', 'json'),
        'detect mcap': ('detect', *run, '--input', images, '--format', 'mcap', '--images'),
        'pseudo-label': ('pseudo-label', *run, '--input', images),
        'evaluate': ('evaluate', '--labels', labels, '--detections', root / 'found', '--bootstrap', '0',
                     '--coco', 'off'),
        'evaluate hybrid': ('evaluate', 'hybrid', '--images', images, '--labels', labels, *both, '--quiet'),
        'convert': ('convert', 'kitti-to-bag', '--input', root),
        'security-policy': ('security-policy', '--cameras', 'front'),
        'fit-gate': ('fit-gate', '--images', images, '--labels', labels, *both, '--folds', '2', '--quiet'),
        'attach-reference': ('model', 'attach-reference', model, '--images', images, '--quiet'),
        'poc': ('poc', '--images', images, '--labels', labels, *run, '--teacher', model, '--no-train',
                '--block', '1', '--gap', '0', '--quiet'),
        'demo': ('demo', '--footage', 'rendered', '--model', model),
        'benchmark': ('benchmark', 'models', *run, '--rounds', '2'),
        'benchmark node': ('benchmark', 'node', *run),
        'benchmark hybrid': ('benchmark', 'hybrid', *both),
        'review': ('review', '--input', root / 'images'),
        'review edit': ('review', '--input', root / 'images', '--edit'),
        'committee': ('committee', '--committee', root / 'none.yaml', '--input', root),
        'train': ('train', '--config', SMOKE / 'teacher_smoke.yaml'),
        'ablate': ('ablate', '--config', SMOKE / 'ablation_smoke.yaml', '--teacher', model),
        'export': ('export', '--config', SMOKE / 'teacher_smoke.yaml', '--untrained'),
    }


# The folder is looked at before anything else, so that the rest of their inputs need not be there.
LONG = ('benchmark node', 'benchmark hybrid', 'review', 'review edit', 'committee', 'train', 'ablate',
        'export')
NEEDS = {'benchmark node': 'rclpy', 'benchmark hybrid': 'rclpy', 'train': 'torch', 'ablate': 'torch',
         'export': 'torch'}
FILES = ('fit-gate', 'attach-reference', 'export')
KINDS = ('detect', 'detect json', 'detect mcap', 'pseudo-label', 'evaluate', 'evaluate hybrid', 'convert',
         'security-policy', 'fit-gate', 'attach-reference', 'poc', 'benchmark', *LONG)


def arguments(words, kind, out):
    """Return the words of a command that writes `out`; skip where what it needs is not installed."""
    if kind in NEEDS:
        require(NEEDS[kind], reason=f'{NEEDS[kind]} is not installed')
    option = '--run' if kind == 'train' else '--out'
    return [*map(str, words[kind]), option, str(out.with_suffix('.onnx') if kind in FILES else out)]


def assert_told(code, error, command, place):
    assert code == 2, error
    last = [line for line in error.splitlines() if line][-1]
    assert last.startswith(f'kd_perception {command}: error: ') and str(place) in last, error
    assert 'Traceback' not in error


@pytest.mark.parametrize('kind', KINDS)
def test_a_place_that_is_no_folder(kind, words, tmp_path, capsys):
    (tmp_path / 'file').write_text('mine')
    for out in (tmp_path / 'file' / 'out', Path('/proc/none') / 'out'):
        code = main(arguments(words, kind, out))
        assert_told(code, capsys.readouterr().err, words[kind][0], out.parent)
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.parametrize('kind', ['detect', 'detect json', 'detect mcap', 'pseudo-label', 'evaluate',
                                  'convert', 'security-policy', 'poc', 'fit-gate', *LONG])
def test_a_full_disk(kind, words, tmp_path):
    out = tmp_path / 'new' / 'out'
    done = subprocess.run([sys.executable, '-c', LIMITED, *arguments(words, kind, out)],
                          capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert_told(done.returncode, done.stderr, words[kind][0], out)
    assert not [path for path in tmp_path.rglob('*') if path.is_file() and path.stat().st_size]
    assert not list(tmp_path.rglob('.*')), 'nothing hidden is left'


def test_missing_folders_are_made(words, tmp_path):
    for kind in ('detect json', 'security-policy', 'convert', 'evaluate'):
        out = tmp_path / kind / 'a' / 'b'
        assert main([*map(str, words[kind]), '--out', str(out)]) == 0 and out.exists()


def test_standard_output_that_is_full():
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            [sys.executable, '-m', 'kd_perception', 'security-policy', '--cameras', 'front'], stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr.startswith('kd_perception security-policy: error: ') and done.stderr.count('\n') == 1
    assert 'No space left on device' in done.stderr


def test_every_command_that_writes_is_tried(words):
    tried = {item[0] for item in words.values()}
    assert set(COMMANDS) - tried == WITHOUT_OUTPUT
