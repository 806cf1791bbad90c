# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What an operator must know about the model: which one runs, where from, or why none does."""

from collections.abc import Callable, Sequence
import threading

from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.health.windows import RateWindow
from kd_perception.levels import Finding, HeldLevel, Level, Report, summarise, Sustained
from kd_perception.processes.cores import thread_count

SECOND_NS = 1_000_000_000
SPAN_NS = 5 * SECOND_NS     # inference errors count this far back
SUSTAIN_NS = 3 * SECOND_NS  # nothing but errors for this long is an ERROR
HOLD_NS = 3 * SECOND_NS


def model_facts(detector: OnnxDetector, execution: ExecutionOptions) -> tuple[tuple[str, str], ...]:
    """Return what identifies a loaded model and how it runs, as key and value pairs."""
    spec = detector.spec
    return (
        ('name', spec.name), ('version', spec.version), ('path', str(detector.path)),
        ('sha256', detector.sha256), ('provider', detector.provider),
        ('threads', str(thread_count(execution.threads))),
        ('allow_spinning', str(execution.allow_spinning).lower()), ('labels', ', '.join(spec.labels)),
        ('input', f'{spec.input.width}x{spec.input.height}'))


class ModelMonitor:
    """
    Reports the loaded model, the reason why none could be loaded, and inference errors. Thread-safe.

    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]):
        self._clock = clock
        self._lock = threading.Lock()
        self._facts: tuple[tuple[str, str], ...] = ()
        self._hardware_id = ''
        self._loaded = False
        self._failure: str | None = None
        self._last_error = ''
        self._total_errors = 0
        self._errors = RateWindow(SPAN_NS)
        self._passes = RateWindow(SPAN_NS)
        self._failing = Sustained(SUSTAIN_NS)
        self._held = HeldLevel(HOLD_NS)

    def loaded(self, facts: Sequence[tuple[str, str]], hardware_id: str) -> None:
        """Say that a model is ready; `facts` are shown as they are (name, sha256, provider, ...)."""
        with self._lock:
            self._loaded, self._failure = True, None
            self._facts, self._hardware_id = tuple(facts), hardware_id
            self._errors.clear()
            self._passes.clear()
            self._held.reset()

    def failed(self, reason: str, facts: Sequence[tuple[str, str]] = ()) -> None:
        """Say that the model could not be loaded, and why, in one line."""
        with self._lock:
            self._loaded, self._failure = False, reason
            self._facts, self._hardware_id = tuple(facts), ''

    def unloaded(self) -> None:
        """Say that the model was given up on purpose."""
        with self._lock:
            self._loaded, self._failure = False, None
            self._facts, self._hardware_id = (), ''

    def inference_passed(self) -> None:
        """Count an inference that gave a result."""
        with self._lock:
            self._passes.add(self._clock())

    def inference_failed(self, reason: str) -> None:
        """Count an inference that raised."""
        with self._lock:
            self._errors.add(self._clock())
            self._total_errors += 1
            self._last_error = reason

    def report(self) -> Report:
        """Return the model's health now."""
        now_ns = self._clock()
        with self._lock:
            values = self._facts + (('inference_errors', str(self._total_errors)),)
            if self._last_error:
                values += (('last_inference_error', self._last_error),)
            if self._failure is not None:
                return Report('model', Level.ERROR, self._failure, self._hardware_id, values)
            if not self._loaded:
                return Report('model', Level.OK, 'no model loaded', self._hardware_id, values)
            errors, passes = self._errors.count(now_ns), self._passes.count(now_ns)
            sustained = self._failing.update(now_ns, errors > 0 and passes == 0)
            findings = []
            if errors:
                findings.append(Finding(
                    Level.ERROR if sustained else Level.WARN,
                    f'{errors} inference errors in the last {SPAN_NS // SECOND_NS} s: {self._last_error}'))
            level, message = summarise(findings, all_well='model ready')
            held = self._held.update(now_ns, Finding(level, message))
            return Report('model', held.level, held.message, self._hardware_id, values)
