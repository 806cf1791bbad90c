# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Dashboard and alert rules ask for nothing that the exporter does not give: names, labels, their values."""

import json
from pathlib import Path
import re
import shutil
import subprocess

import pytest
import yaml

from kd_perception.health.camera_monitor import INTENDED_DROPS
from kd_perception.images.raw import REASONS
from kd_perception.monitoring.board import DiagnosticsBoard, RawStatus
from kd_perception.monitoring.metrics import MetricsExporter
from kd_perception.recording.recorder import DROP_REASONS
from real_reports import hybrid

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / 'config' / 'monitoring'
DASHBOARD, RULES = FOLDER / 'grafana_dashboard.json', FOLDER / 'alerts.yaml'
WORDS = {'by', 'and', 'or', 'unless', 'ignoring', 'on', 'group_left', 'without', 'bool',
         'rate', 'increase', 'sum', 'max', 'min', 'absent', 'avg'}
NAME = '[a-zA-Z_][a-zA-Z0-9_]*'
# Words that a label may hold and the reports of this test do not.
WORDS_OF_LABELS = {'reason': {*REASONS, *INTENDED_DROPS, *DROP_REASONS}, 'event': {'opened', 'closed'},
                   'verdict': {'accepted', 'probe'}}


@pytest.fixture(scope='module')
def produced():
    """Return {metric: {label: its values}} of all that the exporter gives for a hybrid that drifts."""
    exporter = MetricsExporter(DiagnosticsBoard(lambda: 0, 5, 9), 5000)
    exporter.hear([*hybrid(), RawStatus('', 0)])
    found = {}
    for family in exporter.families():
        labels = found.setdefault(family.name, {})
        for sample in family.samples:
            for key, text in sample.labels:
                labels.setdefault(key, set()).add(text)
    return found


def parse(expression):
    """
    Return (metrics with their matchers, labels of the result) of a PromQL expression.

    :return: ([(metric, [(label, operator, text)])], labels that `by` keeps; None: it keeps all).
    """
    texts = []

    def keep(match):
        texts.append(match[1])
        return f'"{len(texts) - 1}"'

    rest = re.sub(r'"((?:[^"\\]|\\.)*)"', keep, expression)
    kept = [set(re.findall(NAME, group)) for group in re.findall(r'\bby \(([^)]*)\)', rest)]
    rest = re.sub(r'\bby \([^)]*\)', '', rest)
    metrics, selector = [], re.compile(rf'({NAME})(?:\{{([^}}]*)\}})?')
    for match in selector.finditer(re.sub(r'\[[0-9]+[smh]\]', '', rest)):
        if match[1] not in WORDS:
            metrics.append((match[1], [(label, operator, texts[int(index)]) for label, operator, index in
                                       re.findall(rf'({NAME})\s*(=~|!~|!=|=)\s*"(\d+)"', match[2] or '')]))
    return metrics, (set.intersection(*kept) if kept else None)


def check(expression, produced, used=()):
    """Assert that an expression is answerable, and that `used` labels are in its answer."""
    metrics, kept = parse(expression)
    assert metrics, expression
    for name, matchers in metrics:
        assert name in produced, f'{name} is no metric of the exporter: {expression}'
        labels = produced[name]
        for label, operator, text in matchers:
            assert label in labels, f'{name} has no label {label}'
            if text.startswith('$'):
                continue        # a variable of the dashboard
            if operator == '=' or re.fullmatch(r'[\w|]+', text):
                possible = labels[label] | WORDS_OF_LABELS.get(label, set())
                assert set(text.split('|')) <= possible, f'{name}: {label} is never {text}'
            else:
                assert any(re.fullmatch(text, value) for value in labels[label]), f'{text} matches no {label}'
        assert (kept or set()) <= set(labels)
        assert set(used) <= (set(labels) if kept is None else kept), f'{used} of {expression}'


def test_the_parser_sees():
    expression = ('sum by (node, camera) (rate(a_total{x="1",y=~"b|c}"}[1m])) '
                  '> 0.5 * max(b_c) < absent(up{z!="}"})')
    assert parse(expression) == (
        [('a_total', [('x', '=', '1'), ('y', '=~', 'b|c}')]), ('b_c', []), ('up', [('z', '!=', '}')])],
        {'node', 'camera'})
    assert parse('a / b') == ([('a', []), ('b', [])], None)


@pytest.mark.parametrize('expression, used, words', [
    ('kd_perception_node_upp', (), 'no metric'), ('up', (), 'no metric'),
    ('kd_perception_node_up{name="x"}', (), 'no label'),
    ('kd_perception_fallback_state{state="DEGRADE"}', (), 'is never'),
    ('kd_perception_status_level{component=~"drift.*"}', (), 'matches no'),
    ('kd_perception_node_up', ('camera',), 'camera'),
    ('sum by (node) (kd_perception_camera_latency_seconds)', ('stage',), 'stage')])
def test_the_check_fails_for_what_is_not_there(produced, expression, used, words):
    with pytest.raises(AssertionError, match=words):
        check(expression, produced, used)


def test_alert_rules(produced):
    group, = yaml.safe_load(RULES.read_text())['groups']
    names = [rule['alert'] for rule in group['rules']]
    assert len(set(names)) == len(names) > 10
    for rule in group['rules']:
        texts = ' '.join(rule['annotations'].values())
        check(rule['expr'], produced, re.findall(rf'\$labels\.({NAME})', texts))
        assert set(rule) <= {'alert', 'expr', 'for', 'labels', 'annotations'}
        assert rule['labels']['severity'] in ('warning', 'critical')
        assert set(rule['annotations']) == {'summary', 'description'}
        assert re.fullmatch('[0-9]+[sm]', rule.get('for', '1s'))


def test_dashboard(produced):
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard['__inputs'][0]['name'] == 'DS_PROMETHEUS' and dashboard['id'] is None
    variables = {variable['name']: variable for variable in dashboard['templating']['list']}
    for name, variable in variables.items():
        metric, label = re.fullmatch(r'label_values\((\w+), (\w+)\)', variable['query']['query']).groups()
        assert label == name and label in produced[metric]
    panels = [panel for panel in dashboard['panels'] if panel['type'] != 'row']
    assert len({panel['id'] for panel in dashboard['panels']}) == len(dashboard['panels'])
    for panel in panels:
        assert panel['targets'] and panel['title']
        assert panel['datasource'] == {'type': 'prometheus', 'uid': '${DS_PROMETHEUS}'}
        for target in panel['targets']:
            check(target['expr'], produced, re.findall(rf'\{{\{{({NAME})\}}\}}', target['legendFormat']))
            assert set(re.findall(rf'\$({NAME})', target['expr'])) <= set(variables)
    cells = {(x, y) for panel in dashboard['panels'] for grid in [panel['gridPos']]
             for x in range(grid['x'], grid['x'] + grid['w'])
             for y in range(grid['y'], grid['y'] + grid['h'])}
    area = sum(panel['gridPos']['w'] * panel['gridPos']['h'] for panel in dashboard['panels'])
    assert len(cells) == area and max(x for x, _ in cells) == 23, 'no panel covers another'


@pytest.mark.skipif(shutil.which('promtool') is None, reason='promtool (package prometheus) is not installed')
def test_rules_fire_when_they_should():
    for command in (['check', 'rules', str(RULES)], ['test', 'rules', str(HERE / 'alerts_test.yaml')]):
        result = subprocess.run(['promtool', *command], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
