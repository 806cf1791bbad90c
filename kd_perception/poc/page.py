# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""poc.html: one file, no script, nothing loaded from anywhere; all text escaped."""
from collections.abc import Sequence
import shlex
from typing import Any

from kd_perception.evaluation.hybrid import plots as hybrid_plots
from kd_perception.evaluation.report import plots
from kd_perception.evaluation.report.page import count, interval
from kd_perception.html_page import document, esc, figures, number, section, STYLE, table
from kd_perception.poc.camera_cost import LOAD

_RUNS = {'before': 'before', 'after': 'adapted', 'teacher': 'teacher'}
_MORE_STYLE = """
.answers { font-size: 16px; } .answers li { margin: 4px 0; } .answers ul { margin: 0; padding-left: 20px; }
.serious { color: #b3261e; font-weight: 600; } .minor { color: var(--warn); font-weight: 600; }
.up { color: #00785a; font-weight: 600; } .down { color: #b3261e; font-weight: 600; }
td.wide { white-space: normal; min-width: 260px; text-align: left; }
figure.row { margin-bottom: 12px; } figure.row img { width: 100%; }
.key b { font-weight: 600; }
"""


def _runs(content: dict[str, Any]) -> list[str]:
    return [run for run in _RUNS if run != 'after' or content['adapted']]


def _ap(item: dict[str, Any] | None) -> str:
    if item is None:
        return '<span class="none">–</span>'
    return f'{number(item["ap_r40"], 1)} {interval(item)}'


def _change(item: dict[str, Any]) -> str:
    change = item['change']
    if change is None or change['difference'] is None:
        return ''
    mark = '' if not change['beyond_chance'] else 'up' if change['difference'] > 0 else 'down'
    span = change['interval']
    interval = f' <span class="ci">{span[0]:+.1f} to {span[1]:+.1f}</span>' if span else ''
    return f'<span class="{mark}">{change["difference"]:+.1f}</span>{interval}'


def _rows(content: dict[str, Any], items: dict[str, Any], *first: str, runs: Sequence[str] = ()
          ) -> list[list[str]]:
    rows = []
    for name, item in items.items():
        if item['before'] is None or (first and not item['before']['valid_ground_truths']):
            continue
        rows.append([*map(esc, first), esc(name), count(item['before']),
                     *(_ap(item[run]) for run in runs or _runs(content)),
                     *([_change(item)] if content['adapted'] else [])])
    return rows


def _head(content: dict[str, Any], *first: str, runs: Sequence[str] = ()) -> list[str]:
    return [*first, 'class', 'objects', *(_RUNS[run] for run in runs or _runs(content)),
            *(['change by adapting'] if content['adapted'] else [])]


def _tiles(content: dict[str, Any]) -> str:
    tiles = []
    for name, item in content['accuracy']['kitti'].items():
        before, after = item['before'], item['after']
        shown = number(before['ap_r40'], 1)
        if after is not None:
            shown += f' &rarr; {number(after["ap_r40"], 1)}'
        tiles.append((shown, f'{name} AP R40, {content["level"]}',
                      f'teacher {number(item["teacher"]["ap_r40"], 1)}; '
                      f'{before["valid_ground_truths"]} objects'))
    for role in ('student', 'teacher'):
        tiles.append((f'{content["speed_ms"][role]["total_ms"][1]:.1f} ms', f'{role}, one frame on one core',
                      f'{content["footprint"][role]["cpu_ms"]:.1f} ms of processor time, '
                      f'{content["footprint"][role]["model_mib"]:.0f} MiB'))
    cost = content['cost']
    tiles.append((f'{cost["rows"][0]["cores"]:.1f} cores', f'{cost["cameras"]} cameras at '
                                                           f'{cost["rate_hz"]:g} Hz',
                  'student alone'))
    return '<div class="tiles">' + ''.join(
        f'<div class="tile"><b>{figure}</b><span>{esc(label)}</span><small>{extra}</small></div>'
        for figure, label, extra in tiles) + '</div>'


def _bars(content: dict[str, Any], key: str, title: str) -> str:
    """Draw the AP of each class before, after and of the teacher, with intervals."""
    figure, axes = plots._figure(5.0, 3.3)
    runs, classes = _runs(content), list(content['accuracy'][key])
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        for j, name in enumerate(classes):
            item = content['accuracy'][key][name][run]
            x = j + (i - (len(runs) - 1) / 2) * width
            value = item['ap_r40'] or 0.0
            axes.bar(x, value, width * 0.92, color=('#9fb4c7', plots.COLORS[0], plots.COLORS[4])[
                list(_RUNS).index(run)], label=_RUNS[run] if j == 0 else None,
                     alpha=0.35 if item['few_ground_truths'] else 1.0)
            if item['ci95']:
                axes.plot([x, x], item['ci95'], color=plots.TEXT, linewidth=1)
    axes.set_xticks(range(len(classes)), [plots._plain(name) for name in classes])
    axes.set_ylim(0, 100)
    plots._finish(axes, title, 'pale: few objects; lines: 95 % intervals', 'AP R40 [%]')
    return plots._svg(figure)


def _accuracy(content: dict[str, Any]) -> str:
    frames = content['frames']
    training = content['training']
    how = (f'Trained {training["steps"]:,} steps of {training["batch"]} on {frames["train"]} frames in '
           f'{training["took_s"] / 60:.1f} min. ' if training else '')
    found = [[esc(name), esc(_RUNS[run]), number(item['recall'], 0, 100),
              number(item['precision'], 0, 100), str(item['true_positives']),
              str(item['missed']), str(item['false_positives'])]
             for name in content['accuracy']['kitti'] for run in _runs(content)
             for item in [content['found'][run][name]]]
    return section(
        'Accuracy',
        f'<p class="sub">{esc(how)}Measured on {frames["held_out"]} other frames, in '
        f'{frames["held_out_blocks"]} '
        f'blocks of up to {frames["block_frames"]} consecutive ones that are resampled together for the 95 % '
        f'intervals; {frames["left_out"]} frames beside them were left out.</p>',
        figures([_bars(content, 'kitti', 'IoU 0.7 for cars, 0.5 for people'),
                _bars(content, 'iou50', 'IoU 0.5')]),
        f'<h3>KITTI, {content["level"]}: IoU 0.7 for cars, 0.5 for people; AP R40 [%]</h3>',
        table(_head(content), _rows(content, content['accuracy']['kitti'])),
        '<h3>At IoU 0.5 for every class</h3>',
        table(_head(content), _rows(content, content['accuracy']['iou50'])),
        '<p class="sub">The interval of a change takes both figures as independent, which is too wide on '
        'the same '
        'frames: coloured, a change is beyond chance. &#9888; under 41 objects the figure is limited by '
        'their '
        'number.</p>',
        '<h3>Objects found at the working threshold, IoU 0.5</h3>',
        table(('class', '', 'found [%]', 'right [%]', 'found', 'missed', 'false alarms'), found, 2))


def _conditions(content: dict[str, Any]) -> str:
    rows = [row for tag, item in content['conditions'].items()
            for row in _rows(content, item['classes'], f'{tag} ({item["frames"]} frames)')]
    if not rows:
        return section('By condition', '<p class="sub">All held-out frames are of one condition, as far as '
                       'light and sharpness tell.</p>')
    return section('By condition', table(_head(content, 'condition'), rows, 2),
                   '<p class="sub">Tags from brightness and sharpness of the image; AP R40 [%], KITTI\'s '
                   'IoU.</p>')


def _old(content: dict[str, Any]) -> str:
    if not content['old_ground']:
        return ''
    runs = [run for run in _runs(content) if run != 'teacher']
    return section('On the frames that the model was proved on',
                   table(_head(content, runs=runs), _rows(content, content['old_ground'], runs=runs)),
                   '<p class="sub">What was gained on the site may have been lost here: put some of the '
                   'old frames '
                   'beside the new ones (docs/how-to/adapt.md).</p>' if content['adapted'] else None)


def _hybrid(content: dict[str, Any], hybrid: dict[str, Any]) -> str:
    metric = next(iter(hybrid['metrics'].values()))
    cost, gate = content['cost'], content['hybrid']['gate']
    rows = [[f'{100 * row["share"]:g} %', number(row['ap'], 1), number(held, 0, 100),
             f'{row["busy_cores"]:.2f}', f'{row["cores"]:.2f}']
            for row, held in zip(cost['rows'], metric['gates'][gate]['recovered'])]
    return section(
        'The share sent to the teacher, and what it costs', figures([
            hybrid_plots.svg(hybrid_plots.ap_share, metric, hybrid['share']), _cost_plot(content)]),
        table(('sent', f'AP [%], mean of {", ".join(metric["mean_over"])}', "of the teacher's gain [%]",
               'cores busy', f'cores, each busy {100 * LOAD:.0f} %'), rows),
        f'<p class="sub">{cost["cameras"]} cameras at {cost["rate_hz"]:g} Hz, by the processor time of a '
        "frame on this computer, without decoding the camera's images and without ROS "
        f'(docs/reference/detector_node.md). Gate: {esc(gate)}, '
        f'{"as trained on other frames" if gate == "learned" else "no training"}; '
        'the vertical line is at 20 % of the frames.</p>')


def _cost_plot(content: dict[str, Any]) -> str:
    figure, axes = plots._figure(5.0, 4.2)
    rows = content['cost']['rows']
    axes.plot([row['cores'] for row in rows], [row['ap'] for row in rows], color=plots.COLORS[0], marker='o',
              markersize=4, linewidth=1.8)
    for row in rows:
        if row['share'] in (0.0, 0.2, 0.5, 1.0):
            axes.annotate(f'{100 * row["share"]:g} %', (row['cores'], row['ap']), xytext=(5, -11),
                          textcoords='offset points', fontsize=8.5, color=plots.TEXT)
    axes.set_xlim(0, 1.1 * max(row['cores'] for row in rows))
    plots._finish(axes, 'What accuracy costs', 'cores; numbers: share sent', 'AP R40 [%]', legend=False)
    return plots._svg(figure)


def _speed(content: dict[str, Any]) -> str:
    rows = []
    for role in ('student', 'teacher'):
        item, memory = content['speed_ms'][role], content['footprint'][role]
        low, middle, high = item['total_ms']
        rows.append([esc(role), f'{item["bytes"] / 2 ** 20:.2f}',
                     f'{item["input_hw"][1]}x{item["input_hw"][0]}', f'{item["inference_ms"][1]:.1f}',
                     f'{middle:.1f} <span class="ci">{low:.1f} to {high:.1f}</span>',
                     f'{memory["cpu_ms"]:.1f}',
                     f'{memory["model_mib"]:.0f}', f'{memory["process_mib"]:.0f}'])
    machine, (height, width) = content['machine'], content['image_hw']
    return section(
        'Speed and memory on this computer',
        table(('', 'file [MiB]', 'input', 'inference [ms]', 'whole frame [ms], quartiles',
               'processor [ms]', 'model [MiB]', 'process [MiB]'), rows),
        f'<p class="sub">{esc(machine["cpu"])}, {esc(machine["cores"])} cores, load '
        f'{esc(machine["load_average_at_start"])} when it was measured; one thread, images of '
        f'{width}x{height} px. '
        'Model: rise of the peak memory of a process by loading and running it.</p>')


def _gaps(content: dict[str, Any]) -> str:
    rows = [[f'<span class="{esc(gap["weight"])}">{esc(gap["weight"])}</span>', esc(gap['finding']),
             esc(gap['advice'])]
            for gap in sorted(content['gaps'], key=lambda gap: gap['weight'] != 'serious')]
    body = ''.join(f'<tr><td>{weight}</td><td class="wide">{finding}</td><td class="wide">{advice}</td></tr>'
                   for weight, finding, advice in rows)
    covered = ', '.join(f'{esc(tag)} {count}' for tag, count in content['conditions_covered'].items())
    return section(
        'What is missing',
        '<table><thead><tr><th></th><th class="text">what</th><th class="text">what would '
        'help</th></tr></thead>'
        f'<tbody>{body}</tbody></table>' if rows else '<p>Nothing that these checks see.</p>',
        f'<p class="sub">Frames by condition: {covered}. Rain, snow, glare and what else light and '
        'sharpness do not '
        'tell is not looked for.</p>')


def _pictures(pictures: Sequence[tuple[str, str | None]]) -> str:
    shown = ''.join(f'<figure class="row"><img loading="lazy" alt="{esc(name)}" '
                    f'src="{esc(uri)}"><figcaption>'
                    f'frame {esc(name)}</figcaption></figure>' for name, uri in pictures if uri)
    return section('Held-out frames with many objects', '<p class="sub key">White: labels; coloured: what '
                   'the model '
                   'says at its working threshold.</p>' if shown else None, shown or None)


def _facts(content: dict[str, Any]) -> str:
    frames = content['frames']
    rows = [('frames with labels and without an error', f'{frames["usable"]} of {frames["label_files"]} '
                                                        'label files, '
                                                        f'{frames["images"]} images'),
            ('sequences, told apart by file names', str(frames['sequences'])),
            ('objects', ', '.join(f'{count} {name}' for name, count in content['objects']['all'].items())),
            ('of them trained on', ', '.join(f'{count} {name}'
                                             for name, count in content['objects']['train'].items()))]
    rows += [(f'{run}: {key}', value)
             for run, model in content['models'].items() for key, value in model.items()]
    rows += [(f'version of {name}', value) for name, value in content['versions'].items()]
    cells = ''.join(f'<tr><td>{esc(name)}</td><td '
                    f'class="wrap">{esc(value)}</td></tr>' for name, value in rows)
    steps = ''.join(f'<tr><td>{esc(name)}</td><td>{step["took_s"]:.1f} s</td><td class="wrap"><code>'
                    f'{esc(step["command"])}</code></td></tr>'
                    for name, step in content['commands'].items())
    return (f'<h2>How it was made</h2><section><p><code>{esc(shlex.join(content["command"]))}</code></p>'
            f'<table><tbody>{cells}</tbody></table><details><summary>the steps, each a command to run by hand'
            f'</summary><table><tbody>{steps}</tbody></table></details></section>')


def render(content: dict[str, Any], hybrid: dict[str, Any],
           pictures: Sequence[tuple[str, str | None]] = ()) -> str:
    """
    Return the page.

    :param content: content of poc.json. :param hybrid: report of `evaluate hybrid`.
    :param pictures: (frame name, picture as data address or None).
    """
    answers = ''.join(f'<li>{esc(line)}</li>' for line in content['summary'])
    frames = content['frames']
    body = ''.join([
        _tiles(content), f'<section class="answers"><ul>{answers}</ul></section>', _accuracy(content),
        _old(content), _conditions(content), _hybrid(content, hybrid), _speed(content), _gaps(content),
        _pictures(pictures), _facts(content)])
    head = (f'<p class="sub">{frames["usable"]} labelled frames: {frames["train"]} to adapt, '
            f'{frames["held_out"]} to measure</p>')
    return document(content['title'], head + body, STYLE + _MORE_STYLE)
