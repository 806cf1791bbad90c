# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`poc` from end to end on rendered scenes: the page, its figures, going on after an interruption."""

import argparse
import contextlib
import io
import json
from pathlib import Path
import re
import shutil

import pytest

pytest.importorskip('torch', reason='adapting needs torch')
pytest.importorskip('onnx', reason='export needs onnx')

from kd_perception.cli import poc
from kd_perception.cli.main import main
from kd_perception.errors import ConfigError, EvaluationError
from kd_perception.evaluation.report.compare import load_report
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.poc import steps as poc_steps
from kd_perception.poc.run import run
from kd_perception.training.data.rendered import render_dataset

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'


@pytest.fixture
def site(tmp_path):
    """A labelled drive with one wrong label, an untrained model, and a configuration that fits both."""
    render_dataset(tmp_path / 'site', 24, 3)
    (tmp_path / 'site' / 'label_2' / '000005.txt').write_text('Car 1 2\n')
    shutil.copy(CONFIGS / 'student_smoke.yaml', tmp_path)
    (tmp_path / 'adapt.yaml').write_text(
        'base: student_smoke.yaml\nrendered: 0\nbatch: 2\ndistillation: null\ninit: {kind: model}\n'
        'binarization: {stages: {deep: 0.0, middle: 0.0, early: 0.0}, batch_norm_batches: 1}\n')
    (tmp_path / 'first.yaml').write_text(
        'base: student_smoke.yaml\nsteps: 1\nrendered: 4\nbatch: 2\ndistillation: null\n')
    assert main(['export', '--config', str(tmp_path / 'first.yaml'), '--untrained', '--no-measure', '--out',
                 str(tmp_path / 'student.onnx')]) == EXIT_OK
    return tmp_path


def parsed(words):
    parser = argparse.ArgumentParser()
    poc.add_arguments(parser)
    return parser.parse_args(words[1:])


def execute(command, log):
    """Run a step in this process: starting a dozen of them takes longer than all that they do."""
    if 'footprint' in command[1]:
        return poc_steps.run_process(command, log)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(command[2:])
    return code, printed.getvalue()


def fail(command, log):
    raise AssertionError(f'a step is done twice: {command}')


def test_before_and_after_in_one_page(site, capsys):
    out, folder = site / 'poc', site / 'site'
    words = [
        'poc', '--images', str(folder / 'images'), '--labels', str(folder / 'label_2'), '--out', str(out),
        '--model', str(site / 'student.onnx'), '--teacher', str(site / 'student.onnx'), '--steps', '2',
        '--config', str(site / 'adapt.yaml'), '--block', '4', '--gap', '1', '--cameras', '3', '--quiet']
    run(poc.proof(parsed(words)), words, execute)
    printed = capsys.readouterr().out
    page, found = (out / 'poc.html').read_text(), json.loads((out / 'poc.json').read_text())
    assert '3 cameras at 10 Hz' in printed and 'poc.html' in printed
    assert not re.search(r'(src|href)="(?!data:|#)', page) and '<script' not in page
    assert found['frames']['usable'] == 23 and found['adapted'] and found['training']['steps'] == 2
    assert found['frames']['train'] + found['frames']['held_out'] + found['frames']['left_out'] == 23
    assert any('000005.txt:1: 3 columns, 15 expected' in gap['finding'] for gap in found['gaps'])
    for role in ('before', 'after', 'teacher'):
        report = load_report(out / role / 'report.json')
        assert report['frames']['processed'] == found['frames']['held_out']
        assert report['protocol']['resampled'] == 'scene groups'
        item = found['accuracy']['kitti']['Car'][role]
        assert item['ap_r40'] == report['results']['Car']['moderate']['ap_r40']
    before, after = (found['models'][role]['sha256'] for role in ('before', 'after'))
    assert before == found['models']['teacher']['sha256'] != after
    student = found['footprint']['student']['cpu_ms']
    row = found['cost']['rows'][0]
    assert row['busy_cores'] == pytest.approx(3 * 10 * student / 1e3, abs=1e-3) and row['share'] == 0
    assert found['footprint']['student']['model_mib'] > 0 < found['speed_ms']['student']['total_ms'][1]
    assert page.count('data:image/jpeg') == min(4, found['frames']['held_out_blocks'])

    state = json.loads((out / 'poc_state.json').read_text())
    (out / 'poc.html').unlink()
    times = {path: path.stat().st_mtime_ns for path in out.rglob('report.json')}
    run(poc.proof(parsed(words)), words, fail)
    assert (out / 'poc.html').is_file()  # the page alone
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob('report.json')}
    assert json.loads((out / 'poc_state.json').read_text()) == state
    capsys.readouterr()
    assert main([*words, '--seed', '4']) == EXIT_BAD_INPUT
    assert 'was made with other seed; give --overwrite' in capsys.readouterr().err


@pytest.mark.parametrize('change, words', [
    (['--images', '/none'], '/none'), (['--held-out', '0.95'], '--held-out 0.1 to 0.9'),
    (['--steps', '0'], '--steps 1 to'), (['--cameras', '0'], '0 cameras'), (['--block', '20'], 'blocks of '
                                                                                               '20'),
    (['--old', '/none'], '/none')])
def test_what_cannot_work_is_said_at_once(tmp_path, capsys, change, words):
    folder = tmp_path / 'site'
    render_dataset(folder, 24, 3)
    assert main(['poc', '--images', str(folder / 'images'), '--labels', str(folder / 'label_2'), '--out',
                 str(tmp_path / 'poc'), '--quiet', *change]) == EXIT_BAD_INPUT
    assert words in capsys.readouterr().err and not (tmp_path / 'poc' / 'before').exists()


def test_without_torch_it_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    import importlib.util
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda name, *more: None if name == 'torch' else find(name, *more))
    words = ['poc', *(word for name in ('--images', '--labels', '--out') for word in (name, str(tmp_path)))]
    assert main(words) == EXIT_BAD_INPUT
    assert '--no-train measures' in capsys.readouterr().err


def test_a_step_that_fails_is_said_and_done_again(tmp_path, capfd):
    with poc_steps.Steps(tmp_path, {}, True, False, poc_steps.run_process) as steps:
        with pytest.raises(EvaluationError, match="step 'info' failed with exit code 2; see .*commands.log"):
            steps.run('info', 'facts', 'model', 'verify', 'no_such_model')
        with pytest.raises(ConfigError, match='another run is writing here'):
            poc_steps.Steps(tmp_path, {}, True, False, fail)
        assert 'no_such_model' in (tmp_path / 'commands.log').read_text()
        assert 'sha256 matches' in steps.run('info', 'facts', 'model', 'verify', 'student')
    with poc_steps.Steps(tmp_path, {}, True, False, fail) as steps:
        assert 'sha256 matches' in steps.run('info', 'facts', 'model', 'verify', 'student')
