# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Diagnostic levels and the time logic that turns noisy conditions into steady levels.

Levels carry the numbers of diagnostic_msgs/DiagnosticStatus, so that a node converts them with `int()`.
All times are nanoseconds of one steady clock; a step backwards counts as no time at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
import enum


class Level(enum.IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Finding:
    """One observation about a component: how bad it is, and one short clause for the operator."""

    level: Level
    message: str


@dataclass(frozen=True)
class Report:
    """
    One component's health, ready to become a DiagnosticStatus.

    :param name: component, for example `camera front`; the node puts its own name before it.
    :param hardware_id: what the report is about, for example the camera's namespace.
    :param values: ordered key and value pairs, both text; keys with units end in `_ms`, `_hz`.
    """

    name: str
    level: Level
    message: str
    hardware_id: str = ''
    values: tuple[tuple[str, str], ...] = ()

    def with_values(self, *values: tuple[str, str]) -> 'Report':
        """Return the report with more values, in front."""
        return replace(self, values=values + self.values)


def summarise(findings: Iterable[Finding], all_well: str) -> tuple[Level, str]:
    """
    Return the worst level and one message, worst findings first.

    :param all_well: the message where nothing is wrong.
    """
    bad = sorted((f for f in findings if f.level > Level.OK), key=lambda f: -f.level)
    if not bad:
        return Level.OK, all_well
    return bad[0].level, '; '.join(f.message for f in bad)


class Sustained:
    """True once a condition has held without a break for `after_ns`."""

    def __init__(self, after_ns: int):
        self.after_ns = after_ns
        self._since_ns: int | None = None

    def update(self, now_ns: int, condition: bool) -> bool:
        """Take the condition as seen at `now_ns`; return whether it has held for `after_ns`."""
        if not condition:
            self._since_ns = None
            return False
        if self._since_ns is None or now_ns < self._since_ns:
            self._since_ns = now_ns
        return now_ns - self._since_ns >= self.after_ns


class HeldLevel:
    """
    A level that rises at once and falls only after `hold_ns` without anything as bad.

    Without it a camera at the edge of a limit would toggle its level every second, and an alert with it.
    """

    def __init__(self, hold_ns: int):
        self.hold_ns = hold_ns
        self._held = Finding(Level.OK, '')
        self._seen_ns = 0

    def update(self, now_ns: int, finding: Finding) -> Finding:
        """Take the finding of `now_ns`; return it, or the worse one that still holds."""
        expired = now_ns - self._seen_ns >= self.hold_ns
        if finding.level >= self._held.level or expired:
            self._held = finding
            self._seen_ns = now_ns
            return finding
        # A clock that stepped back would hold the level for the length of the step.
        self._seen_ns = min(self._seen_ns, now_ns)
        return Finding(self._held.level, f'{self._held.message} (recovering)')

    def reset(self) -> None:
        """Forget the held level, for example when the component is started anew."""
        self._held = Finding(Level.OK, '')
