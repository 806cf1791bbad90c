# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A demo's summary for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_perception.demo.report import OVERVIEW, RECORDING, SUMMARY, TIMELINE

_STATISTICS = ('p50', 'p95', 'p99', 'max')
_REASONS_SHOWN = 4


def table(summary: Mapping[str, Any], out: Path) -> str:
    """
    Return the summary as lines of text.

    :param summary: of one model or of the hybrid. :param out: the folder that the files lie in.
    """
    frames, source = summary['frames'], summary['input']
    hybrid = 'verified' in summary
    models = summary['models'] if hybrid else {'model': summary['model']}
    rows = [
        ('input', source['title'] + (' [RENDERED, NOT FOOTAGE]' if source['rendered'] else '')),
        ('origin', source['origin']),
        *((role, f'{model["name"]}, sha256 {model["sha256"][:12]}' if model else 'none, by design')
          for role, model in models.items()),
        ('frames', f'{frames["in"]} published, {frames["processed"]} processed in {summary["wall_s"]:.1f} s'),
        ('dropped', _dropped(frames)), *(_verified_rows(summary) if hybrid else ()),
        ('found', ', '.join(f'{count} {label}' for label, count in summary['detections_per_class'].items())),
    ]
    width = 12 if hybrid else 9
    lines = [f'{name:<{width}}{text}' for name, text in rows]
    for camera, stages in summary['latency_ms'].items():
        lines += _latency_lines(camera if not hybrid else f'{camera}: student', stages)
    for camera, stages in summary.get('teacher', {}).get('latency_ms', {}).items():
        lines += _latency_lines(f'{camera.rpartition("/")[0]}: teacher', stages)
    lines.append('')
    lines += [f'{str(out / name):<{len(str(out)) + 18}}{text}' for name, text in (
        (OVERVIEW, 'annotated frames' + (', and who answered them' if hybrid else '')),
        *([(TIMELINE, 'state, answers, ambiguity and waiting over the recorded time')] if hybrid else ()),
        (RECORDING, 'images, detections, annotations: open it in Foxglove'), (SUMMARY, 'these figures'))]
    return '\n'.join(lines)


def _dropped(frames: Mapping[str, Any]) -> str:
    text = _listed(frames['dropped']) or 'none'
    return text + (f', {frames["undelivered"]} not delivered' if frames['undelivered'] else '')


def _verified_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    verified, settings = summary['verified'], summary['fallback']
    messages, deadline = verified['messages'], f'{settings["deadline_ms"]:g} ms'
    answered = sum(count for source, count in verified['sources'].items() if source in ('teacher', 'merged'))
    rows = [
        ('verified', f'{messages} for {verified["student_results"]} results of the student: '
                     f'{verified["lost"]} lost, {verified["doubled"]} doubled; '
                     f'{verified["deadline_met"]} within {deadline}'),
        ('answered by', _listed(verified['sources']) or 'nobody'),
        ('sent', f'{verified["sent"]} to the teacher ({100 * verified["sent_share"]:.1f} %, at most '
                 f'{100 * settings["share"]:g} % and a burst), {answered} answers used'),
        ('ambiguous', _listed({reason: count for reason, count in verified['reasons'].items()
                               if reason != 'clear'}, _REASONS_SHOWN) or 'none'),
        ('unverified', _listed(verified['unverified']) or 'none')]
    for name, key in (('waited', 'waited_ms'), ('  if sent', 'waited_when_sent_ms')):
        values = verified[key]
        if values:
            rows.append((name, f'median {values["p50"]:.1f} ms, 99 % {values["p99"]:.1f} ms, '
                               f'max {values["max"]:.1f} ms'))
    for camera, states in summary['states_s'].items():
        rows.append(('state', f'{camera}: ' + (
            ', '.join(f'{state} {seconds:.1f} s' for state, seconds in states.items()) or 'none reported')))
    return rows


def _listed(counts: Mapping[str, int], most: int | None = None) -> str:
    items = list(counts.items())
    left = sum(count for _, count in items[most:]) if most else 0
    return ', '.join(f'{count} {name}' for name, count in items[:most]) + (f', {left} others' if left else '')


def _latency_lines(title: str, stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    head = f'\n{"latency of " + title + " [ms]":<36}{"median":>8}{"95 %":>8}{"99 %":>8}{"max":>8}'
    return [head, *(
        f'  {stage:<34}' + ''.join(f'{values.get(key, float("nan")):>8.1f}' for key in _STATISTICS)
        for stage, values in stages.items())]
