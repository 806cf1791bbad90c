# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Which recorded frames are reviewed, in which order, and what is said of each."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from kd_perception.recording.disagreement import compare, Disagreement, WorkingScores
from kd_perception.recording.recorded import Boxes, HardFrameSet, RecordedFrame


@dataclasses.dataclass(frozen=True)
class Selection:
    """
    What to review.

    :param input: a recording of hard frames, or a folder of several.
    :param sort: `disagreement`, `ambiguity` or `time`. :param most: frames to keep after sorting; 0: all.
    :param scores: from these on a box counts.
    """

    input: Path
    sort: str
    most: int
    scores: WorkingScores


def chosen_frames(selection: Selection
                  ) -> tuple[HardFrameSet, list[RecordedFrame], dict[Any, Disagreement | None]]:
    """
    Read the input; return it, the frames to show in their order, and all differences by frame key.

    :raises BagError: the input holds no hard frames.
    """
    found = HardFrameSet(selection.input)
    differences = {frame.key: compare(frame, selection.scores) for frame in found.frames}
    frames = sorted(found.frames, key=_order(selection.sort, differences))
    return found, frames[:selection.most or None], differences


def _order(sort: str, differences: dict[Any, Disagreement | None]) -> Callable[[RecordedFrame], tuple]:
    """Return a sort key; frames without the quantity come last, equal ones in the order of their stamps."""
    def key(frame: RecordedFrame) -> tuple:
        time = (frame.key.stamp_ns, frame.key)
        if sort == 'ambiguity':
            ambiguity = frame.number('ambiguity')
            return (ambiguity is None, -(ambiguity or 0.0), time)
        difference = differences[frame.key]
        if sort == 'disagreement':
            rank = (-difference.count, -difference.weight) if difference else (0, 0)
            return (difference is None, rank, time)
        return time
    return key


def record(frame: RecordedFrame, difference: Disagreement | None, image_problem: str = '') -> dict[str, Any]:
    """Return one frame's record in review.json."""
    facts = frame.facts
    entry = {
        'name': frame.name, 'bag': frame.key.bag, 'camera': frame.key.camera, 'stamp_ns': frame.key.stamp_ns,
        'frame_id': frame.frame_id, 'source': facts.get('source', ''), 'reason': facts.get('reason', ''),
        'ambiguity': frame.number('ambiguity'), 'unverified': facts.get('unverified', ''),
        'waited_ms': frame.number('waited_ms'), 'teacher_ms': frame.number('teacher_ms'),
        'disagreement': None, 'agreed': None, 'only_student': [], 'only_teacher': [], 'renamed': [],
        'image_problem': image_problem}
    if difference is not None:
        entry.update(
            disagreement=difference.count, agreed=len(difference.agreed),
            only_student=[_box(difference.student, i) for i in difference.only_student],
            only_teacher=[_box(difference.teacher, i) for i in difference.only_teacher],
            renamed=[{'student': _box(difference.student, i), 'teacher': _box(difference.teacher, j)}
                     for i, j in difference.renamed])
    return entry


def _box(boxes: Boxes, i: int) -> dict[str, Any]:
    return {'class': boxes.names[i], 'score': float(boxes.scores[i]),
            'box_xyxy': boxes.boxes_xyxy[i].tolist()}
