# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How the current version of a role came to be: its promotions, rollbacks and prunings in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Literal

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Event:
    """
    One change of a role.

    :param at: UTC, ISO 8601. :param before: the version that was current; None: there was none.
    :param sha256, name: of the version's model.
    """

    at: str
    action: Literal['promote', 'rollback', 'prune']
    version: int
    sha256: str
    name: str = ''
    before: int | None = None


@dataclasses.dataclass(frozen=True)
class RoleHistory:
    """
    The events of a role, oldest first, and the version that they make current.

    :param current: stands in the file for whoever reads it; it must be what the events say.
    """

    events: tuple[Event, ...] = ()
    current: int | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        """Check that the two agree."""
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f'format_version is {self.format_version}, this package reads {FORMAT_VERSION}')
        if self.current != _current(self.events):
            raise ValueError(f'current is {self.current}, the events lead to {_current(self.events)}')

    @property
    def line(self) -> tuple[int, ...]:
        """
        Return the versions that lead to the current one: each is what a rollback from the next goes back to.

        What was rolled back from is not among them, so that a later rollback does not return to it.
        """
        return _line(self.events)

    @property
    def pruned(self) -> frozenset[int]:
        """Versions that were removed."""
        return frozenset(event.version for event in self.events if event.action == 'prune')

    def with_event(self, event: Event) -> RoleHistory:
        """Return the history with one more event."""
        events = (*self.events, event)
        return RoleHistory(events, _current(events))


def _line(events: Sequence[Event]) -> tuple[int, ...]:
    line: list[int] = []
    for event in events:
        if event.action == 'prune':
            line = [version for version in line if version != event.version]
        elif event.version in line:
            del line[line.index(event.version) + 1:]
        else:
            line.append(event.version)
    return tuple(line)


def _current(events: Sequence[Event]) -> int | None:
    return next(reversed(_line(events)), None)


def history_lines(role: str, history: RoleHistory) -> Iterator[str]:
    """Yield the history of a role as lines for people; a star marks what made the current version so."""
    if not history.events:
        yield f'{role}: nothing was promoted yet'
        return
    yield (f'{role}: version {history.current} is current; a rollback goes to '
           f'{history.line[-2] if len(history.line) > 1 else "none"}')
    since = max((number for number, event in enumerate(history.events) if event.version == history.current),
                default=None)
    for number, event in enumerate(history.events):
        before = '' if event.before is None else f' (before: {event.before})'
        yield (f'{"*" if number == since else " "} {event.at}  {event.action:<9}{event.version:>4}  '
               f'{event.sha256[:12]}  {event.name}{before}')
