# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How far the hybrid of one camera can be relied on: NOMINAL, DEGRADED or ERROR, with reasons."""

from __future__ import annotations

import dataclasses
import enum

from kd_perception.fallback.breaker import MS
from kd_perception.fallback.steady import SteadyTime
from kd_perception.levels import Finding, HeldLevel, Level, summarise


class FallbackState(enum.Enum):
    """NOMINAL: both models answer. DEGRADED: the student alone. ERROR: not even the student."""

    NOMINAL = 'NOMINAL'
    DEGRADED = 'DEGRADED'
    ERROR = 'ERROR'


_STATES = {Level.OK: FallbackState.NOMINAL, Level.WARN: FallbackState.DEGRADED,
           Level.ERROR: FallbackState.ERROR}
_LEVELS = {state: level for level, state in _STATES.items()}


@dataclasses.dataclass(frozen=True)
class StateSettings:
    """
    Limits of the state.

    :param camera_silence_ns: ERROR after so long without an image.
    :param student_silence_ns: ERROR after so long without a result of the student since an image came.
    :param hold_ns: a state improves only after so long without its cause: no flapping at the limit.
    """

    camera_silence_ns: int = 1000 * MS
    student_silence_ns: int = 1000 * MS
    hold_ns: int = 1000 * MS

    def __post_init__(self):
        """Check ranges."""
        if min(self.camera_silence_ns, self.student_silence_ns) <= 0 or self.hold_ns < 0:
            raise ValueError('silences must be positive and hold_ns not negative')


@dataclasses.dataclass(frozen=True)
class StateReport:
    """
    The state at one moment.

    :param message: the reasons in one line for the operator.
    :param for_ns: how long the state has lasted.
    :param changes: number of changes since the start.
    :param image_missing: no image comes.
    """

    state: FallbackState
    message: str
    for_ns: int
    changes: int
    image_missing: bool = False

    @property
    def level(self) -> Level:
        """The diagnostic level: OK, WARN, ERROR."""
        return _LEVELS[self.state]


class StateMonitor:
    """Follows one camera. Times are readings of one steady clock (ns); a step backwards counts as no time."""

    def __init__(self, settings: StateSettings, now_ns: int):
        """Silence counts from `now_ns`."""
        self.settings = settings
        self._time = SteadyTime()
        self._image_ns = self._since_ns = self._time.advance(now_ns)
        self._seen_image = False
        self._unanswered_since_ns: int | None = None    # the first image after the last result
        self._held = HeldLevel(settings.hold_ns)
        self._state = FallbackState.NOMINAL
        self._changes = 0

    def configure(self, settings: StateSettings) -> None:
        """Change the limits; what was seen stays."""
        self.settings = settings
        self._held.hold_ns = settings.hold_ns

    def image(self, now_ns: int) -> None:
        """Report an image of the camera."""
        self._image_ns = self._time.advance(now_ns)
        self._seen_image = True
        if self._unanswered_since_ns is None:
            self._unanswered_since_ns = self._image_ns

    def student(self, now_ns: int) -> None:
        """Report a result of the student; it proves an image, too."""
        self._image_ns = self._time.advance(now_ns)
        self._seen_image = True
        self._unanswered_since_ns = None

    def update(self, now_ns: int, teacher_fault: str = '') -> StateReport:
        """
        Return the state now.

        :param teacher_fault: why the teacher is not asked; empty: it is.
        """
        elapsed_ns = self._time.advance(now_ns)
        findings = []
        camera_ns, since_ns = elapsed_ns - self._image_ns, self._unanswered_since_ns
        if camera_ns >= self.settings.camera_silence_ns:
            since = 'no image' if self._seen_image else 'no image yet'
            findings.append(Finding(Level.ERROR, f'{since} for {camera_ns / 1e9:.1f} s'))
        elif since_ns is not None and elapsed_ns - since_ns >= self.settings.student_silence_ns:
            silent = f'{(elapsed_ns - since_ns) / 1e9:.1f} s'
            findings.append(Finding(Level.ERROR, f'images arrive, no result of the student for {silent}'))
        if teacher_fault:
            findings.append(Finding(Level.WARN, teacher_fault))
        held = self._held.update(elapsed_ns, Finding(*summarise(findings, 'student and teacher answer')))
        state = _STATES[held.level]
        if state is not self._state:
            self._state, self._since_ns = state, elapsed_ns
            self._changes += 1
        return StateReport(state, held.message, elapsed_ns - self._since_ns, self._changes,
                           camera_ns >= self.settings.camera_silence_ns)
