# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Who answered for a frame, why, and when."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Literal

from kd_perception.boxes.detections import Detections


class Source(enum.Enum):
    """Whose detections an output holds."""

    STUDENT = 'student'                             # the frame is clear
    TEACHER = 'teacher'                             # the teacher's alone
    MERGED = 'merged'                               # the teacher's, and some of the student's
    CARRIED = 'carried'                             # the student's, and the teacher's of an earlier frame
    STUDENT_LATE_TEACHER = 'student-late-teacher'   # the teacher was asked, and did not answer in time
    STUDENT_NO_TEACHER = 'student-no-teacher'       # ambiguous, but not asked; or its answer was unusable


@dataclasses.dataclass(frozen=True)
class Provenance:
    """
    Where one output comes from.

    :param reason: why the frame is ambiguous or audited, or `clear`; see `fallback.gate`.
    :param ambiguity: the scorer's score: how much the teacher is expected to better.
    :param rank: share of the camera's last frames that scored higher; None: nothing to compare with.
    :param sent: whether its image went to the teacher; `probe`: to see if it is back, not waited for.
    :param unverified: why the teacher's answer is not in it though it was wanted; else empty.
    :param from_student: number of detections that are the student's.
    :param waited_ns: from the student's result to the output.
    :param teacher_ns: from sending the image to the teacher's answer; None without an answer.
    :param image_age_ns: age of the image when the student's result came, by the stamps' clock, at least 0;
        None where that is not known.
    :param deadline_met: the output left in time.
    :param contributions: (feature or signal, amount) behind `ambiguity`, largest first.
    :param carried: number of detections that are carried forward from an earlier answer of the teacher.
    :param carried_frames: age of that answer in frames; 0: nothing is carried.
    :param refuted: number of the student's detections that have the lower score which that answer gave them.
    """

    source: Source
    reason: str
    ambiguity: float
    ambiguous: bool
    audit: bool
    sent: Literal['yes', 'no', 'probe']
    unverified: str
    from_student: int
    waited_ns: int
    teacher_ns: int | None
    image_age_ns: int | None
    deadline_met: bool
    contributions: tuple[tuple[str, float], ...] = ()
    carried: int = 0
    carried_frames: int = 0
    refuted: int = 0
    rank: float | None = None

    def values(self) -> tuple[tuple[str, str], ...]:
        """Return ordered key and value pairs, both text; times in ms, `unknown` where there is none."""
        def ms(value_ns: int | None) -> str:
            return 'unknown' if value_ns is None else f'{value_ns / 1e6:.3f}'

        def truth(value: bool) -> str:
            return 'true' if value else 'false'

        return (
            ('source', self.source.value), ('reason', self.reason), ('ambiguity', f'{self.ambiguity:.6g}'),
            ('ambiguous', truth(self.ambiguous)), ('audit', truth(self.audit)), ('sent', self.sent),
            ('unverified', self.unverified), ('from_student', str(self.from_student)),
            ('carried', str(self.carried)), ('carried_frames', str(self.carried_frames)),
            ('refuted', str(self.refuted)),
            ('rank', 'unknown' if self.rank is None else f'{self.rank:.3f}'),
            ('waited_ms', ms(self.waited_ns)), ('teacher_ms', ms(self.teacher_ns)),
            ('image_age_ms', ms(self.image_age_ns)), ('deadline_met', truth(self.deadline_met)),
            *((f'contribution.{name}', f'{amount:.6g}') for name, amount in self.contributions))


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
    """
    The one verified answer to one student result.

    :param sequence: 0, 1, 2 ... in the order of arrival and of release.
    :param stamp_ns: of the image. :param context: as given with the student's result.
    :param detections: class ids of the merger's labels.
    :param student: the student's result as it came. :param track_ids: of the detections, one each; empty
        where nothing is tracked.
    """

    sequence: int
    stamp_ns: int
    context: Any
    detections: Detections
    provenance: Provenance
    student: Detections = dataclasses.field(default_factory=Detections.empty)
    track_ids: tuple[int, ...] = ()
