# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The gate: is a frame ambiguous, why, and may it go to the teacher?"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

import numpy as np

from kd_perception.fallback.rate_budget import RateBucket, ShareBucket
from kd_perception.fallback.scores import Ambiguity, CLEAR

# A frame's reason besides the scorer's own and `clear`.
AUDIT = 'audit'
REFRESH = 'refresh'     # clear, and the budget was there
HELD = 'held'           # ambiguous by hysteresis alone
# Why a frame that should have gone did not.
SHARE_SPENT = 'share_budget'
RATE_SPENT = 'rate_budget'
TEACHER_OUT = 'teacher_unavailable'
TEACHER_OFF = 'teacher_off'
NO_IMAGE = 'no_image'
TEACHER_BUSY = 'teacher_busy'
TIME_SPENT = 'time_budget'
# Chance draws audits in bunches: with room for one, near half of them would find no token.
AUDIT_BURST = 3.0
DENIALS = (SHARE_SPENT, RATE_SPENT, TEACHER_OUT, TEACHER_OFF, NO_IMAGE, TEACHER_BUSY, TIME_SPENT)


@dataclasses.dataclass(frozen=True)
class GateSettings:
    """
    What a user may tune, live.

    :param enter: a score from here on makes frames ambiguous, in the scorer's units.
    :param leave: until a score falls below this one (at most `enter`) ...
    :param leave_frames: ... in so many frames in a row.
    :param share: greatest share of frames that is sent, audits and probes included.
    :param audit_share: part of `share` that is kept for frames drawn by chance, whatever their score: they
        show what the scorer misses, and prove the teacher alive on an easy road.
    :param burst: frames that can be sent in a row after a quiet time, besides up to `AUDIT_BURST` audits.
    :param refresh: frames are sent by the price of the moment, see `decide`: the more is saved, the clearer
        a frame may be. What is not spent is lost, and every answer is carried forward.
    """

    enter: float = 0.5
    leave: float = 0.4
    leave_frames: int = 2
    share: float = 0.2
    audit_share: float = 0.01
    burst: float = 2.0
    refresh: bool = True

    def __post_init__(self):
        """Check ranges."""
        if not (math.isfinite(self.enter) and math.isfinite(self.leave) and self.leave <= self.enter):
            raise ValueError('expected finite thresholds, leave <= enter')
        if not 1 <= self.leave_frames <= 1000:
            raise ValueError('leave_frames must be in 1..1000')
        if not 0 <= self.audit_share <= self.share <= 1:
            raise ValueError('expected 0 <= audit_share <= share <= 1')
        if not 1 <= self.burst <= 1000:
            raise ValueError('burst must be in 1..1000 frames')


@dataclasses.dataclass(frozen=True)
class GateDecision:
    """
    What becomes of one frame.

    :param send: the frame goes to the teacher.
    :param ambiguous: by score and hysteresis.
    :param reason: the scorer's where it is ambiguous, `held` where that is by hysteresis alone, else `audit`
        or `clear`.
    :param audit: drawn by chance, ambiguous or not.
    :param probe: sent only to learn whether the teacher is back; its answer is not waited for.
    :param held: ambiguous by hysteresis alone.
    :param wanted: worth a token that is there, whether or not something is in the way.
    :param rank: share of the camera's last frames that scored higher; None: unknown.
    :param denied: why a frame that should have gone does not, one of `DENIALS`; empty otherwise.
    """

    send: bool
    ambiguous: bool
    reason: str
    score: float
    audit: bool = False
    probe: bool = False
    held: bool = False
    denied: str = ''
    contributions: tuple[tuple[str, float], ...] = ()
    wanted: bool = False
    rank: float | None = None


class Gate:
    """
    Decides frame by frame for one camera. Not thread-safe.

    :param seed: of the audit draw. One number is drawn for every frame, so that the same frames are
        audited whatever else happens.
    :param rate: bound in frames a second, shared between cameras where it is the same object.
    """

    def __init__(self, settings: GateSettings, seed: int = 0, rate: RateBucket | None = None):
        """Start unambiguous, with full buckets."""
        self._random = np.random.default_rng(seed)
        self._rate = RateBucket(None) if rate is None else rate
        self._ambiguous = False
        self._calm_frames = 0
        self._counts = dict.fromkeys((
            'frames', 'ambiguous', 'audited', 'probed', 'refreshed', 'later', 'sent', *DENIALS), 0)
        self.settings = settings
        self._general = ShareBucket(*_general(settings))
        self._audits = ShareBucket(settings.audit_share, AUDIT_BURST)

    def configure(self, settings: GateSettings) -> None:
        """Change the settings while frames flow: hysteresis, saved tokens, counts and the draw go on."""
        self.settings = settings
        self._general.configure(*_general(settings))
        self._audits.configure(settings.audit_share, AUDIT_BURST)

    @property
    def counts(self) -> Mapping[str, int]:
        """Frames since the start: seen, ambiguous, sent (audited, probed, refreshed, later), denied."""
        return dict(self._counts)

    @property
    def saved(self) -> float:
        """How much of `burst` is saved up, 0 to 1."""
        return self._general.fill

    def decide(self, ambiguity: Ambiguity, now_ns: int, blocked: str = '',
               probe_due: bool = False, price: float | None = None) -> GateDecision:
        """
        Judge the next frame; spends a token where it is sent.

        :param now_ns: steady clock, for the rate budget.
        :param blocked: why nothing may be sent now, one of `DENIALS`; empty: nothing is in the way.
        :param probe_due: with `teacher_unavailable`, this frame may be the one that asks whether the teacher
            is back. Any frame will do: on an easy road a teacher that is back would otherwise stay out.
        :param price: with `refresh`, the least score that is worth a token now (`RunningThreshold.price`);
            None: ambiguous frames are, and no others.
        """
        s = self.settings
        self._rate.advance(now_ns)
        self._general.frame()
        self._audits.frame()
        audit = bool(self._random.random() < s.audit_share)
        held = self._update(ambiguity.score)
        reason = HELD if held else ambiguity.reason if self._ambiguous else AUDIT if audit else CLEAR
        self._counts['frames'] += 1
        self._counts['ambiguous'] += self._ambiguous

        worth = not ambiguity.score < price if s.refresh and price is not None else self._ambiguous
        # Where it is not worth a token: kept for a harder one.
        bucket, denied = self._bucket(audit) if audit or worth else (None, SHARE_SPENT)
        wanted, probe = bucket is not None, False
        if blocked:
            bucket, denied = None, blocked
        if probe_due and blocked == TEACHER_OUT:
            bucket, _ = self._bucket(audit=True)
            probe = bucket is not None
        elif bucket is not None and not audit and not self._ambiguous:
            reason = REFRESH
            self._counts['refreshed'] += 1
        if bucket is not None:
            bucket.spend()
            self._rate.spend()
            self._counts['sent'] += 1
        if not (audit or self._ambiguous):
            denied = ''
        if denied:
            self._counts[denied] += 1
        send = bucket is not None
        self._counts['probed'] += probe
        self._counts['audited'] += send and audit and not probe
        return GateDecision(
            send=send, ambiguous=self._ambiguous, audit=audit, probe=probe, held=held, denied=denied,
            wanted=wanted, reason=reason, score=ambiguity.score, contributions=ambiguity.contributions)

    def spend_later(self) -> bool:
        """Pay for a frame that was wanted before; return whether there is a token for it."""
        bucket, _ = self._bucket(audit=False)
        if bucket is None:
            return False
        bucket.spend()
        self._rate.spend()
        self._counts['sent'] += 1
        self._counts['later'] += 1
        return True

    def _update(self, score: float) -> bool:
        """Advance the hysteresis; return whether the frame is ambiguous only because an earlier one was."""
        if score >= self.settings.enter or math.isnan(score):   # a scorer that fails must not say "all clear"
            self._ambiguous, self._calm_frames = True, 0
            return False
        if not self._ambiguous:
            return False
        self._calm_frames = self._calm_frames + 1 if score < self.settings.leave else 0
        if self._calm_frames >= self.settings.leave_frames:
            self._ambiguous, self._calm_frames = False, 0
        return self._ambiguous

    def _bucket(self, audit: bool) -> tuple[ShareBucket | None, str]:
        """Return the bucket that pays for a frame, or None and why none does."""
        if not self._rate.has_token():
            return None, RATE_SPENT
        if audit and self._audits.has_token():
            return self._audits, ''
        # An audit that comes too soon after another may still go like any other frame.
        return (self._general, '') if self._general.has_token() else (None, SHARE_SPENT)


def _general(settings: GateSettings) -> tuple[float, float]:
    # All frames are no more than all frames: there is nothing to keep for audits.
    share = 1.0 if settings.share == 1 else settings.share - settings.audit_share
    return share, settings.burst
