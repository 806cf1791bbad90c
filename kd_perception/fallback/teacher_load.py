# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a teacher can afford, of all its cameras together, by the time that it has taken of late.

A detector works on one image at a time. Whoever is asked more than it can answer before the deadline answers
everything late, and nothing comes of its work; so a frame is asked about only if its turn comes in time.
"""

from __future__ import annotations

from collections import deque
import dataclasses

import numpy as np

from kd_perception.fallback.steady import SteadyTime

# Answers whose time is remembered; a few tell it, and it changes with the load of the computer.
_WINDOW, _QUANTILE = 20, 0.8
# A request without an answer is given up after so many times what others take, at least a second.
_GIVE_UP, _GIVE_UP_NS = 4, 1_000_000_000
# Credit that can be saved for a hard stretch.
CREDIT_NS = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class LoadSettings:
    """
    Limits; a user may tune them live.

    :param pace: hold a request back whose answer would come too late.
    :param time_share: greatest share of its time that the teacher works, 1: no bound. What is not used is
        saved, up to `CREDIT_NS` of work.
    """

    pace: bool = True
    time_share: float = 1.0

    def __post_init__(self):
        """Check ranges."""
        if not 0 < self.time_share <= 1:
            raise ValueError('time_share must be in (0, 1]')


class TeacherLoad:
    """
    Follows the requests to one teacher. Not thread-safe; memory: the requests of the last deadline.

    All times are readings of one steady clock (ns); a step backwards counts as no time.
    """

    def __init__(self, settings: LoadSettings = LoadSettings()):
        """Start with a teacher that has done nothing, and full credit."""
        self._settings = settings
        self._time = SteadyTime()
        self._asked: list[tuple[str, int]] = []         # camera, when; in order
        self._taken: deque[int] = deque(maxlen=_WINDOW)
        self._free_ns = 0           # when its last answer came
        self._credit_ns = float(CREDIT_NS)
        self._earned_until_ns = 0

    @property
    def service_ns(self) -> int | None:
        """What it takes for an image: four in five of the last answers no longer; None: not known yet."""
        return int(np.quantile(self._taken, _QUANTILE)) if self._taken else None

    @property
    def credit_ns(self) -> float:
        """Work that may be asked for now, as of the last call; without a bound of no meaning."""
        return self._credit_ns

    def configure(self, settings: LoadSettings) -> None:
        """Change the limits; what is known and saved stays."""
        self._settings = settings

    def asked(self, camera: str, now_ns: int) -> None:
        """Report a request."""
        elapsed_ns = self._advance(now_ns)
        self._asked.append((camera, elapsed_ns))
        self._credit_ns -= self.service_ns or 0

    def answered(self, camera: str, now_ns: int) -> None:
        """Report an answer, whatever it is worth; it is taken for the one to the camera's oldest request."""
        elapsed_ns = self._advance(now_ns)
        index = next((i for i, (name, _) in enumerate(self._asked) if name == camera), None)
        if index is None:
            return
        _, asked_ns = self._asked.pop(index)
        self._taken.append(elapsed_ns - max(asked_ns, self._free_ns))
        self._free_ns = elapsed_ns

    def in_time(self, camera: str, now_ns: int, within_ns: int) -> bool:
        """
        Return whether a request of now would be answered within that time.

        A detector keeps one image of each camera that waits: another request would undo it.
        A teacher that has nothing to do may always be asked: else it would never be seen to be faster again.
        """
        elapsed_ns = self._advance(now_ns)
        if not self._asked or not self._settings.pace:
            return True
        service_ns = self.service_ns
        if service_ns is None or any(name == camera for name, _ in self._asked[1:]):
            return False
        begun_ns = max(self._asked[0][1], self._free_ns)
        left_ns = max(0, service_ns - (elapsed_ns - begun_ns))
        return left_ns + len(self._asked) * service_ns < within_ns

    def idle(self, now_ns: int) -> bool:
        """Return whether all requests are answered, or given up."""
        self._advance(now_ns)
        return not self._asked

    def has_credit(self, now_ns: int) -> bool:
        """Return whether the share of time allows another request."""
        self._advance(now_ns)
        return self._settings.time_share == 1 or self._credit_ns > 0

    def _advance(self, now_ns: int) -> int:
        elapsed_ns = self._time.advance(now_ns)
        earned_ns = (elapsed_ns - self._earned_until_ns) * self._settings.time_share
        self._credit_ns = min(float(CREDIT_NS), self._credit_ns + earned_ns)
        self._earned_until_ns = elapsed_ns
        give_up_ns = max(_GIVE_UP_NS, _GIVE_UP * (self.service_ns or 0)) if self._asked else 0
        self._asked = [item for item in self._asked if elapsed_ns - item[1] < give_up_ns]
        return elapsed_ns
