# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a fallback node tells of one camera: state, who answered, how late, what was lost. Free of ROS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kd_perception.fallback.breaker import TeacherBreaker
from kd_perception.fallback.provenance import Output
from kd_perception.fallback.state import StateReport
from kd_perception.health.windows import RateWindow, ReasonCounter, SampleWindow
from kd_perception.levels import Level, Report
from kd_perception.recording.recorder import HardFrameRecorder

SPAN_NS = 10_000_000_000


class FallbackMonitor:
    """
    Counts of one camera. Not thread-safe.

    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, name: str, hardware_id: str, clock: Callable[[], int]):
        """Start with nothing seen."""
        self.name, self.hardware_id = name, hardware_id
        self._clock = clock
        self._images, self._students = RateWindow(SPAN_NS), RateWindow(SPAN_NS)
        self._outputs, self._from_teacher = RateWindow(SPAN_NS), RateWindow(SPAN_NS)
        self._carried = RateWindow(SPAN_NS)
        self._waited, self._teacher = SampleWindow(SPAN_NS), SampleWindow(SPAN_NS)
        self._drops = ReasonCounter(SPAN_NS)

    def image(self) -> None:
        """Count an image."""
        self._images.add(self._clock())

    def student(self) -> None:
        """Count a result of the student."""
        self._students.add(self._clock())

    def output(self, output: Output) -> None:
        """Count a verified message."""
        now_ns, provenance = self._clock(), output.provenance
        self._outputs.add(now_ns)
        self._waited.add(now_ns, provenance.waited_ns)
        if provenance.source.value in ('teacher', 'merged'):
            self._from_teacher.add(now_ns)
        if provenance.carried:
            self._carried.add(now_ns)
        if provenance.teacher_ns is not None:
            self._teacher.add(now_ns, provenance.teacher_ns)

    def dropped(self, reason: str) -> None:
        """Count something that arrived and could not be used."""
        self._drops.add(self._clock(), reason)

    def report(self, state: StateReport | None, counts: Mapping[str, int], lateness_ns: int) -> Report:
        """
        Return the camera's report.

        :param state: None while the node is not active. :param counts: totals of the fallback.
        :param lateness_ns: the worst since the start.
        """
        now_ns = self._clock()
        name = f'camera {self.name}'
        outputs = self._outputs.count(now_ns)
        shares = (('teacher_share', self._from_teacher), ('carried_share', self._carried))
        values = [] if state is None else [
            ('state', state.state.value), ('state_s', f'{state.for_ns / 1e9:.1f}'),
            ('state_changes', str(state.changes))]
        values += [
            ('image_rate_hz', f'{self._images.rate_hz(now_ns):.2f}'),
            ('student_rate_hz', f'{self._students.rate_hz(now_ns):.2f}'),
            ('output_rate_hz', f'{self._outputs.rate_hz(now_ns):.2f}'),
            *((key, f'{window.count(now_ns) / outputs:.3f}' if outputs else 'unknown')
              for key, window in shares)]
        for key, window in (('waited', self._waited), ('teacher', self._teacher)):
            s = window.summary(now_ns)
            values += [(f'{key}.{part}_ms', f'{value / 1e6:.3f}') for part, value in (
                ('p50', s.p50_ns), ('p95', s.p95_ns), ('p99', s.p99_ns), ('max', s.max_ns))]
        values.append(('worst_lateness_ms', f'{lateness_ns / 1e6:.3f}'))
        values += [(f'dropped.{reason}', str(count)) for reason, count in self._drops.totals().items()]
        values += [(key, str(count)) for key, count in sorted(counts.items())]
        level, message = (Level.OK, 'inactive') if state is None else (state.level, state.message)
        if state is not None:
            message = f'{state.state.value}: {message}'
            recent = self._drops.recent(now_ns)
            if recent:
                lost = ', '.join(f'{reason} {count}' for reason, count in recent.items())
                level = max(level, Level.WARN)
                message += f'; unusable input in the last {SPAN_NS // 10**9} s: {lost}'
        return Report(name, level, message, self.hardware_id, tuple(values))


def teacher_report(breaker: TeacherBreaker, facts: Sequence[tuple[str, str]], fault: str, active: bool,
                   wanted: bool, now_ns: int) -> Report:
    """
    Return the report on the teacher, which all cameras share.

    :param facts: on the node's own set-up, in front of the breaker's figures.
    :param fault: why the node is not configured; empty: it is.
    :param wanted: False: there is no teacher, by design.
    """
    if active and wanted:
        breaker.tick(now_ns)    # before its figures are read: nothing else may be there to notice a silence
    values = (*facts, ('breaker', breaker.state.value),
              *((f'breaker.{key}', str(count)) for key, count in breaker.counts.items()))
    if fault:
        level, message = Level.ERROR, fault
    elif not active:
        level, message = Level.OK, 'inactive'
    elif not wanted:
        level, message = Level.WARN, 'switched off'
    else:
        level, message = Level.OK, 'answers' if breaker.counts['requests'] else 'not asked yet'
        if breaker.reason:
            level, message = Level.WARN, f'{breaker.reason}, breaker {breaker.state.value}'
    return Report('teacher', level, message, values=values)


def recorder_report(recorder: HardFrameRecorder | None) -> tuple[Report, ...]:
    """Return the report on the recorder, none where there is no recorder."""
    if recorder is None:
        return ()
    problem = recorder.problem()
    return (Report('recorder', Level.WARN if problem else Level.OK, problem or 'records', values=tuple(
        (key, str(count)) for key, count in recorder.counts().items())),)
