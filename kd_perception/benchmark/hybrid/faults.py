# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Faults of `benchmark hybrid`: a plan drawn from a seed, and what carries it out."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import random
from typing import Any

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.messages.wire import write_result

LEVELS = ('none', 'some', 'many')
TEACHER_STOP, TEACHER_KILL, STUDENT_KILL = 'teacher stopped', 'teacher killed', 'student killed'
CAMERA_PAUSE, CAMERA_DOUBLE, STAMPS_BACK = 'camera pauses', 'camera rate doubled', 'stamps jump back'
GARBAGE, WRONG_STAMPS = 'garbage answers', 'wrong-stamp answers'
# Kind -> (shortest, longest) duration [s]; of a kill, how long the process is gone.
DURATIONS_S = {
    TEACHER_STOP: (1.0, 5.0), TEACHER_KILL: (2.0, 2.0), STUDENT_KILL: (2.0, 2.0), CAMERA_PAUSE: (0.5, 4.0),
    CAMERA_DOUBLE: (2.0, 6.0), STAMPS_BACK: (1.0, 4.0), GARBAGE: (0.5, 3.0), WRONG_STAMPS: (1.0, 4.0)}
OF_A_PROCESS = {TEACHER_STOP: 'teacher', TEACHER_KILL: 'teacher', STUDENT_KILL: 'student'}
# Mean seconds between the begins of two faults, and the least number of them.
_PACE = {'some': (10.0, 3), 'many': (4.0, 6)}
_INTRUSION_PERIOD_S = 0.05


@dataclasses.dataclass
class Fault:
    """
    One fault.

    :param camera: None: it concerns a process. :param begin_s, end_s: since the begin of the run.
    :param amount: seconds that stamps jump back, else 0.
    :param skipped: why it was not carried out; empty: it was.
    """

    kind: str
    camera: str | None
    begin_s: float
    end_s: float
    amount: float = 0.0
    skipped: str = ''


def plan(level: str, seconds: float, cameras: Sequence[str], seed: int) -> list[Fault]:
    """
    Draw the faults of a run, in order of their begin; the same arguments give the same plan.

    Every kind comes once before any comes again. Each begins in a time slot of its own, so that the run has
    quiet stretches and pile-ups; a process gets its next fault when it has got over the last one.

    :param level: one of `LEVELS`. :param seconds: length of the run.
    """
    if level == 'none':
        return []
    pace_s, least = _PACE[level]
    number = max(least, round(seconds / pace_s))
    dice = random.Random(f'{seed}/{level}')
    deck: list[str] = []
    faults = []
    # A short run has short faults; its first and last part stay free of them.
    scale = min(1.0, seconds / 20)
    first_s, last_s = 0.1 * seconds, 0.85 * seconds
    slot_s = (last_s - first_s) / number
    for i in range(number):
        deck = deck or dice.sample(tuple(DURATIONS_S), len(DURATIONS_S))
        kind = deck.pop()
        begin_s = first_s + (i + dice.random()) * slot_s
        duration_s = scale * dice.uniform(*DURATIONS_S[kind])
        camera = dice.choice(list(cameras))
        amount = dice.uniform(0.5, 10.0)
        end_s = min(begin_s + duration_s, 0.95 * seconds)
        faults.append(Fault(kind, None if kind in OF_A_PROCESS else camera, round(begin_s, 3),
                            round(end_s, 3), round(amount, 3) if kind == STAMPS_BACK else 0.0))
    return faults


class Injector:
    """
    Carries a plan out.

    :param nodes: has `kill`, `start`, `stop_clock`, `resume` and `running`, each of a process's name.
    :param cameras: name -> has `paused`, `factor`, `offset_ns`, `last_stamp_ns`, `name`.
    :param intrude: takes (camera, serialised Detection2DArray) and publishes it as if the teacher did.
    :param labels: the teacher's class names.
    """

    def __init__(self, faults: Sequence[Fault], nodes: Any, cameras: dict[str, Any], intrude: Any,
                 labels: Sequence[str], seed: int):
        self._due = sorted(faults, key=lambda fault: fault.begin_s)
        self._active: list[Fault] = []
        self._nodes, self._cameras, self._intrude = nodes, cameras, intrude
        self._labels = labels
        self._dice = random.Random(f'{seed}/garbage')
        self._next_intrusion_s = 0.0

    def step(self, now_s: float) -> None:
        """Begin and end what is due at a time since the begin of the run."""
        for fault in [fault for fault in self._active if fault.end_s <= now_s]:
            self._active.remove(fault)
            self._switch(fault, on=False)
        while self._due and self._due[0].begin_s <= now_s:
            fault = self._due.pop(0)
            fault.skipped = self._refusal(fault)
            if not fault.skipped:
                # What is late begins late, and lasts as long as planned.
                fault.end_s += now_s - fault.begin_s
                fault.begin_s = now_s
                self._active.append(fault)
                self._switch(fault, on=True)
        if now_s >= self._next_intrusion_s:
            self._next_intrusion_s = now_s + _INTRUSION_PERIOD_S
            for fault in self._active:
                if fault.kind in (GARBAGE, WRONG_STAMPS):
                    self._disturb(fault)

    def finish(self, now_s: float) -> None:
        """End all that lasts; what has not begun is skipped."""
        for fault in self._active:
            fault.end_s = min(fault.end_s, now_s)
            self._switch(fault, on=False)
        for fault in self._due:
            fault.skipped = 'the run was over'
        self._active, self._due = [], []

    def _refusal(self, fault: Fault) -> str:
        process = OF_A_PROCESS.get(fault.kind)
        if process is None:
            if any(other.kind == fault.kind and other.camera == fault.camera for other in self._active):
                return 'one of its kind lasts'
        elif any(OF_A_PROCESS.get(other.kind) == process for other in self._active):
            return f'the {process} has another fault'
        elif not self._nodes.running(process):
            return f'the {process} is not running'
        return ''

    def _switch(self, fault: Fault, on: bool) -> None:
        camera, process = self._cameras.get(fault.camera), OF_A_PROCESS.get(fault.kind)
        if fault.kind == TEACHER_STOP:
            (self._nodes.stop_clock if on else self._nodes.resume)(process)
        elif process is not None:
            (self._nodes.kill if on else self._nodes.start)(process)
        elif fault.kind == CAMERA_PAUSE:
            camera.paused = on
        elif fault.kind == CAMERA_DOUBLE:
            camera.factor = 2.0 if on else 1.0
        elif fault.kind == STAMPS_BACK:
            camera.offset_ns = -round(fault.amount * 1e9) if on else 0

    def _disturb(self, fault: Fault) -> None:
        camera = self._cameras[fault.camera]
        make = garbage if fault.kind == GARBAGE else wrong_stamp
        self._intrude(fault.camera, make(self._dice, camera.last_stamp_ns, camera.name, self._labels))


def wrong_stamp(dice: random.Random, stamp_ns: int, frame_id: str, labels: Sequence[str]) -> bytes:
    """Return a well-formed answer whose stamp no waiting frame has: off by a ns, long past, zero, ahead."""
    wrong_ns = dice.choice((stamp_ns + 1, stamp_ns - 1, stamp_ns - 3_600_000_000_000, 0,
                            stamp_ns + 3_600_000_000_000))
    return write_result(_boxes(dice, labels), labels, wrong_ns, frame_id)


def garbage(dice: random.Random, stamp_ns: int, frame_id: str, labels: Sequence[str]) -> bytes:
    """Return what is no answer: noise, a cut or damaged message, an absurd count, a class of its own."""
    good = write_result(_boxes(dice, labels), labels, stamp_ns, frame_id)
    kind = dice.randrange(5)
    if kind == 0:
        return dice.randbytes(dice.randint(4, 400))
    if kind == 1:
        return good[:dice.randint(4, len(good) - 1)]
    if kind == 2:
        return write_result(_boxes(dice, labels), ['no such class'] * len(labels), stamp_ns, frame_id)
    damaged = bytearray(good)
    if kind == 3:
        for _ in range(20):
            damaged[dice.randrange(12, len(damaged))] = dice.randrange(256)
    else:   # the number of detections stands behind stamp and frame_id
        place = 16 + len(frame_id.encode()) + 1
        place += -place % 4
        damaged[place:place + 4] = b'\xff\xff\xff\x7f'
    return bytes(damaged)


def _boxes(dice: random.Random, labels: Sequence[str]) -> Detections:
    corners = np.array([[dice.uniform(0, 200), dice.uniform(0, 100)] for _ in range(3)])
    return Detections(np.concatenate([corners, corners + 50], axis=1), np.full(3, 0.9),
                      np.array([dice.randrange(len(labels)) for _ in range(3)]))
