# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The state of a running graph on one screen, and as JSON: what its nodes report, and who has stopped.

Plain text with ANSI colours, which every terminal on a vehicle shows: three tables need no library for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from kd_perception.levels import Level, Report
from kd_perception.monitoring.board import NodeView
from kd_perception.monitoring.metric_table import CAMERA, FALLBACK, MODEL, TEACHER
from kd_perception.monitoring.metrics import source_of

_COLOURS = {Level.OK: '32', Level.WARN: '33', Level.ERROR: '31', Level.STALE: '35'}
_NONE = '-'


@dataclasses.dataclass(frozen=True)
class GraphStatus:
    """
    What is known of a graph now.

    :param missing: nodes that were expected and never reported.
    :param unheard: nodes that have a publisher on /diagnostics and never reported under their name.
    """

    views: tuple[NodeView, ...]
    missing: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()

    @property
    def level(self) -> Level:
        """The worst level; a node that is expected and does not report is STALE."""
        levels = [view.level for view in self.views]
        return Level.STALE if self.missing else max(levels, default=Level.STALE)


class _Cell(NamedTuple):
    text: str
    level: Level | None = None


def as_json(status: GraphStatus) -> dict[str, Any]:
    """Return the status as plain data, with all values as the nodes report them."""
    return {
        'level': status.level.name, 'missing': list(status.missing), 'unheard': list(status.unheard),
        'nodes': [{
            'name': view.name, 'alive': view.alive, 'age_s': round(view.age_ns / 1e9, 3),
            'level': view.level.name, 'lifecycle': view.lifecycle,
            'components': [{
                'name': report.name, 'level': report.level.name, 'message': report.message,
                'hardware_id': report.hardware_id, 'values': dict(report.values)} for report in view.reports]}
            for view in status.views]}


def render(status: GraphStatus, colour: bool = False, width: int = 0) -> str:
    """
    Return the screen, lines ended by a line feed.

    :param colour: paint levels. :param width: lines are cut there; 0: they are not.
    """
    silent = [view.name for view in status.views if not view.alive]
    head = f'{len(status.views) - len(silent)} of {len(status.views) + len(status.missing)} nodes report'
    head += f', {len(silent)} silent: {", ".join(silent)}' if silent else ''
    head += f', missing: {", ".join(status.missing)}' if status.missing else ''
    blocks: list[list[tuple[_Cell, ...]]] = [[(_Cell(status.level.name, status.level), _Cell(head))]]
    for title, rows in (
            (('NODE', 'LIFECYCLE', 'REPORT s', 'LEVEL', 'MODEL'), _nodes(status)),
            (('CAMERA', 'NODE', 'LEVEL', 'STATE', 'IN Hz', 'OUT Hz', 'AGE ms', 'p50 ms', 'p95 ms', 'DROPPED'),
             _of(status, CAMERA, _camera)),
            (('HYBRID', 'NODE', 'LEVEL', 'STATE', 'OUT Hz', 'SENT', 'TEACHER', 'CARRIED', 'p95 ms', 'LATE',
              'BREAKER'),
             _of(status, FALLBACK, _hybrid))):
        if rows:
            blocks.append([tuple(_Cell(text) for text in title), *rows])
    remarks = _remarks(status)
    if remarks:
        blocks.append(remarks)
    return '\n'.join(''.join(_lines(block, colour, width)) for block in blocks)


def _nodes(status: GraphStatus) -> list[tuple[_Cell, ...]]:
    rows: list[tuple[_Cell, ...]] = []
    for view in status.views:
        models = [' '.join(filter(None, map(dict(report.values).get, ('name', 'version', 'provider'))))
                  for report in view.reports if report.name == MODEL]
        rows.append((_Cell(view.name), _Cell(view.lifecycle or _NONE), _Cell(f'{view.age_ns / 1e9:.1f}'),
                     _Cell(view.level.name, view.level), _Cell(', '.join(filter(None, models)) or _NONE)))
    for name in status.missing:
        rows.append((_Cell(name), _Cell(_NONE), _Cell('never'), _Cell('STALE', Level.STALE), _Cell(_NONE)))
    return rows


def _of(status: GraphStatus, source: str, row: Any) -> list[tuple[_Cell, ...]]:
    """Return a row for each camera of one kind of node, those of one camera together."""
    found = []
    for view in status.views:
        for report in view.reports:
            values = dict(report.values)
            of, camera = source_of(report.name, values)
            if of == source:
                # What a silent node measured is no figure of now.
                texts = row(values if view.alive else {}, view)
                found.append((_Cell(camera), _Cell(view.name), _Cell(report.level.name, report.level),
                              *map(_Cell, texts)))
    return sorted(found, key=lambda cells: (cells[0].text, cells[1].text))


def _camera(values: Mapping[str, str], view: NodeView) -> Sequence[str]:
    drops = [f'{key.partition(".")[2]} {text}' for key, text in values.items() if key.startswith('dropped.')]
    dropped = values.get('dropped', _NONE) + (f' ({", ".join(drops)})' if drops else '')
    return (*(values.get(key, _NONE) for key in (
        'state', 'rate_hz', 'processed_rate_hz', 'image_age_ms', 'total.p50_ms', 'total.p95_ms')), dropped)


def _hybrid(values: Mapping[str, str], view: NodeView) -> Sequence[str]:
    breaker = [dict(report.values).get('breaker', _NONE) for report in view.reports if report.name == TEACHER]
    return (values.get('state', _NONE), values.get('output_rate_hz', _NONE),
            _share(values.get('gate.sent', ''), values.get('gate.frames', '')),
            _share(values.get('teacher_share', ''), '1'), _share(values.get('carried_share', ''), '1'),
            values.get('waited.p95_ms', _NONE),
            values.get('arbiter.deadlines_missed', _NONE), breaker[0] if breaker and values else _NONE)


def _share(part: str, whole: str) -> str:
    try:
        return f'{float(part) / float(whole):.1%}'
    except (ValueError, ZeroDivisionError):
        return _NONE


def _remarks(status: GraphStatus) -> list[tuple[_Cell, ...]]:
    """Return what is not OK, the worst first, and components that no table shows."""
    told: list[tuple[Level, str, Report]] = []
    for view in status.views:
        for report in view.reports:
            shown = source_of(report.name, dict(report.values))[0] in (CAMERA, FALLBACK, MODEL)
            if report.level > Level.OK or not shown:
                told.append((report.level, view.name, report))
    told.sort(key=lambda item: (-item[0], item[1], item[2].name))
    rows: list[tuple[_Cell, ...]] = [
        (_Cell(level.name, level), _Cell(f'{name}: {report.name}' if report.name else name),
         _Cell(report.message)) for level, name, report in told]
    unheard = 'publishes on /diagnostics, and nothing was heard of it'
    return rows + [(_Cell('note'), _Cell(name), _Cell(unheard)) for name in status.unheard]


def _lines(rows: Sequence[Sequence[_Cell]], colour: bool, width: int) -> list[str]:
    """Return aligned lines."""
    columns = max(len(row) for row in rows)
    widths = [max((len(row[i].text) for row in rows if len(row) > i + 1), default=0)
              for i in range(columns)]
    lines = []
    for row in rows:
        left, parts = width or 10**9, []
        for i, cell in enumerate(row):
            text = cell.text if i == len(row) - 1 else cell.text.ljust(widths[i])
            text = text[:left]
            left -= len(text) + 2
            colour_code = _COLOURS[cell.level] if colour and cell.level is not None else ''
            parts.append(f'\x1b[{colour_code}m{text}\x1b[0m' if colour_code and text else text)
            if left <= 0:
                break
        lines.append('  '.join(parts).rstrip() + '\n')
    return lines
