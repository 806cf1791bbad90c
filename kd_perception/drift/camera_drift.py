# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a detector tells of one camera's drift: do image and answers look like the model's reference?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import threading

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.drift.monitor import Alarm, DriftSettings, DriftTests
from kd_perception.drift.quantities import detection_values, scene_values
from kd_perception.drift.reference import DriftReference
from kd_perception.errors import ModelError
from kd_perception.levels import Finding, HeldLevel, Level, Report, summarise
from kd_perception.models.spec import ModelSpec

HOLD_NS = 10_000_000_000    # a level falls only after this long without an alarm
NO_REFERENCE = 'no reference statistics'
SWITCHED_OFF = 'switched off'
AS_REFERENCE = 'like the reference'


class CameraDrift:
    """
    Compares one camera's frames with the reference in the model's file. Thread-safe.

    :param clock: steady clock, nanoseconds; for the level's hysteresis only.
    """

    def __init__(self, name: str, hardware_id: str, settings: DriftSettings, clock: Callable[[], int]):
        """Start without a model."""
        self.name, self.hardware_id = name, hardware_id
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._spec: ModelSpec | None = None
        self._tests: DriftTests | None = None
        self._problem = ''
        self._held = HeldLevel(HOLD_NS)

    def update(self, spec: ModelSpec, image_bgr: np.ndarray, detections: Detections | None) -> None:
        """
        Take a frame.

        :param spec: of the model that answered; another object than the last frame's starts anew, with that
            model's reference.
        :param image_bgr: (H, W, 3) uint8.
        :param detections: at the model's own thresholds; None: others are in force, so that its answers do
            not compare with the reference.
        """
        if not self._settings.enabled:
            return
        with self._lock:
            if spec is not self._spec:
                self._start(spec)
            if self._tests is None:
                return
            values: dict[str, float | np.ndarray] = {**scene_values(image_bgr)}
            if detections is not None:
                values.update(detection_values(
                    detections, spec.labels, image_bgr.shape[:2], spec.thresholds.score))
            self._tests.update(values)

    def reset(self) -> None:
        """Forget all frames, and the model."""
        with self._lock:
            self._spec, self._tests, self._problem = None, None, ''
            self._held.reset()

    def report(self) -> Report:
        """Return the drift now."""
        with self._lock:
            tests = self._tests
            if not self._settings.enabled:
                message = SWITCHED_OFF
            elif self._spec is None:
                message = 'no frame yet'
            else:
                message = NO_REFERENCE
            return drift_report(f'camera {self.name} drift', self.hardware_id, tests,
                                tests.alarms.values() if tests else (), self._held, self._clock(),
                                self._problem, message)

    def _start(self, spec: ModelSpec) -> None:
        self._spec, self._tests = spec, None
        reference, self._problem = read_reference(spec)
        if reference is not None and reference.select():
            self._tests = DriftTests(reference, reference.select(), self._settings)


def read_reference(spec: ModelSpec) -> tuple[DriftReference | None, str]:
    """Return a model's reference, None without; and why it cannot be used: no reason to stop detecting."""
    try:
        return DriftReference.of_model(spec, spec.name), ''
    except ModelError as error:
        return None, f'reference statistics unusable: {error}'


def drift_report(name: str, hardware_id: str, tests: DriftTests | None, alarms: Iterable[Alarm],
                 held: HeldLevel, now_ns: int, problem: str, idle: str,
                 values: tuple[tuple[str, str], ...] = ()) -> Report:
    """
    Return a report on drift tests.

    :param problem: why there are none; WARN. Empty: nothing is wrong.
    :param idle: the message where there are none, and nothing is wrong.
    :param values: behind those of the tests.
    """
    if tests is None:
        level, message = (Level.WARN, problem) if problem else (Level.OK, idle)
        return Report(name, level, message, hardware_id, values)
    alarms = list(alarms)
    window = tests.settings.window
    state = AS_REFERENCE + (f', {tests.frames} of {window} frames seen' if tests.frames < window else '')
    found = [Finding(Level.WARN, text) for text in _clauses(alarms)]
    finding = held.update(now_ns, Finding(*summarise(found, all_well=state)))
    shown = [('frames', str(min(tests.frames, window))), ('window', str(window)),
             ('alarms', str(sum(alarm.raised for alarm in alarms)))]
    for alarm in alarms:
        shown += [(alarm.name, f'{alarm.statistic:.4g}'),
                  (f'{alarm.name}.threshold', f'{alarm.threshold:.4g}')]
    return Report(name, finding.level, finding.message, hardware_id, (*shown, *values))


def _clauses(alarms: Iterable[Alarm]) -> list[str]:
    """Say `drift of luminance (ks, psi)`, a clause a quantity."""
    by_quantity: dict[str, list[str]] = {}
    for alarm in alarms:
        if alarm.active:
            quantity, _, test = alarm.name.rpartition('.')
            by_quantity.setdefault(quantity, []).append(test)
    return [f'drift of {quantity} ({", ".join(found)})' for quantity, found in by_quantity.items()]
