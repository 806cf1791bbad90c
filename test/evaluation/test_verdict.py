# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The verdict on two models: what it is made of, what it refuses, and that it cannot contradict itself."""

import copy
import json
import re

import pytest

from kd_perception.cli.main import run_command
from kd_perception.errors import EvaluationError
from kd_perception.evaluation.report.verdict import judge, load_comparison, reports_of, VerdictLimits

OLD, NEW = 'a' * 64, 'b' * 64
CLASSES = ('Car', 'Pedestrian')
DRAWS = 40


def level(ap, truths, spread=4.0, reason=None):
    """A class at one difficulty; its resamples lie evenly within `spread` of its AP."""
    values = [ap + spread * (2 * i / (DRAWS - 1) - 1) for i in range(DRAWS)]
    item = {'ap_r40': ap, 'valid_ground_truths': truths, 'ci95': [min(values), max(values)],
            'resampled': values}
    if reason:
        return {'ap_r40': None, 'valid_ground_truths': truths, 'ci95': None, 'reason': reason}
    return item


def report(sha256, labels='1', car=80.0, walker=50.0, lamr=0.2, truths=(200, 100), frames=100):
    """The parts of a report.json that a verdict looks at."""
    return {
        'schema': 'kd_perception.evaluation', 'schema_version': 1,
        'results': {name: {'moderate': level(ap, count), 'hard': level(0.0, count)}
                    for name, ap, count in zip(CLASSES, (car, walker), truths)},
        'miss_rate': {'reasonable': lamr},
        'miss_rate_details': {'reasonable': {
            'valid_ground_truths': truths[1], 'ci95': [lamr - 0.05, lamr + 0.05],
            'resampled': [lamr] * DRAWS}},
        'calibration': {}, 'coco': None, 'latency_ms': {}, 'frames': {'processed': frames},
        'model': {'name': 'm', 'sha256': sha256}, 'data': {'sha256': {'labels': labels * 64}},
        'protocol': {'classes': {name: {'min_iou': 0.5} for name in CLASSES},
                     'difficulties': {'moderate': {}}, 'resampling_sha256': labels * 64,
                     'bootstrap': DRAWS, 'seed': 0}}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / f'{name}.json'
        path.write_text(json.dumps(content))
        return path
    return write


@pytest.fixture
def verdict(write, tmp_path):
    """Judge two sets, of which the second's new report, or both of its reports, are changed."""
    def verdict(change=lambda new: None, change_both=lambda item: None, **limits):
        second = [report(OLD, '2'), report(NEW, '2')]
        for item in second:
            change_both(item)
        change(second[1])
        pairs = [(write('a1', report(OLD)), write('b1', report(NEW))),
                 (write('a2', second[0]), write('b2', second[1]))]
        return judge(pairs, VerdictLimits(**limits), tmp_path)
    return verdict


def test_equal_models_pass_however_wide_their_intervals_are(verdict):
    found = verdict()
    assert found.passed and found.verdict == 'pass' and not found.failures
    assert (found.before['sha256'], found.after['sha256']) == (OLD, NEW)
    checks = [check for item in found.sets for check in item.checks]
    assert [check.metric for check in found.sets[0].checks] == [
        'results.Car.moderate.ap_r40', 'results.Pedestrian.moderate.ap_r40', 'miss_rate.reasonable']
    assert all(check.loss == check.bound == 0 for check in checks)


def car(**changes):
    def change(item):
        item['results']['Car']['moderate'].update(changes)
    return change


def lose(points, spread=0.0):
    """Car loses points, between `spread` more and less from draw to draw."""
    def change(item):
        own = item['results']['Car']['moderate']
        own['ap_r40'] -= points
        own['resampled'] = [value - points + (spread if i % 2 else -spread)
                            for i, value in enumerate(own['resampled'])]
    return change


def unpaired(item):
    item['protocol']['resampling_sha256'] = 'f' * 64


def never_found(item):
    item['results']['Car']['moderate'] = level(0, 200, reason='class never detected')


def miss_more(item):
    item['miss_rate']['reasonable'] += 0.05


def fewer_frames(item):
    item['frames']['processed'] -= 1


@pytest.mark.parametrize('change, limits, failure', [
    (lose(1.9), {}, ''),
    (lose(2.1), {}, 'Car.moderate.ap_r40: worse by 2.1, at most 2 allowed'),
    (lose(2.1), dict(max_ap_loss=3.0), ''),
    (lose(2.1), dict(classes=('Pedestrian',)), ''),
    (lose(2.1), dict(difficulties=('hard',)), ''),
    (lose(-9.0), {}, ''),
    (lose(1.0, spread=3.9), {}, ''),
    (lose(1.0, spread=4.1), {}, r'may be worse by 5.1 \(95 % interval\), at most 5 allowed'),
    (unpaired, dict(classes=('Car',)), 'may be worse by 5.6'),      # hypot(4, 4)
    (unpaired, dict(classes=('Car',), max_ap_loss_bound=6.0), ''),
    (car(ci95=None, resampled=None), {}, 'has no interval'),
    (car(ap_r40=None), {}, 'the figure is gone'),
    (never_found, {}, 'worse by 80'),
    (miss_more, {}, 'miss_rate.reasonable: worse by 0.05, at most 0.03 allowed'),
    (fewer_frames, {}, '1 frames that the model before gave a result for have none'),
    (lambda item: None, dict(min_sets=3), 'judged on 2 sets of frames, expected at least 3'),
    (lambda item: None, dict(classes=('Cyclist',)), 'class Cyclist: no set holds 41 ground truths'),
    (lambda item: None, dict(min_ground_truths=150), 'class Pedestrian: no set holds 150 ground truths'),
])
def test_what_is_allowed_and_what_is_not(verdict, change, limits, failure):
    found = verdict(change, **limits)
    if not failure:
        assert found.passed, found.failures
        return
    assert not found.passed and found.verdict == 'fail' and len(found.failures) == 1
    assert re.search(failure, found.failures[0]), found.failures


def test_a_class_that_neither_finds_is_no_loss_and_one_found_at_last_a_gain(verdict):
    assert verdict(change_both=never_found).passed
    found = verdict(change_both=never_found, change=lambda item: item['results']['Car'].update(
        moderate=level(10.0, 200)))
    check = found.sets[1].checks[0]
    assert found.passed and (check.before, check.after, check.loss) == (0.0, 10.0, -10.0)


def test_a_class_that_is_rare_on_one_set_is_judged_on_the_other(verdict):
    def rare(item):
        item['results']['Car']['moderate']['valid_ground_truths'] = 10
    found = verdict(lose(50.0), change_both=rare)
    assert found.passed
    assert found.sets[1].not_judged == (
        'results.Car.moderate.ap_r40: 10 ground truths, expected at least 41',)


@pytest.mark.parametrize('change, message', [
    (lambda item: item.update(model={}), 'names no model'),
    (lambda item: item['model'].update(sha256='c' * 64), 'the first pair is about bbbbbbbbbbbb'),
    (lambda item: item['data']['sha256'].update(labels='9' * 64), 'other labels than'),
    (lambda item: item['protocol']['classes']['Car'].update(min_iou=0.7), 'other classes than'),
    (lambda item: item['protocol'].update(difficulties={}), 'other difficulties than'),
    (lambda item: item.pop('frames'), 'not whole reports'),
    (lambda item: item.update(results=[]), 'not whole reports'),
    (lambda item: item.update(schema='other'), 'not a report'),
])
def test_reports_that_cannot_be_compared_are_an_error(verdict, change, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        verdict(change)
    assert 'b2.json' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('limits', [
    dict(max_ap_loss=-1.0), dict(max_ap_loss=6.0), dict(min_sets=0), dict(difficulties=()),
    dict(max_miss_rate_rise=0.2)])
def test_limits_are_checked(limits):
    with pytest.raises(ValueError):
        VerdictLimits(**limits)


def test_it_reads_what_it_wrote_and_nothing_that_contradicts_itself(verdict, write):
    found = verdict(lose(2.1))
    path = write('compare', json.loads(found.text()))
    assert load_comparison(path) == found
    good = json.loads(verdict().text())
    for change, message in (
            (lambda d: d.update(verdict='fail'), "verdict is 'fail' with 0 failures"),
            (lambda d: d['sets'][0]['checks'][0].update(failure='x'), 'a check has failed'),
            (lambda d: d['after'].update(sha256='short'), 'no sha256'),
            (lambda d: d.update(schema_version=9), 'schema is'),
            (lambda d: d.update(schema='kd_perception.evaluation'), 'not a comparison'),
            (lambda d: d.pop('limits'), 'limits: is missing')):
        document = copy.deepcopy(good)
        change(document)
        with pytest.raises(EvaluationError, match=message):
            load_comparison(write('bad', document))
    bad = json.loads(found.text())
    bad['verdict'] = 'pass'
    with pytest.raises(EvaluationError, match="verdict is 'pass' with 1 failures"):
        load_comparison(write('bad', bad))
    with pytest.raises(EvaluationError, match='cannot be read'):
        load_comparison(path.parent / 'missing.json')


def test_reports_are_the_ones_that_were_compared(verdict, write, tmp_path):
    path = write('compare', json.loads(verdict().text()))
    moved = tmp_path.rename(tmp_path.with_name('moved'))
    path = moved / path.name
    assert reports_of(load_comparison(path), path) == [moved / 'b1.json', moved / 'b2.json']
    (moved / 'b2.json').write_text('{}')
    with pytest.raises(EvaluationError, match='b2.json: is not the report that'):
        reports_of(load_comparison(path), path)
    (moved / 'b2.json').unlink()
    with pytest.raises(EvaluationError, match='b2.json: cannot be read'):
        reports_of(load_comparison(path), path)


def test_the_command_says_yes_or_no(write, tmp_path, capsys):
    pairs = [str(write(name, content)) for name, content in (
        ('a1', report(OLD)), ('b1', report(NEW)), ('a2', report(OLD, '2')),
        ('b2', report(NEW, '2', car=70.0)))]
    out = tmp_path / 'deep' / 'compare.json'
    words = ['compare', *pairs[:2], '--also', *pairs[2:], '--verdict', str(out)]
    assert run_command('evaluate', words) == 1
    text = capsys.readouterr().out
    assert 'no: ' in text and 'worse by 10' in text and not load_comparison(out).passed
    assert run_command('evaluate', [*words, '--max-ap-loss', '11', '--max-ap-loss-bound', '20']) == 0
    assert 'yes: ' in capsys.readouterr().out and load_comparison(out).passed
    assert load_comparison(out).limits.max_ap_loss == 11
    assert len(reports_of(load_comparison(out), out)) == 2
    assert run_command('evaluate', [*words[:3], '--verdict', str(out)]) == 1, 'one set is not enough'
    assert run_command('evaluate', [*words[:3], '--verdict', str(out), '--min-sets', '1']) == 0
    capsys.readouterr()
    for more, message in ((['--max-ap-loss', '-1'], 'must not be below 0'),
                          (['--max-ap-loss', 'nan'], 'must be finite'),
                          (['--verdict', '/dev/null/x.json'], 'cannot be written')):
        assert run_command('evaluate', [*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert run_command('evaluate', words[:6]) == 2 and '--also is for --verdict' in capsys.readouterr().err
