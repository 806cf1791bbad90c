# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What an operator must know about one camera: is it alive, how fast, how late, what is lost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import threading

from kd_perception.health.windows import RateWindow, ReasonCounter, SampleWindow
from kd_perception.levels import Finding, HeldLevel, Level, Report, summarise, Sustained

# A newer frame replaced one that waited, detection was switched off, or the node was being deactivated:
# a frame lost on purpose says nothing against the camera.
SUPERSEDED = 'superseded'
DISABLED = 'disabled'
DEACTIVATED = 'deactivated'
INTENDED_DROPS = frozenset({SUPERSEDED, DISABLED, DEACTIVATED})

SECOND_NS = 1_000_000_000
RATE_SPAN_NS = 5 * SECOND_NS        # rates, drops and the levels look this far back
LATENCY_SPAN_NS = 30 * SECOND_NS    # percentiles are shown over a longer span: 300 frames at 10 Hz
HOLD_NS = 3 * SECOND_NS             # a level falls only after this long without its cause
RATE_WARN, RATE_ERROR = 0.8, 0.5    # shares of the expected rate


@dataclass(frozen=True)
class CameraLimits:
    """
    Limits of a healthy camera; 0 switches a limit off (not the silences).

    :param silence_warn_ns, silence_error_ns: time without an image until WARN and ERROR.
    :param latency_budget_ns: arrival to published result, 95th percentile; WARN above, ERROR when sustained.
    :param max_age_ns: image stamp to arrival; WARN above.
    :param expected_rate_hz: WARN below 80 %, ERROR below 50 % of it.
    :param sustain_ns: how long a condition must last before WARN becomes ERROR.
    """

    silence_warn_ns: int = 1 * SECOND_NS
    silence_error_ns: int = 5 * SECOND_NS
    latency_budget_ns: int = 0
    max_age_ns: int = 1 * SECOND_NS
    expected_rate_hz: float = 0.0
    sustain_ns: int = 5 * SECOND_NS

    def __post_init__(self):
        if not 0 < self.silence_warn_ns <= self.silence_error_ns:
            raise ValueError('silences must be positive, and the one for WARN not above the one for ERROR')
        if min(self.latency_budget_ns, self.max_age_ns, self.sustain_ns) < 0 or self.expected_rate_hz < 0:
            raise ValueError('limits must not be negative')


@dataclass
class _Counts:
    received: int = 0
    processed: int = 0
    detections: int = 0
    stages: dict = field(default_factory=dict)      # stage -> SampleWindow


class CameraMonitor:
    """
    Collects what happens to one camera's frames; reports it as one diagnostic. Thread-safe.

    :param name: the camera's name, :param hardware_id: its resolved namespace.
    :param clock: steady clock, nanoseconds; it alone drives the levels, so that a ROS clock which jumps
        or loops cannot raise one.
    """

    def __init__(self, name: str, hardware_id: str, limits: CameraLimits, clock: Callable[[], int]):
        self.name = name
        self.hardware_id = hardware_id
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = _Counts()
        self._drops = ReasonCounter(RATE_SPAN_NS)
        self._active = False
        self._enabled = True
        self._reset_windows()

    def _reset_windows(self) -> None:
        self._since_ns = self._clock()
        self._received_ns: int | None = None
        self._unanswered_since_ns: int | None = None
        self._age_ns: int | None = None
        self._received_rate = RateWindow(RATE_SPAN_NS)
        self._processed_rate = RateWindow(RATE_SPAN_NS)
        self._recent_total = SampleWindow(RATE_SPAN_NS)
        self._drops.clear_recent()
        self._counts.stages.clear()
        self._late = Sustained(self._limits.sustain_ns)
        self._refused = Sustained(self._limits.sustain_ns)
        self._held = HeldLevel(HOLD_NS)

    def set_limits(self, limits: CameraLimits) -> None:
        """Replace the limits; what was measured stays."""
        with self._lock:
            self._limits = limits
            self._late.after_ns = self._refused.after_ns = limits.sustain_ns

    def set_active(self, active: bool) -> None:
        """Say that frames are (not) expected; silence counts from now. Totals stay, windows start anew."""
        with self._lock:
            self._active = active
            self._reset_windows()

    def set_enabled(self, enabled: bool) -> None:
        """Say that detection is switched on or off by the operator."""
        with self._lock:
            self._enabled = enabled

    def received(self, age_ns: int | None) -> None:
        """
        Count an image that arrived.

        :param age_ns: node clock minus stamp at arrival, clamped to 0 (a bag looped); None: not stamped.
        """
        now_ns = self._clock()
        with self._lock:
            self._counts.received += 1
            self._received_rate.add(now_ns)
            self._received_ns = now_ns
            self._age_ns = None if age_ns is None else max(0, age_ns)
            if self._unanswered_since_ns is None:
                self._unanswered_since_ns = now_ns

    def dropped(self, reason: str) -> None:
        """Count a frame that gives no result; `reason` is a short stable key."""
        now_ns = self._clock()
        with self._lock:
            self._drops.add(now_ns, reason)
            if reason != SUPERSEDED:
                self._unanswered_since_ns = None

    def totals(self) -> tuple[int, int]:
        """Return how many frames were processed and how many dropped so far."""
        with self._lock:
            return self._counts.processed, sum(self._drops.totals().values())

    def processed(self, stages_ns: Mapping[str, int], detections: int) -> None:
        """
        Count a published result.

        :param stages_ns: duration by stage; `total` (arrival to published) is compared with the budget.
        """
        now_ns = self._clock()
        with self._lock:
            self._counts.processed += 1
            self._counts.detections += detections
            self._processed_rate.add(now_ns)
            self._unanswered_since_ns = None
            for stage, duration_ns in stages_ns.items():
                if stage not in self._counts.stages:
                    self._counts.stages[stage] = SampleWindow(LATENCY_SPAN_NS)
                self._counts.stages[stage].add(now_ns, duration_ns)
            self._recent_total.add(now_ns, stages_ns.get('total', 0))

    def report(self) -> Report:
        """Return the camera's health now; called once a second, it also advances the sustained conditions."""
        now_ns = self._clock()
        with self._lock:
            state, findings = self._findings(now_ns)
            level, message = summarise(findings, all_well=state)
            if self._active:
                held = self._held.update(now_ns, Finding(level, message))
                level, message = held.level, held.message
            return Report(
                f'camera {self.name}', level, message, self.hardware_id, self._values(now_ns, state))

    def _findings(self, now_ns: int) -> tuple[str, list[Finding]]:
        if not self._active:
            return 'inactive', []
        limits = self._limits
        findings = []
        silent_ns = max(0, now_ns - (self._since_ns if self._received_ns is None else self._received_ns))
        state = 'active' if self._received_ns is not None else 'waiting'
        if silent_ns >= limits.silence_warn_ns:
            level = Level.ERROR if silent_ns >= limits.silence_error_ns else Level.WARN
            if self._received_ns is None:
                findings.append(Finding(level, f'no image yet, waiting for {silent_ns / 1e9:.1f} s'))
            else:
                state = 'stale'
                findings.append(Finding(level, f'no image for {silent_ns / 1e9:.1f} s'))
        if not self._enabled:
            return 'disabled' if state == 'active' else state, findings
        findings += self._flow_findings(now_ns)
        if state == 'active':
            findings += self._timing_findings(now_ns)
        return state, findings

    def _flow_findings(self, now_ns: int) -> list[Finding]:
        """Frames that arrive and do not come out."""
        findings = []
        refused = {r: n for r, n in self._drops.recent(now_ns).items() if r not in INTENDED_DROPS}
        nothing_passes = bool(refused) and self._processed_rate.count(now_ns) == 0
        sustained = self._refused.update(now_ns, nothing_passes)
        if refused:
            text = ', '.join(f'{reason} {count}' for reason, count in refused.items())
            findings.append(Finding(Level.ERROR if sustained else Level.WARN,
                                    f'frames dropped in the last {RATE_SPAN_NS // SECOND_NS} s: {text}'))
        if self._unanswered_since_ns is not None:
            stuck_ns = now_ns - self._unanswered_since_ns
            if stuck_ns >= self._limits.silence_error_ns:
                findings.append(
                    Finding(Level.ERROR, f'images arrive, but no result for {stuck_ns / 1e9:.1f} s'))
        return findings

    def _timing_findings(self, now_ns: int) -> list[Finding]:
        limits = self._limits
        findings = []
        p95_ns = self._recent_total.summary(now_ns).p95_ns
        over = limits.latency_budget_ns > 0 and p95_ns > limits.latency_budget_ns
        sustained = self._late.update(now_ns, over)
        if over:
            budget_ms = limits.latency_budget_ns / 1e6
            findings.append(Finding(
                Level.ERROR if sustained else Level.WARN,
                f'latency {p95_ns / 1e6:.0f} ms (95 %) over the budget of {budget_ms:.0f} ms'))
        if limits.max_age_ns and self._age_ns is not None and self._age_ns > limits.max_age_ns:
            findings.append(
                Finding(Level.WARN, f'images arrive {self._age_ns / 1e9:.1f} s after their stamp'))
        # A rate needs some time to be one: not in the first span after the start.
        if limits.expected_rate_hz and now_ns - self._since_ns >= RATE_SPAN_NS:
            share = self._received_rate.rate_hz(now_ns) / limits.expected_rate_hz
            if share < RATE_WARN:
                findings.append(Finding(Level.ERROR if share < RATE_ERROR else Level.WARN,
                                        f'{share:.0%} of the expected {limits.expected_rate_hz:g} Hz'))
        return findings

    def _values(self, now_ns: int, state: str) -> tuple[tuple[str, str], ...]:
        counts = self._counts
        values = [
            ('state', state),
            ('rate_hz', f'{self._received_rate.rate_hz(now_ns):.2f}'),
            ('processed_rate_hz', f'{self._processed_rate.rate_hz(now_ns):.2f}'),
            ('image_age_ms', 'unknown' if self._age_ns is None else f'{self._age_ns / 1e6:.1f}'),
            ('silent_ms', 'unknown' if self._received_ns is None
             else f'{max(0, now_ns - self._received_ns) / 1e6:.0f}'),
            ('received', str(counts.received)),
            ('processed', str(counts.processed)),
            ('detections', str(counts.detections)),
            ('dropped', str(sum(self._drops.totals().values()))),
        ]
        values += [(f'dropped.{reason}', str(count)) for reason, count in self._drops.totals().items()]
        for stage, window in counts.stages.items():
            s = window.summary(now_ns)
            values += [(f'{stage}.{key}_ms', f'{value_ns / 1e6:.3f}') for key, value_ns in (
                ('p50', s.p50_ns), ('p95', s.p95_ns), ('p99', s.p99_ns), ('max', s.max_ns))]
        return tuple(values)
