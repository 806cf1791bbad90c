# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The ablation: one ingredient at a time, resumable, from one start."""

import dataclasses
import json
from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.training.ablation import (
    Ablation,
    AblationSettings,
    arm_settings,
    RESULT_NAME,
    warm_start_settings,
)
from kd_perception.training.ablation_report import markdown, summarise
from kd_perception.training.loop.trainer import Trainer
from kd_perception.training.settings.run import TrainingSettings

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    smoke = load_config(TrainingSettings, CONFIGS / 'teacher_smoke.yaml')
    folder = tmp_path_factory.mktemp('teacher')
    short = dataclasses.replace(smoke, steps=1, batch=2, rendered=6, validate_every=100)
    Trainer(short, None, folder, None).run()
    return folder / 'last.pt'


def test_arms_differ_from_the_student_in_what_they_say_and_nothing_else():
    settings = load_config(AblationSettings, CONFIGS / 'ablation.yaml')
    made = {name: arm_settings(settings, arm, 7) for name, arm in settings.arms.items()}
    whole = settings.training
    assert {run.seed for run in made.values()} == {7}
    assert {run.steps for run in made.values()} == {whole.steps}
    assert dataclasses.replace(made['all'], seed=whole.seed) == whole
    assert made['float'].binarization is None and made['float'].distillation is None
    assert made['binary'].binarization == whole.binarization and made['binary'].distillation is None
    weights = {name: {term: getattr(run.distillation, term).weight > 0
                      for term in ('logits', 'localisation', 'regions', 'pyramid')}
               for name, run in made.items() if run.distillation is not None}
    assert [term for term, on in weights['outputs'].items() if on] == ['logits', 'localisation']
    assert [term for term, on in weights['regions'].items() if on] == ['regions']
    assert [term for term, on in weights['pyramid'].items() if on] == ['pyramid']
    stages = made['all_at_once'].binarization.stages
    assert (stages.deep, stages.middle, stages.early) == (0, 0, 0)
    assert made['all_at_once'].distillation == whole.distillation
    assert made['all_together'].binarization == whole.binarization
    terms = made['all_together'].distillation
    assert terms.pyramid.stagger == 0 and terms.pyramid.schedule.start == terms.regions.schedule.start == 0
    start = warm_start_settings(settings)
    assert start.binarization is None and start.distillation is None and start.init.kind == 'random'
    assert start.network == whole.network


def test_runs_end_to_end_and_goes_on_where_it_stopped(teacher, tmp_path, capsys):
    command = ['ablate', '--config', str(CONFIGS / 'ablation_smoke.yaml'), '--teacher', str(teacher),
               '--out', str(tmp_path)]
    assert main([*command, '--runs', '2']) == EXIT_OK
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(RESULT_NAME)}
    assert {path.parent.relative_to(tmp_path).as_posix() for path in done} == {
        'float/seed_1', 'binary/seed_1'}
    assert main(command) == EXIT_OK
    assert {path: path.stat().st_mtime_ns for path in done} == done  # not trained again
    assert not list(tmp_path.glob('*/seed_*/*.pt')) and (tmp_path / 'ablation.png').stat().st_size > 5000
    summary = json.loads((tmp_path / 'ablation.json').read_text())
    assert [(run['arm'], run['seed']) for run in summary['runs']] == [
        (arm, seed) for seed in (1, 2) for arm in ('float', 'binary', 'all_at_once')]
    out = capsys.readouterr().out
    assert 'binary + all, binarised at once' in out and 'run 6 of 6' in out

    # Another teacher makes other figures: they are not mixed.
    other = tmp_path / 'other.pt'
    state = torch.load(teacher, weights_only=True)
    torch.save({**state, 'step': 5}, other)
    command[4] = str(other)
    assert main(command) == EXIT_BAD_INPUT
    assert 'another configuration, warm start or teacher' in capsys.readouterr().err


def test_an_interrupted_run_ends_at_the_figures_of_a_whole_one(teacher, tmp_path):
    settings = load_config(AblationSettings, CONFIGS / 'ablation_smoke.yaml')
    whole = Ablation(settings, None, tmp_path / 'whole', None, teacher)
    whole.train_warm_start()
    expected = whole.run('all_at_once', 1)
    cut = Ablation(settings, None, tmp_path / 'cut', None, teacher)
    Trainer(warm_start_settings(settings), None, tmp_path / 'cut' / 'warm_start', None).run(stop_at=2)
    cut.train_warm_start()
    run = arm_settings(settings, settings.arms['all_at_once'], 1)
    Trainer(run, None, tmp_path / 'cut' / 'all_at_once' / 'seed_1', None, teacher,
            cut.warm_start).run(stop_at=2)
    found = cut.run('all_at_once', 1)
    assert found['sets'] == expected['sets']


def test_all_runs_start_from_the_warm_start(teacher, tmp_path):
    settings = load_config(AblationSettings, CONFIGS / 'ablation_smoke.yaml')
    ablation = Ablation(settings, None, tmp_path, None, teacher)
    ablation.train_warm_start()
    start = torch.load(ablation.warm_start, weights_only=True)['average']
    for name, arm in settings.arms.items():
        run = Trainer(arm_settings(settings, arm, 2), None, tmp_path / name, None, teacher,
                      ablation.warm_start)
        weights = run.network.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in start.items())


def _result(arm, seed, car, miss):
    return {'arm': arm, 'seed': seed, 'steps': 1, 'sets': {'val': {
        'Car': {'ap50': car, 'objects': 12, 'images': 3}, 'miss_rate': miss, 'pedestrians': 4}}}


def test_spread_and_paired_difference():
    titles = {'binary': 'b', 'all': 'a', 'never': 'n'}
    results = [_result('binary', 1, 0.2, 0.9), _result('binary', 2, 0.4, None),
               _result('all', 1, 0.3, 0.8), _result('all', 2, 0.5, 0.8)]
    summary = summarise(results, titles, 'binary')
    car = summary['sets']['val']['figures']['Car']
    assert car['binary']['mean'] == 0.3 and car['binary']['deviation'] == pytest.approx(0.1414, abs=1e-4)
    assert car['all']['difference'] == {'values': [0.1, 0.1], 'mean': 0.1, 'deviation': 0.0}
    assert car['binary']['difference']['values'] == [0, 0]
    assert summary['sets']['val']['figures']['miss_rate']['binary']['values'] == [0.9]
    table = markdown(summary)
    assert '| b | 30.0 ± 14.1 | 90.0 | 2 |' in table and '| n |' not in table


@pytest.mark.parametrize('change, message', [
    ({'reference': 'none'}, 'reference: expected one of'),
    ({'seeds': [1, 1]}, 'distinct seeds'),
    ({'arms': {'a/b': {'title': 'x'}}, 'reference': 'a/b'}, 'cannot name a folder')])
def test_bad_configurations_are_named(change, message, tmp_path):
    import yaml
    mapping = yaml.safe_load((CONFIGS / 'ablation_smoke.yaml').read_text())
    (tmp_path / 'student_smoke.yaml').write_text((CONFIGS / 'student_smoke.yaml').read_text())
    path = tmp_path / 'ablation.yaml'
    path.write_text(yaml.safe_dump({**mapping, **change}))
    with pytest.raises(ConfigError, match=message):
        load_config(AblationSettings, path)


def test_a_damaged_result_is_named(teacher, tmp_path):
    settings = load_config(AblationSettings, CONFIGS / 'ablation_smoke.yaml')
    ablation = Ablation(settings, None, tmp_path, None, teacher)
    ablation.train_warm_start()
    folder = tmp_path / 'float' / 'seed_1'
    folder.mkdir(parents=True)
    (folder / RESULT_NAME).write_text('{')
    with pytest.raises(TrainingError, match='is not a result of this command'):
        ablation.run('float', 1)
