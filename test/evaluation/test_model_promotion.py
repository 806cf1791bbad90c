# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model promote`, `rollback`, `history`, `prune`: what a model must show, and what is kept of it."""

import hashlib
import json
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

from kd_perception.cli.main import main
from kd_perception.evaluation.report.verdict import Check, Comparison, SetVerdict, VerdictLimits
from kd_perception.models.manifest import load_manifest, pinned_sha256, resolve_model
from kd_perception.models.store import ModelStore

pytest.importorskip('onnx', reason='onnx, which writes the test models, is not installed')

from kd_perception.benchmark.rectangle_model import write_rectangle_model


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Three models that differ in their scores, one with other labels and one with another input."""
    folder = tmp_path_factory.mktemp('models')
    gains = {'a': 1.0, 'b': 0.9, 'c': 0.8}
    made = {name: write_rectangle_model(folder / f'{name}.onnx', name=name, score_gain=gain)
            for name, gain in gains.items()}
    made['labels'] = write_rectangle_model(folder / 'labels.onnx', labels=('Car', 'Cyclist', 'Pedestrian'))
    made['size'] = write_rectangle_model(folder / 'size.onnx', input_hw=(64, 128))
    return made


@pytest.fixture
def world(models, tmp_path):
    """Reports, comparisons and the command, in one folder."""
    return World(models, tmp_path)


class World:
    def __init__(self, models, folder):
        self.models, self.folder, self.store = models, folder, folder / 'store'

    def report(self, name, of=None):
        """Write what `evaluate` says of a model, as far as a promotion looks."""
        path = self.folder / f'report_{name}.json'
        path.write_text(json.dumps({'schema': 'kd_perception.evaluation', 'schema_version': 1,
                                    'model': {'sha256': of or digest(self.models[name])}}))
        return path

    def compare(self, before, after, failure=''):
        """Write a verdict on two models."""
        report = self.report(after)
        item = SetVerdict('1' * 64, 10, {'report': 'x', 'sha256': 'x'},
                          {'report': report.name, 'sha256': digest(report)},
                          (Check('results.Car.moderate.ap_r40', 50.0, 50.0, 0.0, 0.0, 100, failure),), ())
        named = [{'name': name, 'sha256': digest(self.models[name])} for name in (before, after)]
        comparison = Comparison(*named, VerdictLimits(min_sets=1), (item,), (failure,) if failure else ())
        path = self.folder / 'compare.json'
        path.write_text(comparison.text())
        return path

    def run(self, *words):
        return main(['model', *map(str, words)])

    def promote(self, model, report, *more):
        return self.run('promote', '--store', self.store, '--model', self.models.get(model, model),
                        '--report', report, *more)

    def current(self):
        return load_manifest(resolve_model(f'store:{self.store}#student', '').parent).models['student']

    def bring(self, *names):
        """Promote one after another."""
        for before, after in zip([None, *names], names):
            assert self.promote(after, self.compare(before, after) if before else self.report(after)) == 0
        return self


def test_promote_roll_back_and_look(world, capsys):
    world.bring('a', 'b', 'c')
    entry = world.current()
    assert (entry.name, entry.sha256, entry.labels) == (
        'c', digest(world.models['c']), ('Car', 'Pedestrian', 'Cyclist'))
    assert entry.promoted_at.endswith('Z') and set(entry.reports) == {'compare.json', 'report_1.json'}
    folder = world.store / 'student' / '000003'
    assert all(digest(folder / name) == found for name, found in entry.reports.items())
    assert pinned_sha256(folder / 'model.onnx') == digest(folder / 'model.onnx')
    first = load_manifest(world.store / 'student' / '000001').models['student']
    assert set(first.reports) == {'report_1.json'}
    capsys.readouterr()
    assert world.run('rollback', '--store', world.store) == 0 and world.current().name == 'b'
    assert 'version 2 is current again (before: 3): b' in capsys.readouterr().out
    assert world.run('rollback', '--store', world.store, '--to', '1') == 0 and world.current().name == 'a'
    assert world.run('rollback', '--store', world.store) == 2
    assert 'there is no student before the current one' in capsys.readouterr().err
    assert world.run('history', '--store', world.store) == 0
    text = capsys.readouterr().out
    assert 'student: version 1 is current; a rollback goes to none' in text
    assert 'teacher: nothing was promoted yet' in text
    assert '* ' in text and text.count('rollback  ') == 2 and text.count('promote ') == 3
    assert world.run('history', '--store', world.store, '--json') == 0
    events = json.loads(capsys.readouterr().out)['student']['events']
    assert [(event['action'], event['version'], event['before']) for event in events] == [
        ('promote', 1, None), ('promote', 2, 1), ('promote', 3, 2), ('rollback', 2, 3), ('rollback', 1, 2)]
    assert world.run('prune', '--store', world.store, '--version', 3, '--version', 2) == 0
    assert sorted(path.name for path in (world.store / 'student').iterdir()) == ['000001', 'history.json']
    assert world.run('prune', '--store', world.store, '--version', 1) == 2
    assert 'version 1 is the current student' in capsys.readouterr().err
    assert main(['model', 'verify', f'store:{world.store}#student']) == 0, 'every command knows a store'


def test_what_is_current_already_stays(world, capsys):
    world.bring('a')
    assert world.promote('a', world.folder / 'missing.json') == 0
    assert 'version 1 is current already' in capsys.readouterr().out
    assert len(ModelStore(world.store).history('student').events) == 1


def test_a_verdict_of_no_is_refused_with_its_reasons(world, capsys):
    world.bring('a')
    assert world.promote('b', world.compare('a', 'b', 'worse by 7, at most 2 allowed')) == 1
    assert capsys.readouterr().err == 'refused: worse by 7, at most 2 allowed\n'
    assert world.current().name == 'a'


def change_report(world):
    path = world.compare('a', 'b')
    (world.folder / 'report_b.json').write_text('{}')
    return path


def remove_report(world):
    path = world.compare('a', 'b')
    (world.folder / 'report_b.json').unlink()
    return path


def half_a_model(world):
    path = world.folder / 'half.onnx'
    path.write_bytes(world.models['b'].read_bytes()[:700])
    world.models = {**world.models, 'half': path}
    return world.compare('a', 'half')


@pytest.mark.parametrize('model, report, message', [
    ('b', lambda w: w.folder / 'none.json', 'none.json: cannot be read'),
    ('b', lambda w: w.report('b'), 'report_b.json: not a comparison'),
    ('b', lambda w: w.compare('a', 'c'), 'compare.json: compares .*, the one to promote is'),
    ('b', lambda w: w.compare('c', 'b'), 'compare.json: compares .*, the current one is'),
    ('b', change_report, 'report_b.json: is not the report that'),
    ('b', remove_report, 'report_b.json: cannot be read'),
    ('labels', lambda w: w.compare('a', 'labels'), 'labels are Car, Cyclist, Pedestrian, the current'),
    ('size', lambda w: w.compare('a', 'size'), 'input is 128x64, the current student has 128x96'),
    ('half', half_a_model, 'half.onnx: is not a model that onnxruntime can load'),
    ('/nowhere/m.onnx', lambda w: w.compare('a', 'b'), '/nowhere/m.onnx: no such model file'),
], ids=['no-report', 'no-comparison', 'other-model', 'other-current', 'report-changed', 'report-gone',
        'labels', 'size', 'half', 'no-model'])
def test_what_is_refused_changes_nothing(world, capsys, model, report, message):
    world.bring('a')
    before = sorted(str(path) for path in world.store.rglob('*'))
    path = report(world)
    capsys.readouterr()
    assert world.promote(model, path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert sorted(str(path) for path in world.store.rglob('*')) == before and world.current().name == 'a'


def test_another_input_size_can_be_meant(world):
    world.bring('a')
    assert world.promote('size', world.compare('a', 'size'), '--allow-input-change') == 0
    assert world.current().input_hw == (64, 128)


@pytest.mark.parametrize('report, message', [
    (lambda w: w.report('a', of='f' * 64), 'is about another model'),
    (lambda w: w.compare('b', 'c'), 'the one to promote is'),
    (lambda w: w.folder / 'none.json', 'cannot be read'),
])
def test_the_first_model_needs_a_report_of_its_own(world, capsys, report, message):
    assert world.promote('a', report(world)) == 2
    assert message in capsys.readouterr().err
    assert not (world.store / 'student').exists()
    assert world.promote('a', world.compare('b', 'a')) == 0, 'or a comparison with whatever was there before'


def test_a_damaged_version_is_not_rolled_back_to(world, capsys):
    world.bring('a', 'b')
    path = world.store / 'student' / '000001' / 'model.onnx'
    path.write_bytes(path.read_bytes() + b'\0')
    assert world.run('rollback', '--store', world.store) == 2
    assert '000001/model.onnx: sha256 is' in capsys.readouterr().err and world.current().name == 'b'


def test_a_store_that_cannot_be_written(world, capsys):
    world.bring('a')
    (world.folder / 'file').write_text('')
    real, world.store = world.store, world.folder / 'file' / 'store'
    assert world.promote('a', world.report('a')) == 2
    assert 'file/store: cannot be written (Not a directory' in capsys.readouterr().err
    assert world.run('rollback', '--store', world.store) == 2
    assert 'no such model store' in capsys.readouterr().err
    world.store = real


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere; the next test is for root, too')
def test_a_read_only_store_is_read_and_not_written(world, capsys):
    world.bring('a')
    for path in (world.store, world.store / 'student', world.store / '.lock'):
        path.chmod(0o555)
    assert world.promote('b', world.compare('a', 'b')) == 2
    assert 'cannot be written (Permission denied)' in capsys.readouterr().err
    assert world.current().name == 'a' and world.run('history', '--store', world.store) == 0


FULL_DISK = """
import resource, signal, sys
from kd_perception.cli.main import main
# A file may not grow beyond this: what a full disk says (EFBIG for ENOSPC), by the kernel itself.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
sys.exit(main(sys.argv[2:]))
"""


def test_a_file_that_the_kernel_cuts_short_leaves_no_trace(world):
    """A real process, with real half-written files."""
    world.bring('a')
    words = ['model', 'promote', '--store', world.store, '--model', world.models['b'], '--report',
             world.compare('a', 'b')]
    before = sorted(str(path) for path in world.store.rglob('*'))
    run = subprocess.run([sys.executable, '-c', FULL_DISK, '500', *map(str, words)], capture_output=True,
                         text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert run.returncode == 2
    assert run.stderr == (f'kd_perception model: error: {world.store}: cannot be written (File too large); '
                          'what was current still is\n')
    assert sorted(str(path) for path in world.store.rglob('*')) == before and world.current().name == 'a'


def test_usage(capsys):
    with pytest.raises(SystemExit):
        main(['model', 'promote', '--store', 'x'])
    assert '--model' in capsys.readouterr().err
