# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What was heard on /diagnostics: the newest report of each component of each node, and who has gone silent.

Anybody may publish there, so nothing that is heard is trusted: names and texts are bounded, and so is the
number of nodes, components and values that are remembered. What is refused is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from fnmatch import fnmatchcase
import threading
from typing import NamedTuple

from kd_perception.levels import Level, Report

MAX_NODES = 64
MAX_COMPONENTS = 64         # of a node
MAX_VALUES = 256            # of a component; a camera of this package has about 80
MAX_NAME_CHARS = 256
MAX_KEY_CHARS = 128
MAX_TEXT_CHARS = 4096       # as a parameter, such as the path of a model
MAX_MESSAGE_CHARS = 500
BAD_NAME, BAD_LEVEL, BAD_VALUE = 'bad_name', 'bad_level', 'bad_value'
TOO_MANY_VALUES, TOO_MANY_COMPONENTS, TOO_MANY_NODES = (
    'too_many_values', 'too_many_components', 'too_many_nodes')


class RawStatus(NamedTuple):
    """A diagnostic_msgs/DiagnosticStatus as it came; `level` is a number, `values` are pairs of text."""

    name: str
    level: int
    message: str = ''
    hardware_id: str = ''
    values: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class NodeView:
    """
    What is known of a node now.

    :param name: fully qualified, such as `/robot/fallback`.
    :param age_ns: since its last report.
    :param alive: False: it has been silent for too long; its reports are then STALE and say so.
    :param reports: of its components, in alphabetical order.
    """

    name: str
    age_ns: int
    alive: bool
    reports: tuple[Report, ...]

    @property
    def level(self) -> Level:
        """The worst level of its components."""
        return max((report.level for report in self.reports), default=Level.OK)

    @property
    def lifecycle(self) -> str:
        """The lifecycle state that its reports tell; empty where they tell none, or are too old to tell."""
        states = [value for report in self.reports for key, value in report.values if key == 'lifecycle']
        return states[0] if states and self.alive else ''


@dataclasses.dataclass
class _Node:
    heard_ns: int
    reports: dict[str, tuple[Report, int]] = dataclasses.field(default_factory=dict)


def split_name(name: str) -> tuple[str, str]:
    """
    Return (fully qualified node, component) of a status named `<node>: <component>`.

    Who does not follow diagnostic_updater's form is a node of that name with an unnamed component.
    """
    node, _, component = name.partition(': ')
    return '/' + node.strip().lstrip('/'), component.strip()


class DiagnosticsBoard:
    """
    The newest reports. Thread-safe.

    :param stale_ns: a node that is silent for longer counts as gone, and a component that its node does not
        mention for as long is forgotten. :param forget_ns: a node that is gone is forgotten after this time.
    :param nodes: patterns (`*`, `?`) of the nodes to listen to; others are passed over without a count.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, clock: Callable[[], int], stale_ns: int, forget_ns: int,
                 nodes: Sequence[str] = ('*',)):
        """Start with nothing heard."""
        self._clock = clock
        self._lock = threading.RLock()
        self.stale_ns, self.forget_ns, self._patterns = stale_ns, forget_ns, tuple(nodes)
        self._nodes: dict[str, _Node] = {}
        self._refused: Counter[str] = Counter()
        self._messages = 0

    def hear(self, statuses: Iterable[RawStatus]) -> list[tuple[str, Report]]:
        """Take the statuses of one message; return (node, report) of each that was accepted."""
        now_ns = self._clock()
        with self._lock:
            self._messages += 1
            return [heard for status in statuses if (heard := self._take(status, now_ns))]

    def refuse(self, reason: str) -> None:
        """Count a message, status or value that could not be used; `reason` is of a small fixed set."""
        with self._lock:
            self._refused[reason] += 1

    @property
    def refused(self) -> Mapping[str, int]:
        """Counts since the start, by reason in alphabetical order."""
        with self._lock:
            return dict(sorted(self._refused.items()))

    @property
    def messages(self) -> int:
        """Messages heard since the start."""
        with self._lock:
            return self._messages

    def views(self) -> tuple[NodeView, ...]:
        """Return what is known of each node, in alphabetical order."""
        now_ns = self._clock()
        with self._lock:
            self._forget(now_ns)
            return tuple(self._view(name, node, now_ns) for name, node in sorted(self._nodes.items()))

    def _take(self, status: RawStatus, now_ns: int) -> tuple[str, Report] | None:
        name, component = split_name(status.name)
        if name == '/' or len(status.name) > MAX_NAME_CHARS or not status.name.isprintable():
            return self._no(BAD_NAME)
        if not any(fnmatchcase(name, pattern) for pattern in self._patterns):
            return None
        if status.level not in tuple(Level):
            return self._no(BAD_LEVEL)
        node = self._nodes.get(name)
        if node is None:
            self._forget(now_ns)
            if len(self._nodes) >= MAX_NODES and not self._make_room(now_ns):
                return self._no(TOO_MANY_NODES)
            node = self._nodes[name] = _Node(now_ns)
        if component not in node.reports and len(node.reports) >= MAX_COMPONENTS:
            self._forget(now_ns)
            if len(node.reports) >= MAX_COMPONENTS:
                return self._no(TOO_MANY_COMPONENTS)
        report = Report(component, Level(status.level), _one_line(status.message, MAX_MESSAGE_CHARS),
                        _one_line(status.hardware_id, MAX_NAME_CHARS), self._values(status.values))
        node.heard_ns = now_ns
        node.reports[component] = (report, now_ns)
        return name, report

    def _no(self, reason: str) -> tuple[str, Report] | None:
        self._refused[reason] += 1
        return None

    def _values(self, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        values: dict[str, str] = {}
        for key, text in pairs[:MAX_VALUES]:
            if not key or len(key) > MAX_KEY_CHARS or not key.isprintable() or len(text) > MAX_TEXT_CHARS \
                    or key in values:
                self._refused[BAD_VALUE] += 1
            else:
                values[key] = _one_line(text, MAX_TEXT_CHARS)
        if len(pairs) > MAX_VALUES:
            self._refused[TOO_MANY_VALUES] += 1
        return tuple(values.items())

    def _make_room(self, now_ns: int) -> bool:
        """Forget the node that is silent for longest, if it counts as gone."""
        name, node = min(self._nodes.items(), key=lambda item: item[1].heard_ns)
        if now_ns - node.heard_ns <= self.stale_ns:
            return False
        del self._nodes[name]
        return True

    def _forget(self, now_ns: int) -> None:
        for name in [n for n, node in self._nodes.items() if now_ns - node.heard_ns > self.forget_ns]:
            del self._nodes[name]
        for node in self._nodes.values():
            # Of a silent node all stay: they say what it was.
            for component, (_, at_ns) in list(node.reports.items()):
                if node.heard_ns - at_ns > self.stale_ns:
                    del node.reports[component]

    def _view(self, name: str, node: _Node, now_ns: int) -> NodeView:
        age_ns = max(0, now_ns - node.heard_ns)
        alive = age_ns <= self.stale_ns
        reports = [report for _, (report, _) in sorted(node.reports.items())]
        if not alive:
            said = f'no report for {age_ns / 1e9:.1f} s'
            reports = [dataclasses.replace(
                report, level=Level.STALE, message=f'{said}; the last one: {report.message}')
                for report in reports]
        return NodeView(name, age_ns, alive, tuple(reports))


def _one_line(text: str, limit: int) -> str:
    """Return printable text of bounded length on one line: it may be shown in a terminal."""
    text = ' '.join(text[:2 * limit].split())[:limit]
    return text if text.isprintable() else ''.join(c if c.isprintable() else '?' for c in text)
