# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""report.html: one file, no script, nothing loaded from anywhere. All text is escaped."""
from collections.abc import Sequence
import html
import shlex
from typing import Any

from kd_perception.evaluation.metrics.mistakes import Picture
from kd_perception.evaluation.report import plots

_STYLE = """
:root { --ink: #1d2733; --soft: #5b6775; --line: #e1e6ec; --accent: #0072b2; --warn: #9a5b00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: #f4f6f9; margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 8px; } p { margin: 6px 0 12px; max-width: 80ch; }
.sub { color: var(--soft); }
section, .tiles, .warn { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 20px; }
.tiles { display: flex; flex-wrap: wrap; gap: 14px 40px; margin: 18px 0; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; }
.tile small { color: var(--soft); display: block; font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.wrap { white-space: normal; word-break: break-word; text-align: left; }
tr:last-child td { border-bottom: 0; }
.ci { color: var(--soft); font-size: 12.5px; } .few { color: var(--warn); font-weight: 600; }
.none { color: var(--soft); }
.warn { border-left: 4px solid #e69f00; padding: 10px 18px; } .warn ul { margin: 4px 0; padding-left: 20px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px;
  margin-top: 14px; }
.plots svg { width: 100%; height: auto; max-width: 520px; }
.scroll { overflow-x: auto; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: #fff; }
figure img { display: block; width: 100%; } figcaption { padding: 6px 10px 9px; font-size: 13px; }
figcaption span { color: var(--soft); display: block; }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 4px -1px 12px; }
code { background: #eef1f5; padding: 1px 5px; border-radius: 4px; font-size: 13px; word-break: break-all; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _figure(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    return '<span class="none">–</span>' if value is None else f'{scale * value:.{digits}f}'


def _interval(item: dict[str, Any], digits: int = 1, scale: float = 1.0) -> str:
    if not item.get('ci95'):
        return ''
    low, high = item['ci95']
    return f'<span class="ci">{scale * low:.{digits}f} to {scale * high:.{digits}f}</span>'


def _count(item: dict[str, Any]) -> str:
    number = item['valid_ground_truths']
    if not item['few_ground_truths']:
        return str(number)
    return ('<span class="few" title="under 41 ground truths: even a perfect detector stays below 100">'
            f'{number} &#9888;</span>')


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Build a table; cells are HTML already."""
    def cells(tag: str, row: Sequence[str]) -> str:
        return ''.join(f'<{tag}{" class=text" if i < text_columns else ""}>{cell}</{tag}>'
                       for i, cell in enumerate(row))
    body = ''.join(f'<tr>{cells("td", row)}</tr>' for row in rows)
    head_row = f'<thead><tr>{cells("th", head)}</tr></thead>'
    return f'<div class="scroll"><table>{head_row}<tbody>{body}</tbody></table></div>'


def _section(title: str, *parts: str | None) -> str:
    inside = ''.join(part for part in parts if part)
    return f'<h2>{_text(title)}</h2><section>{inside}</section>' if inside else ''


def _plots(svgs: Sequence[str | None]) -> str:
    drawn = [svg for svg in svgs if svg]
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else ''


def _tiles(report: dict[str, Any]) -> str:
    tiles = []
    levels = list(report['protocol']['difficulties'])
    middle = levels[len(levels) // 2]
    for name, results in report['results'].items():
        item = results[middle]
        tiles.append((_figure(item['ap_r40'], 1), f'{name} AP R40, {middle}',
                      _interval(item) or _text(item.get('reason') or '')))
    if 'reasonable' in report['miss_rate']:
        item = report['miss_rate_details']['reasonable']
        tiles.append((_figure(item['lamr'], 1, 100) + (' %' if item['lamr'] is not None else ''),
                      'miss rate (LAMR), reasonable', _interval(item, 1, 100)))
    total = report['latency_ms'].get('total')
    if total:
        tiles.append((f'{total["p50"]:.1f} ms', 'median time a frame', f'99 %: {total["p99"]:.1f} ms'))
    frames = report['frames']
    dropped = sum(frames['dropped'].values())
    tiles.append((f'{frames["processed"]:,}', 'frames', f'{dropped:,} without a result' if dropped else ''))
    return '<div class="tiles">' + ''.join(
        f'<div class="tile"><b>{figure}</b><span>{_text(label)}</span><small>{extra}</small></div>'
        for figure, label, extra in tiles) + '</div>'


def _ap_rows(results: dict[str, dict[str, dict[str, Any]]]) -> list[list[str]]:
    rows = []
    for name, levels in results.items():
        for level, item in levels.items():
            reason = f'<span class="none">{_text(item["reason"])}</span>' if item.get('reason') else ''
            rows.append([_text(name), _text(level), _figure(item['ap_r40']), _interval(item),
                         _figure(item['ap_r11']), _count(item), reason])
    return rows


_AP_HEAD = ('class', 'difficulty', 'AP R40 [%]', '95 % interval', 'AP R11 [%]', 'valid ground truths', '')


def _quality(report: dict[str, Any]) -> str:
    results = report['results']
    few = any(item['few_ground_truths'] for levels in results.values() for item in levels.values())
    note = ('<p class="sub">&#9888; under 41 ground truths the figure is limited by their number: a perfect '
            'detector reaches 22.5 with 10 and 97.5 with 40.</p>') if few else ''
    counts = [[_text(name), _text(item['difficulty']), _figure(item['precision'], 1, 100),
               _figure(item['recall'], 1, 100), str(item['true_positives']), str(item['missed']),
               str(item['false_positives'])] for name, item in report['operating_points'].items()]
    threshold = next(iter(report['operating_points'].values()), {'threshold': 0})['threshold']
    return _section(
        'Average precision (KITTI)', _table(_AP_HEAD, _ap_rows(results), 2), note,
        _plots([plots.precision_recall(name, levels) for name, levels in results.items()]),
        f'<h3>At score {threshold:g}</h3>',
        _table(('class', 'difficulty', 'precision [%]', 'recall [%]', 'found', 'missed', 'false alarms'),
               counts, 2))


def _distances(report: dict[str, Any]) -> str:
    rows = [[_text(name), _text(level) + ' px', _figure(item['ap_r40']), _interval(item), _count(item)]
            for name, levels in report['height_bins_px'].items() for level, item in levels.items()]
    return _section('By box height (distance)', _plots([plots.height_bins(report['height_bins_px'])]),
                    '<details><summary>table</summary>',
                    _table(('class', 'box height', 'AP R40 [%]', '95 % interval', 'valid ground truths'),
                           rows, 2),
                    '</details>')


def _conditions(report: dict[str, Any]) -> str:
    rows = []
    for tag, item in report['conditions'].items():
        for name, levels in item['results'].items():
            row = [_text(tag), _text(name), str(item['frames'])]
            for level in levels.values():
                row.append(f'{_figure(level["ap_r40"], 1)} {_interval(level)}'
                           f'<br><span class="ci">of {_count(level)}</span>')
            rows.append(row)
    head = ['condition', 'class', 'frames']
    head += [f'{_text(level)} AP R40 [%]' for level in report['protocol']['difficulties']]
    return _section('By condition', _table(head, rows, 2) if rows else None,
                    '<p class="sub">Second line: valid ground truths.</p>' if rows else None)


def _miss_rates(report: dict[str, Any]) -> str:
    rows = [[_text(name), _figure(item['lamr'], 2, 100), _interval(item, 1, 100),
             _figure(item['recall_at_fppi'][4], 1, 100), _figure(item['recall_at_fppi'][8], 1, 100),
             _count(item)]
            for name, item in report['miss_rate_details'].items()]
    if not rows:
        return ''
    return _section(
        'Log-average miss rate (Caltech)',
        _table(('subset', 'LAMR [%]', '95 % interval', 'recall at 0.1 FPPI [%]', 'recall at 1 FPPI [%]',
                'valid ground truths'), rows),
        '<p class="sub">Low is good. The mean, in the logarithm, of the miss rate at nine points from 0.01 '
        'to 1 false positive per image (shaded).</p>', _plots([plots.miss_rate(report['miss_rate_details'])]))


def _calibration(report: dict[str, Any]) -> str:
    rows = [[_text(name), _figure(item['d_ece'], 2, 100), str(item['detections']),
             _text(item['reason'] or '')] for name, item in report['calibration'].items()]
    return _section(
        'Calibration', _table(('class', 'D-ECE [%]', 'detections', ''), rows),
        '<p class="sub">Bars: how many detections of a score are right. On the dashed line a score is a '
        'probability; below it the detector is too sure of itself. Grey: where the detections are.</p>',
        _plots([plots.reliability(name, item) for name, item in report['calibration'].items()]))


def _coco(report: dict[str, Any]) -> str:
    if not report['coco']:
        return ''
    columns = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large', 'ar_100')
    rows = [[_text(name)] + [_figure(item.get(column), 1) for column in columns]
            for name, item in report['coco'].items()]
    head = ('class', 'AP', 'AP50', 'AP75', 'small', 'medium', 'large', 'AR100')
    return _section('COCO metrics', _table(head, rows),
                    '<p class="sub">pycocotools; every labelled object counts, whatever its occlusion.</p>')


def _latency(report: dict[str, Any]) -> str:
    rows = [[_text(stage)] + [f'{item[key]:.2f}' for key in ('p50', 'p95', 'p99', 'max', 'mean')]
            + [str(item['count'])] for stage, item in report['latency_ms'].items()]
    if not rows:
        return ''
    shown = [stage for stage in ('total', 'inference') if stage in report['latency_histogram']]
    return _section('Latency', _table(('stage', 'p50 [ms]', 'p95', 'p99', 'max', 'mean', 'frames'), rows),
                    _plots([plots.latency(report['latency_histogram'], stage) for stage in shown]))


def _gallery(title: str, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ''
    tiles = []
    for item in pictures:
        image = ''
        if item.data_uri:
            image = f'<img loading="lazy" alt="{_text(item.caption)}" src="{_text(item.data_uri)}">'
        tiles.append(f'<figure>{image}<figcaption><b>{_text(item.caption)}</b><span>{_text(item.note)}</span>'
                     f'<span>frame {_text(item.frame)}</span></figcaption></figure>')
    key = ('<p class="sub key"><i style="background:#e63c3c"></i>the mistake'
           '<i style="background:#3cbe78"></i>labels<i style="background:#1ea0e6"></i>detections</p>')
    return _section(title, key, f'<div class="gallery">{"".join(tiles)}</div>')


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
    cells = ''.join(f'<tr><td>{_text(name)}</td><td class="wrap">{_text(value)}</td></tr>'
                    for name, value in rows)
    command = f'<p><code>{_text(shlex.join(report["command"]))}</code></p>' if report['command'] else ''
    return f'<h2>What was evaluated</h2><section>{command}<table><tbody>{cells}</tbody></table></section>'


def render(report: dict[str, Any], gallery: dict[str, list[Picture]] | None = None,
           title: str = 'Evaluation') -> str:
    """
    Return the report as one HTML document.

    :param report: content of report.json.
    :param gallery: pictures from `gallery.make_gallery`.
    """
    gallery = gallery or {}
    warnings = ''
    if report['warnings']:
        items = ''.join(f'<li>{_text(line)}</li>' for line in report['warnings'])
        warnings = f'<div class="warn"><ul>{items}</ul></div>'
    model = report['model'].get('name') or 'finished detections'
    parts = [_tiles(report), warnings, _quality(report), _miss_rates(report), _distances(report),
             _conditions(report), _calibration(report), _coco(report), _latency(report),
             _gallery('Largest misses', gallery.get('misses', [])),
             _gallery('Surest false alarms', gallery.get('false_alarms', [])), _facts(report)]
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{_text(title)}</title><style>{_STYLE}</style></head><body><main>'
            f'<h1>{_text(title)}</h1>'
            f'<p class="sub">{_text(model)}, {report["frames"]["processed"]:,} frames</p>'
            f'{"".join(parts)}</main></body></html>\n')
