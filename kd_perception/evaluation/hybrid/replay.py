# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Frames replayed through the fallback's own logic, against a simulated teacher that takes its time.

What `CameraFallback` does here is what it does in the node: gate, budget, deadline, order, carrying forward.
Only the clock, the topics and the models are played: both models' answers are known beforehand.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
import heapq
from typing import Any

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.evaluation.hybrid.curve import HybridAp, recovered
from kd_perception.evaluation.hybrid.frames import detection_table, PairedFrames
from kd_perception.evaluation.metrics.kitti_eval import KittiEvaluator
from kd_perception.evaluation.report.content import number, numbers
from kd_perception.fallback.ambiguity import FeatureExtractor
from kd_perception.fallback.camera_fallback import CameraFallback, FallbackSettings
from kd_perception.fallback.carry import CarrySettings
from kd_perception.fallback.judge import Judge
from kd_perception.fallback.merge import LabelMap
from kd_perception.fallback.provenance import Output

_MS = 1_000_000
_FRAME_NS = 100 * _MS
# How frames are chosen: by which scorer; None: the judge's.
_ASKED = (('regular', 'periodic'), ('gated', None))
_CARRIED = (('replaced', False), ('carried', True))


@dataclass(frozen=True)
class ReplayOptions:
    """
    The world around the fallback.

    :ivar student_ns, teacher_ns: from an image, and from a request, to the model's answer.
    :ivar phases: runs of each way; a run begins with another frame, and draws other audits.
    :ivar shares: budgets.
    """

    student_ns: int = 20 * _MS
    teacher_ns: int = 60 * _MS
    phases: int = 5
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)


class SimulatedTeacher:
    """As `detector_node`: it works on one image, the newest that waits is next, others are dropped."""

    def __init__(self, latency_ns: int):
        """Start idle."""
        self.latency_ns, self.busy_ns = latency_ns, 0
        self._work: tuple[int, int] | None = None        # frame, when it is done
        self._waiting: int | None = None

    def ask(self, frame: int, now_ns: int) -> None:
        """Take a request."""
        if self._work is None:
            self._begin(frame, now_ns)
        else:
            self._waiting = frame

    def next_ns(self) -> int | None:
        """Return when the next answer is ready; None: nothing is in work."""
        return self._work[1] if self._work else None

    def answer(self) -> int:
        """Return the frame of the answer that is ready, and begin with the next."""
        if self._work is None:
            raise ValueError('the teacher has nothing in work')
        frame, done_ns = self._work
        self._work = None
        if self._waiting is not None:
            self._begin(self._waiting, done_ns)
            self._waiting = None
        return frame

    def _begin(self, frame: int, now_ns: int) -> None:
        self._work = frame, now_ns + self.latency_ns
        self.busy_ns += self.latency_ns


def replay(frames: PairedFrames, judge: Judge, settings: FallbackSettings, options: ReplayOptions,
           seed: int = 0, skip: int = 0) -> list[Output | None]:
    """
    Replay all frames as one camera and return the output of each, length F.

    Frames of another drive follow after a break; lone images are unrelated frames 100 ms apart.

    :param skip: frames at the start that the fallback does not see, for another phase; they get no output.
    """
    drive = len(np.unique(frames.drives)) < len(frames)
    times = _times(frames, drive)
    labels = LabelMap.by_name(frames.student_spec.labels, frames.teacher_spec.labels)
    extractor = FeatureExtractor(judge.settings, frames.student_spec.labels)
    fallback = CameraFallback('camera', labels, extractor, judge.scorer, 0, settings, seed)
    teacher = SimulatedTeacher(options.teacher_ns)
    outputs: list[Output | None] = [None] * len(frames)

    def take(released: Sequence[Output]) -> None:
        for output in released:
            outputs[output.context] = output

    arrivals = [(times[i] + options.student_ns, i) for i in range(skip, len(frames))]
    heapq.heapify(arrivals)
    while arrivals or fallback.next_deadline() is not None or teacher.next_ns() is not None:
        due = [(when, kind) for kind, when in enumerate(
            (teacher.next_ns(), fallback.next_deadline(), arrivals[0][0] if arrivals else None))
            if when is not None]
        now_ns, kind = min(due)
        if kind == 0:
            frame = teacher.answer()
            take(fallback.on_teacher(times[frame], frames.teacher[frame], now_ns).outputs)
        elif kind == 1:
            take(fallback.on_tick(now_ns))
        else:
            _, frame = heapq.heappop(arrivals)
            step = _student(fallback, frames, frame, times[frame], now_ns, drive)
            take(step.outputs)
            if step.send:
                teacher.ask(frame, now_ns)
    return outputs


def _student(fallback: CameraFallback, frames: PairedFrames, frame: int, stamp_ns: int, now_ns: int,
             drive: bool) -> Any:
    if not drive:
        fallback.extractor.reset()
    height, width = frames.image_hw[frame]
    view = frames.views[frame] if frames.views else None
    return fallback.on_student(
        stamp_ns, frames.student[frame], now_ns, image_hw=(int(height), int(width)),
        scene=frames.scenes[frame], view=lambda: view, context=frame)


def _times(frames: PairedFrames, drive: bool) -> list[int]:
    """Return a stamp for each frame, ns: its own within a drive, a second between drives."""
    if not drive:
        return [(i + 1) * _FRAME_NS for i in range(len(frames))]
    times, at = [], 1_000_000_000
    for i in range(len(frames)):
        if i:
            follows = frames.drives[i] == frames.drives[i - 1]
            step = int(frames.stamps_ns[i] - frames.stamps_ns[i - 1])
            at += step if follows and step > 0 else 1_000_000_000
        times.append(at)
    return times


def compare_ways(frames: PairedFrames, aps: Sequence[HybridAp], judge: Judge, settings: FallbackSettings,
                 options: ReplayOptions) -> list[dict[str, Any]]:
    """
    Measure what asking regularly, or as the gate decides, brings, each without and with carrying forward.

    :param aps: by which metrics; the replays are the same for all of them.
    :param settings: the node's; the share is each of the options' in turn, and carrying is off where a way
        is `replaced`.
    :return: plain values for report.json by metric; docs/how-to/hybrid_evaluation.md says what each means.
    """
    drive = len(np.unique(frames.drives)) < len(frames)
    facts = {'shares': list(options.shares), 'teacher_ms': options.teacher_ns / _MS, 'scorer': judge.name,
             'deadline_ms': settings.arbiter.deadline_ns / _MS, 'phases': options.phases}
    reports: list[dict[str, Any]] = [{**facts, 'ways': {}} for _ in aps]
    for asked, choice in _ASKED:
        chosen = judge if choice is None else Judge.of_scorer(choice, judge.settings)
        for way, carried in _CARRIED:
            if carried and not drive:
                continue
            runs = [_phases(frames, chosen, _with(settings, share, carried, drive), options)
                    for share in options.shares]
            for ap, report in zip(aps, reports):
                points = [_point(frames, ap, phases) for phases in runs]
                report['ways'][f'{asked}, {way}'] = {
                    key: [point[key] for point in points] for key in points[0]}
    return reports


def _with(settings: FallbackSettings, share: float, carried: bool, drive: bool) -> FallbackSettings:
    gate = replace(settings.gate, share=share, audit_share=min(settings.gate.audit_share, share))
    if not drive:
        gate = replace(gate, leave=gate.enter, leave_frames=1)
    carry = settings.carry if carried else replace(settings.carry, frames=0)
    return replace(settings, gate=gate, carry=carry)


def _phases(frames: PairedFrames, judge: Judge, settings: FallbackSettings,
            options: ReplayOptions) -> list[list[Output | None]]:
    """Return the outputs of each phase; each begins later, and the frames before it are the student's."""
    period = 1 / settings.gate.share if settings.gate.share else 0.0
    return [replay(frames, judge, settings, options, phase,
                   min(round(phase / options.phases * period), len(frames) - 1))
            for phase in range(options.phases)]


def _point(frames: PairedFrames, ap: HybridAp, phases: Sequence[Sequence[Output | None]]
           ) -> dict[str, Any]:
    none, every = (float(ap.metric.mean(ap.of(np.full(len(frames), value)))) for value in (False, True))
    by_class = np.array([class_ap(frames, ap, [
        frames.student[i] if output is None else output.detections for i, output in enumerate(outputs)])
        for outputs in phases])
    held = recovered(ap.metric.mean(by_class), none, every)
    sent = [output is not None and output.provenance.sent != 'no' for outputs in phases for output in outputs]
    names = [item.name for item in ap.metric.protocols]
    return {
        'sent': float(np.mean(sent)), 'ap': float(ap.metric.mean(by_class).mean()),
        'ap_by_class': dict(zip(names, numbers(by_class.mean(axis=0)))),
        'recovered': number(held.mean()), 'recovered_range': numbers(np.array([held.min(), held.max()]))}


def class_ap(frames: PairedFrames, ap: HybridAp, detections: Sequence[Detections]) -> np.ndarray:
    """Return AP R40 in percent by class, (C,), of detections of all frames; as `HybridAp.of`."""
    metric = ap.metric
    labels = LabelMap.by_name(frames.student_spec.labels, frames.teacher_spec.labels).labels
    table = detection_table(detections, labels, frames.names)
    evaluator = KittiEvaluator(frames.labels, table, min(item.min_iou for item in metric.protocols))
    found = [evaluator.evaluate(item, metric.difficulty).ap_r40 for item in metric.protocols]
    return np.nan_to_num(np.array([0.0 if value is None else value for value in found]))


def node_settings(judge: Judge, settings: FallbackSettings = FallbackSettings(),
                  carry: CarrySettings = CarrySettings()) -> FallbackSettings:
    """Return a fallback's settings with a judge's thresholds, as the node has them."""
    share = settings.gate.share
    enter = judge.threshold_for(share - settings.gate.audit_share)
    gate = replace(settings.gate, enter=enter, leave=min(enter, 0.8 * enter))
    return replace(settings, gate=gate, running=not judge.knows_shares, carry=carry)
