# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""report.html: one file, no script, nothing loaded from anywhere. All text is escaped."""
from collections.abc import Sequence
import shlex
from typing import Any

from kd_perception.evaluation.metrics.mistakes import Picture
from kd_perception.evaluation.report import plots
from kd_perception.html_page import document, esc, figures, number, section, table, warning_box


def interval(item: dict[str, Any], digits: int = 1, scale: float = 1.0) -> str:
    """Return the 95 % interval of a figure, where it has one."""
    if not item.get('ci95'):
        return ''
    low, high = item['ci95']
    return f'<span class="ci">{scale * low:.{digits}f} to {scale * high:.{digits}f}</span>'


def count(item: dict[str, Any]) -> str:
    """Return the number of ground truths, marked where they are few."""
    truths = item['valid_ground_truths']
    if not item['few_ground_truths']:
        return str(truths)
    return ('<span class="few" title="under 41 ground truths: even a perfect detector stays below 100">'
            f'{truths} &#9888;</span>')


def _tiles(report: dict[str, Any]) -> str:
    tiles = []
    levels = list(report['protocol']['difficulties'])
    middle = levels[len(levels) // 2]
    for name, results in report['results'].items():
        item = results[middle]
        tiles.append((number(item['ap_r40'], 1), f'{name} AP R40, {middle}',
                      interval(item) or esc(item.get('reason') or '')))
    if 'reasonable' in report['miss_rate']:
        item = report['miss_rate_details']['reasonable']
        tiles.append((number(item['lamr'], 1, 100) + (' %' if item['lamr'] is not None else ''),
                      'miss rate (LAMR), reasonable', interval(item, 1, 100)))
    total = report['latency_ms'].get('total')
    if total:
        tiles.append((f'{total["p50"]:.1f} ms', 'median time a frame', f'99 %: {total["p99"]:.1f} ms'))
    frames = report['frames']
    dropped = sum(frames['dropped'].values())
    tiles.append((f'{frames["processed"]:,}', 'frames', f'{dropped:,} without a result' if dropped else ''))
    return '<div class="tiles">' + ''.join(
        f'<div class="tile"><b>{figure}</b><span>{esc(label)}</span><small>{extra}</small></div>'
        for figure, label, extra in tiles) + '</div>'


def _ap_rows(results: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    rows = []
    for name, levels in results.items():
        for level, item in levels.items():
            reason = f'<span class="none">{esc(item["reason"])}</span>' if item.get('reason') else ''
            rows.append([esc(name), esc(level), number(item['ap_r40']), interval(item),
                         number(item['ap_r11']), count(item), reason])
    return rows


_AP_HEAD = ('class', 'difficulty', 'AP R40 [%]', '95 % interval', 'AP R11 [%]', 'valid ground truths', '')


def _quality(report: dict[str, Any]) -> str:
    results = report['results']
    few = any(item['few_ground_truths'] for levels in results.values() for item in levels.values())
    note = ('<p class="sub">&#9888; under 41 ground truths the figure is limited by their number: a perfect '
            'detector reaches 22.5 with 10 and 97.5 with 40.</p>') if few else ''
    counts = [[esc(name), esc(item['difficulty']), number(item['precision'], 1, 100),
               number(item['recall'], 1, 100), str(item['true_positives']), str(item['missed']),
               str(item['false_positives'])] for name, item in report['operating_points'].items()]
    threshold = next(iter(report['operating_points'].values()), {'threshold': 0})['threshold']
    return section(
        'Average precision (KITTI)', table(_AP_HEAD, _ap_rows(results), 2), note,
        figures([plots.precision_recall(name, levels) for name, levels in results.items()]),
        f'<h3>At score {threshold:g}</h3>',
        table(('class', 'difficulty', 'precision [%]', 'recall [%]', 'found', 'missed', 'false alarms'),
              counts, 2))


def _distances(report: dict[str, Any]) -> str:
    rows = [[esc(name), esc(level) + ' px', number(item['ap_r40']), interval(item), count(item)]
            for name, levels in report['height_bins_px'].items() for level, item in levels.items()]
    return section('By box height (distance)', figures([plots.height_bins(report['height_bins_px'])]),
                   '<details><summary>table</summary>',
                   table(('class', 'box height', 'AP R40 [%]', '95 % interval', 'valid ground truths'),
                         rows, 2),
                   '</details>')


def _conditions(report: dict[str, Any]) -> str:
    rows = []
    for tag, item in report['conditions'].items():
        for name, levels in item['results'].items():
            row = [esc(tag), esc(name), str(item['frames'])]
            for level in levels.values():
                row.append(f'{number(level["ap_r40"], 1)} {interval(level)}'
                           f'<br><span class="ci">of {count(level)}</span>')
            rows.append(row)
    head = ['condition', 'class', 'frames']
    head += [f'{esc(level)} AP R40 [%]' for level in report['protocol']['difficulties']]
    return section('By condition', table(head, rows, 2) if rows else None,
                   '<p class="sub">Second line: valid ground truths.</p>' if rows else None)


def _miss_rates(report: dict[str, Any]) -> str:
    rows = [[esc(name), number(item['lamr'], 2, 100), interval(item, 1, 100),
             number(item['recall_at_fppi'][4], 1, 100), number(item['recall_at_fppi'][8], 1, 100),
             count(item)]
            for name, item in report['miss_rate_details'].items()]
    if not rows:
        return ''
    return section(
        'Log-average miss rate (Caltech)',
        table(('subset', 'LAMR [%]', '95 % interval', 'recall at 0.1 FPPI [%]', 'recall at 1 FPPI [%]',
               'valid ground truths'), rows),
        '<p class="sub">Low is good. The mean, in the logarithm, of the miss rate at nine points from 0.01 '
        'to 1 false positive per image (shaded).</p>',
        figures([plots.miss_rate(report['miss_rate_details'])]))


def _calibration(report: dict[str, Any]) -> str:
    rows = [[esc(name), number(item['d_ece'], 2, 100), str(item['detections']),
             esc(item['reason'] or '')] for name, item in report['calibration'].items()]
    return section(
        'Calibration', table(('class', 'D-ECE [%]', 'detections', ''), rows),
        '<p class="sub">Bars: how many detections of a score are right. On the dashed line a score is a '
        'probability; below it the detector is too sure of itself. Grey: where the detections are.</p>',
        figures([plots.reliability(name, item) for name, item in report['calibration'].items()]))


def _coco(report: dict[str, Any]) -> str:
    if not report['coco']:
        return ''
    columns = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large', 'ar_100')
    rows = [[esc(name)] + [number(item.get(column), 1) for column in columns]
            for name, item in report['coco'].items()]
    head = ('class', 'AP', 'AP50', 'AP75', 'small', 'medium', 'large', 'AR100')
    return section('COCO metrics', table(head, rows),
                   '<p class="sub">pycocotools; every labelled object counts, whatever its occlusion.</p>')


def _latency(report: dict[str, Any]) -> str:
    rows = [[esc(stage)] + [f'{item[key]:.2f}' for key in ('p50', 'p95', 'p99', 'max', 'mean')]
            + [str(item['count'])] for stage, item in report['latency_ms'].items()]
    if not rows:
        return ''
    shown = [stage for stage in ('total', 'inference') if stage in report['latency_histogram']]
    return section('Latency', table(('stage', 'p50 [ms]', 'p95', 'p99', 'max', 'mean', 'frames'), rows),
                   figures([plots.latency(report['latency_histogram'], stage) for stage in shown]))


def _gallery(title: str, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ''
    tiles = []
    for item in pictures:
        image = ''
        if item.data_uri:
            image = f'<img loading="lazy" alt="{esc(item.caption)}" src="{esc(item.data_uri)}">'
        tiles.append(f'<figure>{image}<figcaption><b>{esc(item.caption)}</b><span>{esc(item.note)}</span>'
                     f'<span>frame {esc(item.frame)}</span></figcaption></figure>')
    key = ('<p class="sub key"><i style="background:#e63c3c"></i>the mistake'
           '<i style="background:#3cbe78"></i>labels<i style="background:#1ea0e6"></i>detections</p>')
    return section(title, key, f'<div class="gallery">{"".join(tiles)}</div>')


def _facts(report: dict[str, Any]) -> str:
    frames = report['frames']
    rows = [('frames in all', f'{frames["total"]:,}'), ('with a result', f'{frames["processed"]:,}')]
    rows += [(f'without a result: {reason}', f'{count:,}') for reason, count in frames['dropped'].items()]
    if report['recordings']['count']:
        lost = report['recordings']['lost_messages']
        rows.append(('messages lost in the recordings', 'not known' if lost is None else f'{lost:,}'))
    rows += [('labelled objects', f'{report["objects"]["labels"]:,}'),
             ('detections', f'{report["objects"]["detections"]:,}')]
    rows += [(f'model {key}', value) for key, value in report['model'].items()]
    for key, value in report['data'].items():
        if key == 'sha256':
            rows += [(f'sha256 of {name}', digest) for name, digest in value.items()]
        else:
            rows.append((key, value))
    protocol = report['protocol']
    rows += [('classes', ', '.join(f'{name} (IoU over {item["min_iou"]:g})'
                                   for name, item in protocol['classes'].items())),
             ('bootstrap', f'{protocol["bootstrap"]} resamples of {protocol["resampled"]}, '
                           f'seed {protocol["seed"]}')]
    if 'runtime' in report:
        rows += [('evaluation took', '{wall_s:.1f} s ({cpu_s:.1f} s of processor time), '
                  '{peak_memory_mib:.0f} MiB'.format(**report['runtime']))]
    rows += [(f'version of {name}', value) for name, value in report['versions'].items()]
    cells = ''.join(f'<tr><td>{esc(name)}</td><td class="wrap">{esc(value)}</td></tr>'
                    for name, value in rows)
    command = f'<p><code>{esc(shlex.join(report["command"]))}</code></p>' if report['command'] else ''
    return f'<h2>What was evaluated</h2><section>{command}<table><tbody>{cells}</tbody></table></section>'


def render(report: dict[str, Any], gallery: dict[str, list[Picture]] | None = None,
           title: str = 'Evaluation') -> str:
    """
    Return the report as one HTML document.

    :param report: content of report.json.
    :param gallery: pictures from `gallery.make_gallery`.
    """
    gallery = gallery or {}
    model = report['model'].get('name') or 'finished detections'
    parts = [_tiles(report), warning_box(report['warnings']), _quality(report), _miss_rates(report),
             _distances(report), _conditions(report), _calibration(report), _coco(report), _latency(report),
             _gallery('Largest misses', gallery.get('misses', [])),
             _gallery('Surest false alarms', gallery.get('false_alarms', [])), _facts(report)]
    return document(title, f'<p class="sub">{esc(model)}, {report["frames"]["processed"]:,} frames</p>'
                           f'{"".join(parts)}')
