# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The circuit breaker before the teacher.

A teacher that does not answer in time costs every ambiguous frame its whole deadline. After a few misses
the breaker opens: nothing is asked but a probe now and then, whose answer nobody waits for, until the
teacher has answered several probes in time (Nygard, Release It!, 2007; half-open: a probe is under way).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
import dataclasses
import enum

from kd_perception.fallback.steady import SteadyTime

MS = 1_000_000
LATE_ANSWERS = 'teacher answers too late'
UNUSABLE_ANSWERS = 'answers of the teacher cannot be used'


class BreakerState(enum.Enum):
    """Whether the teacher may be asked."""

    CLOSED = 'closed'           # asked as the gate decides
    OPEN = 'open'               # not asked
    HALF_OPEN = 'half_open'     # a probe is under way, or some were answered but not yet enough


@dataclasses.dataclass(frozen=True)
class BreakerSettings:
    """
    When the breaker opens and closes.

    :param silence_ns: open when nothing at all was answered since a request of that age was sent ...
    :param silent_requests: ... and at least so many were sent: one lost message is no outage.
    :param window: open as well when, of so many last requests, ...
    :param misses: ... this many had no good answer in time: catches a teacher that answers, but late.
    :param probe_deadline_ns: a probe must be answered within this time.
    :param probe_interval_ns: time from the opening to the first probe, and from one probe to the next;
        doubled after each failed probe up to `probe_interval_max_ns`.
    :param successes: close after so many answered probes in a row.
    """

    silence_ns: int = 2000 * MS
    silent_requests: int = 2
    window: int = 10
    misses: int = 5
    probe_deadline_ns: int = 150 * MS
    probe_interval_ns: int = 500 * MS
    probe_interval_max_ns: int = 5000 * MS
    successes: int = 2

    def __post_init__(self):
        """Check ranges."""
        if not 1 <= self.misses <= self.window <= 1000:
            raise ValueError('expected 1 <= misses <= window <= 1000')
        if min(self.silence_ns, self.probe_deadline_ns, self.probe_interval_ns) <= 0:
            raise ValueError('times must be positive')
        if self.probe_interval_max_ns < self.probe_interval_ns:
            raise ValueError('probe_interval_max_ns must not be below probe_interval_ns')
        if not 1 <= self.successes <= 100 or not 1 <= self.silent_requests <= 100:
            raise ValueError('successes and silent_requests must be in 1..100')


class TeacherBreaker:
    """
    Follows one teacher's requests and answers; may be shared by all cameras of that teacher. Not thread-safe.

    Each request is reported as `sent` and later as `answered` or `missed`; an answer after the miss is
    reported as `late`. Memory does not grow with requests: only the probe under way is remembered.

    All times are readings of one steady clock (ns); a step backwards counts as no time.
    """

    def __init__(self, settings: BreakerSettings = BreakerSettings()):
        """Start closed: the teacher is believed until it fails."""
        self.settings = settings
        self._time = SteadyTime()
        self._outcomes: deque[bool] = deque(maxlen=settings.window)     # True: missed
        self._open = False
        self._reason = ''
        self._unanswered = 0            # requests since the last sign of life
        self._unanswered_since_ns = 0   # when the first of them was sent
        self._probe: tuple[Hashable, int] | None = None                 # ticket, sent
        self._next_probe_ns = 0
        self._interval_ns = settings.probe_interval_ns
        self._successes = 0
        self._counts = dict.fromkeys(
            ('requests', 'answered', 'missed', 'late', 'probes', 'probes_failed', 'opened', 'closed'), 0)

    @property
    def state(self) -> BreakerState:
        """The state as of the last call."""
        if not self._open:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probe or self._successes else BreakerState.OPEN

    @property
    def reason(self) -> str:
        """Why the breaker is open, for the operator; empty while closed."""
        return self._reason

    @property
    def alive(self) -> bool:
        """Whether the teacher answers, be it too late."""
        return not self._open or self._reason == LATE_ANSWERS

    @property
    def counts(self) -> Mapping[str, int]:
        """Totals since the start."""
        return dict(self._counts)

    def configure(self, settings: BreakerSettings) -> None:
        """Change the settings while requests flow."""
        self.settings = settings
        self._outcomes = deque(self._outcomes, maxlen=settings.window)
        self._interval_ns = settings.probe_interval_ns

    def available(self, now_ns: int) -> bool:
        """Return whether the teacher may be asked, other than by a probe."""
        self.tick(now_ns)
        return not self._open

    def probe_due(self, now_ns: int) -> bool:
        """Return whether the next frame may be sent as a probe; at most one is under way."""
        self.tick(now_ns)
        return self._open and self._probe is None and self._time.advance(now_ns) >= self._next_probe_ns

    def sent(self, ticket: Hashable, now_ns: int, probe: bool = False) -> None:
        """Report a request, under a ticket of the caller's that is unique among those under way."""
        elapsed_ns = self._time.advance(now_ns)
        self._counts['requests'] += 1
        if not self._unanswered:
            self._unanswered_since_ns = elapsed_ns
        self._unanswered += 1
        if probe:
            self._counts['probes'] += 1
            self._probe = (ticket, elapsed_ns)

    def answered(self) -> None:
        """Report an answer that came before its request's deadline."""
        self._life_sign()
        self._counts['answered'] += 1
        if not self._open:
            self._outcomes.append(False)

    def probe_answered(self, ticket: Hashable, now_ns: int) -> None:
        """Report a usable answer to a probe, in time or not."""
        elapsed_ns = self._time.advance(now_ns)
        self._tick(elapsed_ns)      # fails a probe that is past its deadline, whoever notices first
        if self._probe is None or self._probe[0] != ticket:
            self.late()
            return
        self._life_sign()
        self._probe = None
        self._counts['answered'] += 1
        self._interval_ns = self.settings.probe_interval_ns
        self._next_probe_ns = elapsed_ns + self._interval_ns
        self._successes += 1
        if self._successes >= self.settings.successes:
            self._close()

    def late(self) -> None:
        """Report a late answer: the teacher lives, which is not enough."""
        self._counts['late'] += 1
        self._life_sign()
        if self._open:
            # It works, only too slowly: it is asked again as soon as it is free, at the pace that it bears.
            self._reason = LATE_ANSWERS
            self._next_probe_ns, self._interval_ns = 0, self.settings.probe_interval_ns

    def missed(self, ticket: Hashable, now_ns: int, unusable: bool = False) -> None:
        """
        Report a request without a good answer.

        :param unusable: there was an answer, but not one to be used; else its deadline passed.
        """
        elapsed_ns = self._time.advance(now_ns)
        if unusable:
            self._life_sign()
            self._reason = UNUSABLE_ANSWERS if self._open else ''
        if self._probe and self._probe[0] == ticket:
            self._fail_probe(elapsed_ns)
            return
        self._counts['missed'] += 1
        if not self._open:
            self._outcomes.append(True)
            missed = sum(self._outcomes)
            if missed >= self.settings.misses:
                self._trip(elapsed_ns,
                           f'{missed} of the last {len(self._outcomes)} requests had no good answer in time')

    def tick(self, now_ns: int) -> None:
        """Let time pass: silence opens, a probe runs out of time."""
        self._tick(self._time.advance(now_ns))

    def _tick(self, elapsed_ns: int) -> None:
        if self._probe and elapsed_ns - self._probe[1] >= self.settings.probe_deadline_ns:
            self._fail_probe(elapsed_ns)
        silent_ns = elapsed_ns - self._unanswered_since_ns
        if self._unanswered >= self.settings.silent_requests and silent_ns >= self.settings.silence_ns:
            reason = f'teacher silent for {silent_ns / 1e9:.1f} s'
            if self._open:
                self._reason = reason
            else:
                self._trip(elapsed_ns, reason)

    def _life_sign(self) -> None:
        self._unanswered = 0

    def _trip(self, elapsed_ns: int, reason: str) -> None:
        self._open = True
        self._reason = reason
        self._successes = 0
        self._interval_ns = self.settings.probe_interval_ns
        self._next_probe_ns = elapsed_ns + self._interval_ns
        self._counts['opened'] += 1

    def _fail_probe(self, elapsed_ns: int) -> None:
        self._probe = None
        self._successes = 0
        self._counts['probes_failed'] += 1
        self._interval_ns = min(2 * self._interval_ns, self.settings.probe_interval_max_ns)
        self._next_probe_ns = elapsed_ns + self._interval_ns

    def _close(self) -> None:
        self._open = False
        self._reason = ''
        self._successes = 0
        self._outcomes.clear()
        self._counts['closed'] += 1
