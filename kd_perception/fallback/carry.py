# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The teacher's boxes carried forward to the frames that it was not asked about.

The boxes of its last answer move with the image (`flow`), lose score with every frame, and meet the
student's in a class-wise non-maximum suppression. An answer that comes too late for its own frame is carried
on from there to the newest one: it revises nothing that left, and still helps what comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
import dataclasses
from typing import NamedTuple

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.nms import nms
from kd_perception.boxes.overlap import clip_boxes
from kd_perception.fallback.flow import FlowImage, is_cut, move_boxes

_MS = 1_000_000
_LATE_STEPS = 5


@dataclasses.dataclass(frozen=True)
class CarrySettings:
    """
    How long and how far the teacher is believed; a user may tune it live.

    :param frames: an answer is carried over at most so many frames; 0: none is.
    :param decay: factor of a box's score for each frame.
    :param min_score: a box is carried while its score is at least this.
    :param merge_iou: of two boxes of one class that overlap by more than this, the lower score goes.
    :param max_boxes: only so many of the highest scores are carried; bounds the time.
    :param max_gap_ns: frames further apart, by stamp, do not show the same scene.
    """

    frames: int = 10
    decay: float = 0.95
    min_score: float = 0.3
    merge_iou: float = 0.6
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
    """

    detections: Detections
    boxes: int = 0
    age_frames: int = 0


class _Seen(NamedTuple):
    """A frame that has left, kept for an answer that comes late."""

    number: int
    stamp_ns: int
    view: FlowImage


class Carrier:
    """
    Carries boxes along the frames of one camera, which it is told of in the order in which they leave.

    Not thread-safe; reads no clock. Memory: `frames` + 1 small images and `max_boxes` boxes. An image of
    another size, a stamp that does not rise, a gap and a cut of the scene start it anew.
    """

    def __init__(self, settings: CarrySettings = CarrySettings()):
        """Start with nothing to carry."""
        self._settings = settings
        self._seen: deque[_Seen] = deque(maxlen=settings.frames + 1)
        self._boxes = Detections.empty()
        self._of = self._number = self._aged = 0    # frame of the answer, newest frame, decay so far
        self._asked_until = 0           # an answer may still come to a frame not long before this one
        self._last_stamp_ns: int | None = None
        self._counts = dict.fromkeys(('frames', 'boxes', 'late_answers', 'lost', 'resets'), 0)

    @property
    def counts(self) -> Mapping[str, int]:
        """
        Totals since the start.

        `frames` with carried boxes, and those `boxes`; `late_answers` that were carried on; boxes `lost` on
        the way, expired ones not counted; `resets` while boxes were carried.
        """
        return dict(self._counts)

    def configure(self, settings: CarrySettings) -> None:
        """Change the settings between frames."""
        if settings.frames != self._settings.frames:
            self._seen = deque(self._seen, maxlen=settings.frames + 1)
        self._settings = settings

    def reset(self) -> None:
        """Forget boxes and images."""
        self._counts['resets'] += len(self._boxes) > 0
        self._boxes, self._last_stamp_ns = Detections.empty(), None
        self._seen.clear()

    def wants_view(self, asked: bool) -> bool:
        """
        Return whether the image of the next frame is of use; called once for each, in order of arrival.

        :param asked: the frame goes to the teacher.
        """
        frames = self._settings.frames
        self._asked_until = frames + 1 if asked else max(0, self._asked_until - 1)
        return frames > 0 and (self._asked_until > 0 or len(self._boxes) > 0)

    def answered(self, stamp_ns: int, view: FlowImage | None, answer: Detections) -> None:
        """Take a frame that leaves with the teacher's answer; None: its image is not known."""
        self._advance(stamp_ns, view)
        self._take(answer if view is not None else Detections.empty(), self._number)

    def unanswered(self, stamp_ns: int, view: FlowImage | None, student: Detections,
                   max_detections: int = 1000) -> Carried:
        """Take a frame that leaves without the teacher's answer; return what is published of it."""
        before = self._seen[-1].view if self._seen else None
        self._advance(stamp_ns, view)
        age = self._number - self._of
        if age > self._settings.frames:
            self._boxes = Detections.empty()
        if view is None or before is None or not len(self._boxes):
            return Carried(student)
        self._move(before, view, self._settings.decay ** (age - self._aged))
        self._aged = age
        return self._merged(student, view, max_detections)

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
        self._take(answer, after[0].number)
        # Few long steps rather than many: results that are due meanwhile wait for it.
        way = [*after[:-1:-(-len(after) // _LATE_STEPS)], after[-1]]
        for earlier, later in zip(way, way[1:]):
            self._move(earlier.view, later.view, self._settings.decay ** (later.number - earlier.number))
        self._aged = after[-1].number - self._of
        self._counts['late_answers'] += 1
        return True

    def _advance(self, stamp_ns: int, view: FlowImage | None) -> None:
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
            self._seen.append(_Seen(self._number, stamp_ns, view))

    def _take(self, answer: Detections, number: int) -> None:
        s = self._settings
        most = s.max_boxes if s.frames else 0
        self._boxes = answer.above(s.min_score).by_score().select(slice(most))
        self._of, self._aged = number, 0

    def _move(self, before: FlowImage, after: FlowImage, decay: float) -> None:
        boxes, found = move_boxes(before, after, self._boxes.boxes_xyxy)
        self._counts['lost'] += int(np.count_nonzero(~found))
        scores = self._boxes.scores * decay
        kept = found & (scores >= self._settings.min_score)
        self._boxes = Detections(boxes[kept], scores[kept], self._boxes.class_ids[kept])

    def _merged(self, student: Detections, view: FlowImage, max_detections: int) -> Carried:
        own = dataclasses.replace(self._boxes, boxes_xyxy=clip_boxes(self._boxes.boxes_xyxy, view.image_hw))
        together = Detections.concatenate([own, student])
        kept = nms(together.boxes_xyxy, together.scores, together.class_ids, self._settings.merge_iou,
                   max_detections)
        count = int(np.count_nonzero(kept < len(own)))
        self._counts['frames'] += count > 0
        self._counts['boxes'] += count
        return Carried(together.select(kept), count, self._number - self._of if count else 0)
