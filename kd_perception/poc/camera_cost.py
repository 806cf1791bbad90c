# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How many processor cores N cameras take, for any share of frames that goes to the teacher."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd_perception.errors import EvaluationError

# A core is planned to be busy for this share of the time: above it frames wait for one another (the waiting
# time of an M/D/1 queue at 0.7 is 1.2 service times, at 0.9 it is 4.5).
LOAD = 0.7


@dataclass(frozen=True)
class CameraPlan:
    """N cameras at a rate [Hz]."""

    cameras: int
    rate_hz: float

    def __post_init__(self) -> None:
        if not (1 <= self.cameras <= 1000 and 0 < self.rate_hz <= 1000):
            raise EvaluationError(f'{self.cameras} cameras at {self.rate_hz:g} Hz: expected 1 to 1000 '
                                  'cameras at '
                                  'more than 0 and at most 1000 Hz')

    def cores(self, student_ms: float, teacher_ms: float = 0.0, share: float = 0.0) -> float:
        """Return the cores that are busy all the time; times are those of one thread for one frame [ms]."""
        return self.cameras * self.rate_hz * (student_ms + share * teacher_ms) / 1e3


def cost_table(plan: CameraPlan, student_ms: float, teacher_ms: float | None,
               shares: Sequence[float]) -> list[dict[str, Any]]:
    """
    Return [{'share', 'busy_cores', 'cores'}]; `cores` with each of them busy for `LOAD` of the time.

    :param teacher_ms: None leaves the row without a teacher alone.
    """
    rows = []
    for share in shares if teacher_ms is not None else (0.0,):
        busy = plan.cores(student_ms, teacher_ms or 0.0, share)
        rows.append({'share': share, 'busy_cores': round(busy, 3), 'cores': round(busy / LOAD, 2)})
    return rows


def least_share(metric: dict[str, Any], gate: str, wanted: float = 0.5) -> float | None:
    """
    Return the least measured share of frames at which a gate recovers so much of the teacher's gain.

    :param metric: an entry of `metrics` in a hybrid report.
    :return: None where it never does, or there is no gain.
    """
    return next((share for share, held in zip(metric['shares'], metric['gates'][gate]['recovered'])
                 if held is not None and share > 0 and held >= wanted), None)
