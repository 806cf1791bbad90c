# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The teacher's boxes carried forward to the frames that it was not asked about.

The boxes of its last answer move with the image (`flow`) and meet the student's there (`verdict`). An
answer that comes too late for its own frame is carried on from there to the newest one: it revises nothing
that left, and still helps what comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
import dataclasses
from typing import NamedTuple

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import clip_boxes
from kd_perception.fallback.flow import FlowImage, is_cut, move_boxes
from kd_perception.fallback.verdict import apply, judge, NOTHING, Verdicts

_MS = 1_000_000
_LATE_STEPS = 5


@dataclasses.dataclass(frozen=True)
class CarrySettings:
    """
    How long and how far the teacher is believed; a user may tune it live.

    :param frames: an answer is carried over at most so many frames; 0: none is.
    :param decay: factor of the score for each second in which the student does not confirm a box.
    :param min_score: a box is carried while its score is at least this.
    :param merge_iou: boxes of one class are one object from this IoU on.
    :param max_boxes: only so many of the highest scores are carried; bounds the time.
    :param max_gap_ns: frames further apart, by stamp, do not show the same scene.
    """

    frames: int = 10
    decay: float = 0.6
    min_score: float = 0.3
    merge_iou: float = 0.5
    max_boxes: int = 50
    max_gap_ns: int = 500 * _MS

    def __post_init__(self):
        """Check ranges."""
        if not 0 <= self.frames <= 100:
            raise ValueError('frames must be in 0..100')
        if not (0 < self.decay <= 1 and 0 <= self.min_score <= 1 and 0 < self.merge_iou <= 1):
            raise ValueError('decay and merge_iou must be in (0, 1], min_score in [0, 1]')
        if not 1 <= self.max_boxes <= 1000 or self.max_gap_ns <= 0:
            raise ValueError('max_boxes must be in 1..1000, max_gap_ns positive')


class Carried(NamedTuple):
    """
    What is published of a frame that the teacher did not answer.

    :param detections: descending score. :param boxes: how many of them are carried.
    :param age_frames: frames since the answer that they are of; 0: nothing is carried.
    :param refuted: how many of the student's boxes got the lower score that the teacher gave them.
    """

    detections: Detections
    boxes: int = 0
    age_frames: int = 0
    refuted: int = 0


class _Seen(NamedTuple):
    """A frame that has left, kept for an answer that comes late."""

    number: int
    stamp_ns: int
    view: FlowImage
    student: Detections


class Carrier:
    """
    Carries boxes along the frames of one camera, which it is told of in the order in which they leave.

    Not thread-safe; reads no clock. Memory: `frames` + 1 small images with their boxes. An image of
    another size, a stamp that does not rise, a gap and a cut of the scene start it anew.
    """

    def __init__(self, settings: CarrySettings = CarrySettings()):
        """Start with nothing to carry."""
        self._settings = settings
        self._seen: deque[_Seen] = deque(maxlen=settings.frames + 1)
        self._verdicts = NOTHING
        self._of = self._number = 0     # frame of the answer, newest frame
        self._asked_until = 0           # an answer may still come to a frame not long before this one
        self._last_stamp_ns: int | None = None
        self._counts = dict.fromkeys(('frames', 'boxes', 'refuted', 'late_answers', 'lost', 'resets'), 0)

    @property
    def counts(self) -> Mapping[str, int]:
        """
        Totals since the start.

        `frames` with carried boxes, and those `boxes`; the student's boxes that were `refuted`;
        `late_answers` that were carried on; boxes `lost` on the way, expired ones not counted; `resets`
        while something was carried.
        """
        return dict(self._counts)

    def configure(self, settings: CarrySettings) -> None:
        """Change the settings between frames."""
        if settings.frames != self._settings.frames:
            self._seen = deque(self._seen, maxlen=settings.frames + 1)
        self._settings = settings

    def reset(self) -> None:
        """Forget boxes and images."""
        self._counts['resets'] += len(self._verdicts) > 0
        self._verdicts, self._last_stamp_ns = NOTHING, None
        self._seen.clear()

    def wants_view(self, asked: bool) -> bool:
        """
        Return whether the image of the next frame is of use; called once for each, in order of arrival.

        :param asked: the frame goes to the teacher.
        """
        frames = self._settings.frames
        self._asked_until = frames + 1 if asked else max(0, self._asked_until - 1)
        return frames > 0 and (self._asked_until > 0 or len(self._verdicts) > 0)

    def answered(self, stamp_ns: int, view: FlowImage | None, answer: Detections,
                 student: Detections) -> None:
        """
        Take a frame that leaves with the teacher's answer.

        :param view: None: its image is not known. :param student: its result, down to the low threshold.
        """
        self._advance(stamp_ns, view, student)
        self._verdicts = NOTHING
        if view is not None:
            self._take(answer, student, self._number)

    def unanswered(self, stamp_ns: int, view: FlowImage | None, published: Detections,
                   student: Detections | None = None, max_detections: int = 1000) -> Carried:
        """
        Take a frame that leaves without the teacher's answer; return what is published of it.

        :param published: what that would be by itself. :param student: the result that it is of, down to the
            low threshold; None: the same.
        """
        student = published if student is None else student
        before = self._seen[-1] if self._seen else None
        self._advance(stamp_ns, view, student)
        age = self._number - self._of
        if age > self._settings.frames:
            self._verdicts = NOTHING
        if view is None or before is None or not len(self._verdicts):
            return Carried(published)
        alone, refuted = self._step(before, self._seen[-1], published)
        own = self._verdicts.carried
        own = dataclasses.replace(own, boxes_xyxy=clip_boxes(own.boxes_xyxy, view.image_hw))
        together = Detections.concatenate([own, alone])
        kept = np.argsort(-together.scores, kind='stable')[:max_detections]
        count = int(np.count_nonzero(kept < len(own)))
        self._counts['frames'] += count > 0
        self._counts['boxes'] += count
        self._counts['refuted'] += refuted
        return Carried(together.select(kept), count, age if count or refuted else 0, refuted)

    def late(self, stamp_ns: int, answer: Detections) -> bool:
        """
        Take an answer to a frame that has left; return whether it is carried on.

        It is not where its frame is too long ago or its image unknown, or a newer answer is here already.
        """
        after = list(self._seen)
        while after and after[0].stamp_ns != stamp_ns:
            after.pop(0)
        if not after or after[0].number <= self._of:
            return False
        self._take(answer, after[0].student, after[0].number)
        # Few long steps rather than many: results that are due meanwhile wait for it.
        way = [*after[:-1:-(-len(after) // _LATE_STEPS)], after[-1]]
        for earlier, later in zip(way, way[1:]):
            self._step(earlier, later, later.student)
        self._counts['late_answers'] += 1
        return True

    def _advance(self, stamp_ns: int, view: FlowImage | None, student: Detections) -> None:
        """Count a frame; start anew where it does not follow the last one."""
        last_ns = self._last_stamp_ns
        follows = last_ns is None or 0 < stamp_ns - last_ns <= self._settings.max_gap_ns
        if follows and view is not None and self._seen:
            last = self._seen[-1].view
            follows = last.image_hw == view.image_hw and not is_cut(last, view)
        if not follows:
            self.reset()
        self._number += 1
        self._last_stamp_ns = stamp_ns
        if view is not None and self._settings.frames:
            self._seen.append(_Seen(self._number, stamp_ns, view, student))

    def _take(self, answer: Detections, student: Detections, number: int) -> None:
        s = self._settings
        self._verdicts = NOTHING if not s.frames else judge(
            answer, student, s.min_score, s.merge_iou, s.max_boxes)
        self._of = number

    def _step(self, before: _Seen, after: _Seen, published: Detections) -> tuple[Detections, int]:
        """Bring the verdicts from one frame to another; return what is the student's alone, and refuted."""
        s = self._settings
        carried, refuted = self._verdicts.carried, self._verdicts.refuted
        boxes, found = move_boxes(
            before.view, after.view, np.concatenate([carried.boxes_xyxy, refuted.boxes_xyxy]))
        mine = slice(len(carried)), slice(len(carried), None)
        self._counts['lost'] += int(np.count_nonzero(~found[mine[0]]))
        carried, refuted = (dataclasses.replace(part, boxes_xyxy=boxes[i]).select(found[i])
                            for part, i in zip((carried, refuted), mine))
        moved = Verdicts(carried, refuted, self._verdicts.known[found[mine[0]]])
        seconds = (after.stamp_ns - before.stamp_ns) / 1e9
        applied = apply(moved, published, after.student, s.merge_iou, s.decay, seconds)
        self._verdicts = applied.verdicts.above(s.min_score)
        return applied.student, applied.refuted
