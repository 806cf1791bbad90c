# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Folders that commands write: what an ended, a stopped and a second run leave there."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
import pytest

pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from kd_perception.cli.main import main
from kd_perception.errors import ConfigError
from kd_perception.files import write_whole
from kd_perception.output_folder import MARKER, OutputFolder, unfinished_run_of

HW = (96, 128)
LIMIT_S = 60
# A detector that stops after two frames, so that a signal meets the middle of a run.
STUCK = """
import sys, time
from kd_perception.detection.onnx_detector import OnnxDetector
whole, calls = OnnxDetector.detect, []
def detect(self, *args, **kwargs):
    calls.append(1)
    if len(calls) > 2:
        time.sleep(600)
    return whole(self, *args, **kwargs)
OnnxDetector.detect = detect
from kd_perception.cli.main import process_main
sys.exit(process_main())
"""
# Importing OpenCV takes for ever.
SLOW_IMPORT = """
import runpy, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == 'cv2':
            print('importing', flush=True)
            time.sleep(600)
sys.meta_path.insert(0, Slow())
runpy.run_module('kd_perception', run_name='__main__', alter_sys=True)
"""


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_rectangle_model(tmp_path_factory.mktemp('model') / 'rectangles.onnx')


def images(folder, first, count):
    folder.mkdir()
    for number in range(first, first + count):
        cv2.imwrite(str(folder / f'{number:06d}.png'), draw_rectangles(HW, (0, (16, 24, 48, 64), 200)))
    return folder


def run(command, *words):
    return main([command, *map(str, words)])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if not path.is_dir())


def _heeds_ctrl_c():
    # A suite in the background of a shell ignores it, and its children with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(arguments, number, until, program=STUCK):
    """Send a signal twice once `until(process)` is true; return exit code and stderr."""
    process = subprocess.Popen([sys.executable, '-c', program, *map(str, arguments)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
                               preexec_fn=_heeds_ctrl_c)
    try:
        end = time.monotonic() + LIMIT_S
        while not until(process):
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        process.send_signal(number)
        return process.wait(LIMIT_S), process.communicate()[1]
    finally:
        process.kill()


COMMANDS = {
    'detect': (['--annotated'], '000001.txt', ['000500.txt', '000501.txt', 'summary.json']),
    'pseudo-label': ([], 'many/label_2/000001.txt', ['pseudo_labels.json', 'two/label_2/000500.txt',
                                                     'two/label_2/000501.txt']),
}


@pytest.mark.parametrize('number,word,code', [(signal.SIGINT, 'interrupted', 130),
                                              (signal.SIGTERM, 'terminated', 143)])
@pytest.mark.parametrize('command', COMMANDS)
def test_a_stopped_run_is_known_and_the_next_one_replaces_it(command, number, word, code, model, tmp_path,
                                                             capsys):
    more, second_file, left = COMMANDS[command]
    many, two, out = images(tmp_path / 'many', 0, 4), images(tmp_path / 'two', 500, 2), tmp_path / 'out'
    arguments = ['--model', model, '--out', out, '--quiet']
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'notes.md').write_text('mine')
    overwrite = ['--overwrite'] if command == 'detect' else []
    found, told = stopped([command, *arguments, '--input', many, *more, *overwrite], number,
                          lambda process: (out / second_file).exists())
    assert found == code
    assert told == f'kd_perception {command}: {word}; {out} holds an unfinished run, as {MARKER} there says\n'
    assert not [name for name in names(out) if Path(name).name.startswith('.')], 'nothing hidden is left'
    assert run(command, *arguments, '--input', two) == 2
    assert f'{out}: holds an unfinished run; give --overwrite or another --out' in capsys.readouterr().err
    # Whoever evaluates what it has left is told.
    written = (out / second_file).parent
    assert unfinished_run_of(written) == out.resolve()
    assert unfinished_run_of(tmp_path) is None and unfinished_run_of(many) is None
    assert run(command, *arguments, '--input', two, '--overwrite') == 0
    assert unfinished_run_of(written) is None
    assert names(out) == sorted(['notes.md', *left])
    assert (out / 'notes.md').read_text() == 'mine'
    # A finished run is replaced as a whole, too.
    assert run(command, *arguments, '--input', many, '--overwrite') == 0
    assert not any('0005' in name for name in names(out))


def test_a_killed_run_is_known_too_and_its_half_file_goes(model, tmp_path):
    many, out = images(tmp_path / 'many', 0, 4), tmp_path / 'out'
    stopped(['detect', '--model', model, '--out', out, '--input', many], signal.SIGKILL,
            lambda process: (out / '000001.txt').exists())
    assert MARKER in names(out)
    (out / '.000001.txt.abc').write_text('half')
    assert run('detect', '--model', model, '--out', out, '--input', images(tmp_path / 'two', 500, 2),
               '--overwrite') == 0
    assert names(out) == ['000500.txt', '000501.txt', 'summary.json']


def test_two_runs_at_once_are_refused(model, tmp_path, capsys):
    out = tmp_path / 'out'
    with OutputFolder(out, 'another command'):
        for command in ('detect', 'pseudo-label'):
            assert run(command, '--model', model, '--input', images(tmp_path / command, 0, 1), '--out', out,
                       '--overwrite') == 2
            assert f'{out}: another run is writing here' in capsys.readouterr().err
    assert not names(out)


def test_ctrl_c_while_packages_are_imported_is_one_line():
    code, told = stopped(['detect', '--model', 'm', '--input', 'i', '--out', 'o'], signal.SIGINT,
                         lambda process: process.stdout.readline() == 'importing\n', SLOW_IMPORT)
    assert (code, told) == (130, 'kd_perception: interrupted\n')


LABEL = 'Car 0.00 0 -1.57 50 150 150 230 1.5 1.6 3.7 2.0 1.6 20.0 -1.5'


def test_a_report_is_not_mixed_of_two_evaluations(tmp_path, capsys):
    for folder, line in (('labels', LABEL), ('found', LABEL + ' 0.9')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / '0.txt').write_text(line)
    out = tmp_path / 'report'
    words = ['--labels', tmp_path / 'labels', '--detections', tmp_path / 'found', '--out', out,
             '--bootstrap', 0, '--coco', 'off']
    assert run('evaluate', *words) == 0 and names(out) == ['report.html', 'report.json']
    assert run('evaluate', *words, '--no-html') == 0
    assert names(out) == ['report.json'], 'the page of the run before is gone'
    (out / 'report.json').write_text('{"mine": 1}')
    assert run('evaluate', *words) == 2 and (out / 'report.json').read_text() == '{"mine": 1}'
    assert 'is no report of an evaluation' in capsys.readouterr().err
    # An input that is wrong costs neither an earlier report nor leaves a folder.
    assert run('evaluate', *words[:2], '--detections', tmp_path / 'none', '--out', tmp_path / 'new') == 2
    assert not (tmp_path / 'new').exists()


def finish(folder, command, files):
    with OutputFolder(folder, command, lambda: None) as out:
        out.make_room(True)
        for name in files:
            write_whole(out.new(name), name)


def test_a_list_of_files_does_not_lead_elsewhere(tmp_path):
    (tmp_path / 'precious').write_text('mine')
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'a').write_text('mine')
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'link').symlink_to(tmp_path / 'elsewhere')
    lines = [{'command': 'c'}, '../precious', str(tmp_path / 'precious'), 'link/a', '.', '', 5, '\0']
    (out / MARKER).write_text('\n'.join(map(json.dumps, lines)) + '\n"half')
    finish(out, 'c', ['b'])
    assert (tmp_path / 'precious').exists() and (tmp_path / 'elsewhere' / 'a').exists()
    assert names(out) == ['b'] and (out / 'link').is_symlink()
    for text in ('{}', 'nonsense', '{"command": "other"}'):
        (out / MARKER).write_text(text)
        with pytest.raises(ConfigError, match='choose another --out'):
            finish(out, 'c', ['b'])
        assert (out / MARKER).read_text() == text and (out / 'b').exists()


def test_two_results_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='two results of this run have this name'):
        finish(tmp_path / 'out', 'c', ['a/b', 'a/b'])
    assert names(tmp_path / 'out') == ['a/b', MARKER]
    os.makedirs(tmp_path / 'other')
    (tmp_path / 'other' / 'a').write_text('mine')
    with pytest.raises(ConfigError, match='is of no earlier run'):
        finish(tmp_path / 'other', 'c', ['a'])
    assert (tmp_path / 'other' / 'a').read_text() == 'mine'
