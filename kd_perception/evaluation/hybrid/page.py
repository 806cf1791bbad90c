# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""report.html of `evaluate hybrid`: one file, no script, nothing loaded from anywhere; all text escaped."""
from collections.abc import Sequence
import shlex
from typing import Any

from kd_perception.evaluation.hybrid import plots
from kd_perception.evaluation.hybrid.gates import DEFAULT, LEARNED, ORACLE, RANDOM
from kd_perception.html_page import document, esc, figures, number, section, table, warning_box


def _interval(pair: Sequence[float | None] | None) -> str:
    low, high = pair or (None, None)
    if low is None or high is None:
        return ''
    return f'<span class="ci">{100 * low:.0f} to {100 * high:.0f}</span>'


def _order(metric: dict[str, Any]) -> list[str]:
    """Return the gates: learned, default, single signals by their curve, random, oracle."""
    signals = sorted((name for name, gate in metric['gates'].items() if gate['kind'] == 'signal'),
                     key=lambda name: -(metric['gates'][name]['relative_area'] or 0.0))
    named = [*(name for name in (LEARNED, DEFAULT) if name in metric['gates']), *signals, RANDOM, ORACLE]
    return named


def _tiles(report: dict[str, Any]) -> str:
    tiles = []
    name = LEARNED if report['estimator'] else DEFAULT
    for metric in report['metrics'].values():
        gate = metric['gates'][name]
        tiles.append((number(gate['recovered_at_share'], 0, 100) + ' %',
                      f'of the gain at {100 * report["share"]:g} % of the frames, {metric["text"]}',
                      _interval(gate.get('recovered_ci95'))
                      or f'random: {number(metric["gates"][RANDOM]["recovered_at_share"], 0, 100)} %'))
        tiles.append((f'{metric["student_ap"]:.1f} &rarr; {metric["teacher_ap"]:.1f}',
                      f'AP, student and teacher, {metric["text"]}', ''))
    tiles.append((f'{report["frames"]:,}', 'frames', 'consecutive' if report['consecutive'] else 'unrelated'))
    return '<div class="tiles">' + ''.join(
        f'<div class="tile"><b>{figure}</b><span>{esc(label)}</span><small>{extra}</small></div>'
        for figure, label, extra in tiles) + '</div>'


def _metric(report: dict[str, Any], metric: dict[str, Any]) -> str:
    shares, rows, measures = metric['shares'], [], []
    for name in _order(metric):
        gate = metric['gates'][name]
        rows.append([esc(name)] + [number(value, 1) for value in gate['ap']])
        measures.append([
            esc(name), number(gate['recovered_at_share'], 0, 100), _interval(gate.get('recovered_ci95')),
            _interval(gate.get('above_random_ci95')), number(gate['relative_area'], 2),
            number(gate['auroc'], 2), number(gate['auroc_above_median'], 2), number(gate['aurc'], 3),
            number(gate['e_aurc'], 3), number(gate['skill'], 2)])
    share = f'{100 * report["share"]:g} %'
    classes = [name for name in metric['classes'] if report['ground_truths'][name]]
    improved = f'{100 * metric["frames_improved"]:.0f} %'
    counts = ', '.join(f'{name} {report["ground_truths"][name]}' for name in metric['classes'])
    return section(
        metric['text'],
        f'<p class="sub">Mean over {esc(", ".join(metric["mean_over"]))}; valid ground truths: '
        f'{esc(counts)}. The teacher improves {improved} of the frames.</p>',
        figures([plots.svg(plots.ap_share, metric, report['share']), plots.svg(plots.risk_coverage, metric)]),
        '<h3>Mean AP R40 [%] by share sent</h3>',
        table(['gate', *(f'{100 * value:g} %' for value in shares)], rows),
        '<h3>How well the gates rank</h3>',
        table(('gate', f'recovered at {share} [%]', '95 %', 'above random, 95 %',
               'area (random 0, oracle 1)', 'AUROC, improved', 'AUROC, above median gain', 'AURC',
               'E-AURC', 'skill'), measures),
        '<h3>By class</h3>', figures([plots.svg(plots.class_ap, metric, name) for name in classes]))


def _replay(report: dict[str, Any]) -> str:
    parts = []
    for key, replay in report['replay'].items():
        metric, rows = report['metrics'][key], []
        for name, way in replay['ways'].items():
            for i, share in enumerate(replay['shares']):
                classes = [number(way['ap_by_class'][i][item], 1) for item in metric['classes']]
                rows.append([esc(name), number(share, 0, 100), number(way['sent'][i], 1, 100), *classes,
                             number(way['ap'][i], 1), number(way['recovered'][i], 0, 100),
                             _interval(way['recovered_range'][i])])
        parts += [f'<h3>{esc(metric["text"])}</h3>',
                  figures([plots.svg(plots.ap_share_in_time, metric, replay, report['share'])]), table(
                      ('way', 'budget [%]', 'sent [%]', *metric['classes'], 'AP [%]', 'recovered [%]',
                          'of the phases'), rows, 1)]
    replay = next(iter(report['replay'].values()))
    return section(
        'In time', *parts, f'<p class="sub">The frames replayed through the fallback itself; scorer '
        f'{esc(replay["scorer"])}, deadline {replay["deadline_ms"]:g} ms, a teacher of '
        f'{replay["teacher_ms"]:g} ms; means over {replay["phases"]} phases. Regular: the budget alone '
        "decides. Replaced: the teacher's answer is for its own frame. Carried: also for those that "
        'follow.</p>')


def _online(report: dict[str, Any]) -> str:
    rows = []
    for key, items in report['online'].items():
        for item in items:
            denied = item['counts']['share_budget']
            rows.append([esc(item['gate']), esc(item['threshold']), esc(report['metrics'][key]['text']),
                         number(item['share_sent'], 1, 100), str(item['counts']['ambiguous']), str(denied),
                         number(item['ap'], 1), number(item['recovered'], 0, 100),
                         number(item['ranked_recovered_at_that_share'], 0, 100),
                         number(item['random_recovered_at_that_share'], 0, 100)])
    return section(
        'Frame by frame', table(
            ('gate', 'threshold', 'metric', 'sent [%]', 'ambiguous', 'denied by the budget', 'AP [%]',
             'recovered [%]', 'best of all frames first [%]', 'random [%]'), rows, 3),
        '<p class="sub">The gate as the node runs it: threshold, hysteresis, token bucket and audits, not '
        'knowing the frames to come. A running threshold follows the scores of the last frames. The last two '
        'columns send as many frames, chosen from all.</p>')


def _facts(report: dict[str, Any]) -> str:
    rows = [(key, report[key]) for key in ('merge', 'bootstrap', 'seed')]
    for part in ('models', 'data', 'versions'):
        rows += [(f'{part}: {name}', value) for name, value in report.get(part, {}).items()]
    if report['estimator']:
        rows += [(f'learned gate: {name}', value) for name, value in report['estimator']['trained'].items()]
        rows += [(f'weight of {name}', f'{value:+.3f}')
                 for name, value in report['estimator']['features'].items()]
    cells = ''.join(f'<tr><td>{esc(name)}</td><td class="wrap">{esc(value)}</td></tr>'
                    for name, value in rows)
    command = f'<p><code>{esc(shlex.join(report["command"]))}</code></p>' if report['command'] else ''
    return f'<h2>What was evaluated</h2><section>{command}<table><tbody>{cells}</tbody></table></section>'


def render(report: dict[str, Any], title: str = 'Hybrid') -> str:
    """Return the report as one HTML document; `report` is the content of report.json."""
    body = ''.join([_tiles(report), warning_box(report['warnings']),
                    *(_metric(report, item) for item in report['metrics'].values()),
                    _replay(report), _online(report), _facts(report)])
    return document(title, body)
