# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From what a run of `benchmark hybrid` recorded to its report: figures, promises, tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from kd_perception.benchmark.hybrid import soak
from kd_perception.benchmark.hybrid.faults import Fault
from kd_perception.benchmark.hybrid.load import Records
from kd_perception.benchmark.hybrid.processes import BYTES_PER_MB, Nodes, Usage

LATENESS_LIMIT_MS = 20.0
RSS_WARM_UP_S = 30.0
_PARTS = ('p50', 'p95', 'p99', 'max')
# Totals of the fallback that tell what it met.
_COUNTS = ('answer.', 'unverified.', 'dropped.', 'stamps_not_rising')


@dataclasses.dataclass(frozen=True)
class Run:
    """
    What a run recorded.

    :param records: camera -> what arrived. :param begin_ns: begin of the measured part, wall clock.
    :param cameras: camera -> has `skipped` and `worst_publish_s`.
    """

    records: Mapping[str, Records]
    begin_ns: int
    seconds: float
    nodes: Nodes
    faults: Sequence[Fault]
    cameras: Mapping[str, Any]


def make_report(run: Run, deadline_ms: float) -> dict[str, Any]:
    """
    Return the report, ready for JSON; times in ms or as the key says.

    Of the images published before `begin_ns` nothing counts.
    """
    report: dict[str, Any] = {'seconds': round(run.seconds, 2)}
    cameras, delays, outside, told = {}, {'result': [], 'verified': []}, [], []
    heard_all, without_provenance = 0, 0
    for name, records in run.records.items():
        published = {stamp: at for stamp, at in records.published.items() if at >= run.begin_ns}
        warm_up = records.published.keys() - published.keys()
        results = [r for r in records.results if r.stamp_ns not in warm_up]
        verified = [v for v in records.verified if v.stamp_ns not in warm_up]
        mine = [t for t in records.told if t.stamp_ns not in warm_up]
        counts = {key: int(value) for key, value in records.values.items() if value.isdigit()}
        account = soak.balance(
            results, verified, published, *(
                [at for at in times['student'] if at >= run.begin_ns]
                for times in (run.nodes.births_ns, run.nodes.deaths_ns)),
            counts, len(records.verified))
        matching = soak.match(results, verified, published)
        outside += [verified[j].arrival_ns - results[i].arrival_ns for i, j in matching.pairs]
        for kind, seen in (('result', results), ('verified', verified)):
            delays[kind] += [m.arrival_ns - published[m.stamp_ns] for m in seen if m.stamp_ns in published]
        told += mine
        heard_all += len(records.verified)
        missing = Counter(v.stamp_ns for v in verified) - Counter(t.stamp_ns for t in mine)
        without_provenance += sum(missing.values())
        cameras[name] = {
            'published': len(published), 'skipped_by_load': run.cameras[name].skipped,
            **dataclasses.asdict(account), 'unreadable': records.unreadable,
            'counts': {key: value for key, value in counts.items() if any(c in key for c in _COUNTS)
                       and not key.startswith('breaker.')},
            'arbiter': {key: counts.get(f'arbiter.{key}') for key in ('students', 'outputs')},
            'states': [[round(begin, 1), round(end, 1), state] for begin, end, state in soak.spans(
                [(max(0.0, (at - run.begin_ns) / 1e9), state) for at, state, _ in records.states
                 if -1e9 <= at - run.begin_ns <= 1e9 * run.seconds], run.seconds)]}

    def total(key: str) -> int:
        return sum(camera[key] for camera in cameras.values())

    report['totals'] = {key: total(key) for key in (
        'published', 'skipped_by_load', 'results', 'verified', 'lost', 'unreached', 'doubled',
        'out_of_order', 'invented', 'unseen', 'unreadable')}
    report['totals'].update(
        without_provenance=without_provenance,
        taken_by_fallback=sum(camera['arbiter']['students'] or 0 for camera in cameras.values()),
        given_by_fallback=sum(camera['arbiter']['outputs'] or 0 for camera in cameras.values()),
        heard_since_start=heard_all)
    deadline_ns, limit_ns = round(deadline_ms * 1e6), round(LATENESS_LIMIT_MS * 1e6)
    report['deadline'] = {
        'deadline_ms': deadline_ms, 'limit_ms': LATENESS_LIMIT_MS,
        'fallback_clock': _lateness(soak.lateness((t.waited_ns for t in told), deadline_ns, limit_ns)),
        'seen_outside': _lateness(soak.lateness(outside, deadline_ns, limit_ns))}
    report['latency_ms'] = {
        'image_to_result': soak.percentiles_ms(delays['result']),
        'image_to_verified': soak.percentiles_ms(delays['verified']),
        'result_to_verified': soak.percentiles_ms(outside),
        'waited': soak.percentiles_ms(t.waited_ns for t in told),
        **{f'waited, {source}': soak.percentiles_ms(t.waited_ns for t in told if t.source == source)
           for source in sorted({t.source for t in told})}}
    report['sources'] = soak.shares(t.source for t in told)
    report['unverified'] = soak.shares(t.unverified for t in told if t.unverified)
    report['worst_publish_ms'] = round(1e3 * max(c.worst_publish_s for c in run.cameras.values()), 1)
    report['processes'] = {name: _usage(usage, run, report['totals']['published'])
                           for name, usage in run.nodes.usage.items()}
    report['crashes'] = list(run.nodes.crashes)
    report['faults'] = [dataclasses.asdict(fault) for fault in run.faults]
    report['cameras'] = cameras
    report['promises'] = _promises(report)
    return report


def _lateness(found: soak.Lateness) -> dict[str, float]:
    return {'count': found.count, 'in_time': found.met, 'late': found.count - found.met,
            'too_late': found.beyond, 'worst_ms': round(found.worst_ns / 1e6, 3)}


def _usage(usage: Usage, run: Run, frames: int) -> dict[str, Any]:
    lives = [life for life in usage.lives if life]
    # Libraries and pools grow to their size first.
    warm_up_s = min(RSS_WARM_UP_S, run.seconds / 3)
    slope = soak.growth(lives, warm_up_s)
    return {
        'lives': len(usage.lives),
        'rss_start_mb': round(lives[0][0][1] / BYTES_PER_MB, 1) if lives else None,
        'rss_end_mb': round(lives[-1][-1][1] / BYTES_PER_MB, 1) if lives else None,
        'rss_growth_mb_per_min': None if slope is None else round(60 * slope / BYTES_PER_MB, 2),
        'cpu_s': round(usage.cpu_s, 2), 'cpu_percent_of_one_core': round(100 * usage.cpu_s / run.seconds, 1),
        'cpu_ms_per_frame': round(1e3 * usage.cpu_s / frames, 3) if frames else None}


def _promises(report: dict[str, Any]) -> list[dict[str, Any]]:
    totals = report['totals']

    def promise(text: str, value: float, limit: float = 0) -> dict[str, Any]:
        return {'promise': text, 'value': value, 'limit': limit, 'kept': value <= limit}

    return [
        promise('results lost', totals['lost']), promise('results answered twice', totals['doubled']),
        promise('answers out of order', totals['out_of_order']),
        promise('answers to no image', totals['invented']),
        promise("worst lateness by the fallback's clock [ms]",
                report['deadline']['fallback_clock']['worst_ms'], LATENESS_LIMIT_MS),
        promise('processes that ended unasked', len(report['crashes'])),
        # A run that measured nothing keeps no promise.
        promise('cameras without an answer',
                sum(camera['verified'] == 0 for camera in report['cameras'].values()))]


def markdown(report: dict[str, Any]) -> str:
    """Return the report as tables for people."""
    machine, settings, totals = report['machine'], report['settings'], report['totals']
    deadline = report['deadline']
    held_up = totals['skipped_by_load']
    lines = [
        '# Hybrid', '',
        f'{machine["cpu"]}, {machine["cores"]} cores, load {machine["load_average_at_start"]}; '
        f'{machine["system"]}; Python {machine["python"]}, ROS {machine["ros_distro"]}, '
        f'onnxruntime {machine["onnxruntime"]}; transports {machine["transports"]}, images reliable, depth '
        f'{settings["image_depth"]}.', '',
        f'{settings["cameras"]} cameras at {settings["rate_hz"]:g} Hz, {settings["image"]} '
        f'({settings["input"]}), {report["seconds"]:g} s; student {settings["student"]}, teacher '
        f'{settings["teacher"]}, share {settings["share"]:g}, deadline {deadline["deadline_ms"]:g} ms; '
        f'faults {settings["faults"]} (seed {settings["seed"]}).', '',
        '| images | results | verified | lost | never reached the fallback | twice | out of order '
        '| no provenance |', '|---|---|---|---|---|---|---|---|',
        '| ' + ' | '.join(str(totals[key]) for key in (
            'published', 'results', 'verified', 'lost', 'unreached', 'doubled', 'out_of_order',
            'without_provenance')) + ' |', '',
        *([f'{held_up} more images were due when this process was held up, and were not published.', '']
          if held_up else []),
        f'| deadline | answers | in time | at most {LATENESS_LIMIT_MS:g} ms late | later '
        '| worst lateness, ms |', '|---|---|---|---|---|---|']
    for key, title in (('fallback_clock', "by the fallback's clock"), ('seen_outside', 'seen outside')):
        part = deadline[key]
        lines.append(f'| {title} | {part["count"]} | {part["in_time"]} | {part["late"] - part["too_late"]} '
                     f'| {part["too_late"]} | {part["worst_ms"]:.1f} |')
    lines += ['', '| latency, ms | answers | median | p95 | p99 | max |', '|---|---|---|---|---|---|']
    lines += [f'| {name.replace("_", " ")} | {part["count"]} | '
              + ' | '.join(f'{part[p]:.1f}' if p in part else '-' for p in _PARTS) + ' |'
              for name, part in report['latency_ms'].items()]
    lines += ['', 'Sources: ' + _listed(report['sources']) + '. Not verified though wanted: '
              + _listed(report['unverified']) + '.', '',
              '| process | lives | RSS start, MB | end | growth, MB/min | CPU, s | % of a core '
              '| ms an image |', '|---|---|---|---|---|---|---|---|']
    for name, part in report['processes'].items():
        values = (part[key] for key in (
            'lives', 'rss_start_mb', 'rss_end_mb', 'rss_growth_mb_per_min', 'cpu_s',
            'cpu_percent_of_one_core', 'cpu_ms_per_frame'))
        lines.append(f'| {name} | ' + ' | '.join('-' if v is None else f'{v:g}' for v in values) + ' |')
    lines += ['', *_fault_lines(report), *_state_lines(report)]
    lines += [f'- {"kept" if p["kept"] else "BROKEN"}: {p["promise"]}: {p["value"]:g}, at most {p["limit"]:g}'
              for p in report['promises']]
    lines += [f'- {name}: {camera["proof"]}; so nothing is excused'
              for name, camera in report['cameras'].items() if camera['proof']]
    return '\n'.join(lines) + '\n'


def _listed(found: dict[str, dict[str, float]]) -> str:
    return ', '.join(f'{name} {part["count"]} ({100 * part["share"]:.1f} %)'
                     for name, part in found.items()) or 'none'


def _fault_lines(report: dict[str, Any]) -> list[str]:
    if not report['faults']:
        return []
    lines = ['| fault | camera | from, s | to, s |', '|---|---|---|---|']
    for fault in report['faults']:
        kind = fault['kind'] + (f' by {fault["amount"]:.1f} s' if fault['amount'] else '')
        end = fault['skipped'] or f'{fault["end_s"]:.1f}'
        lines.append(f'| {kind} | {fault["camera"] or "-"} | {fault["begin_s"]:.1f} | {end} |')
    return [*lines, '']


def _state_lines(report: dict[str, Any]) -> list[str]:
    lines = ['| camera | states, each with the second from which |', '|---|---|']
    for name, camera in report['cameras'].items():
        told = ', '.join(f'{state} {begin:.0f}' for begin, _, state in camera['states'])
        lines.append(f'| {name} | {told} |')
    return [*lines, '']
