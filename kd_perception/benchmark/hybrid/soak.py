# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a long run of the hybrid shows: which results were answered, how late, and what a process grew by.

Everything is told by stamps and times of arrival, as a consumer of the topics sees them. Free of ROS; reads
no clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
import dataclasses

import numpy as np

# A dying process may have handed its last result to one reader and not yet to the other.
LAST_WORDS_NS = 1_000_000_000
PERCENTILES = (50, 95, 99)


@dataclasses.dataclass(frozen=True)
class Seen:
    """
    A message that arrived.

    :param stamp_ns: of the image. :param arrival_ns: at the consumer, by the wall clock.
    """

    stamp_ns: int
    arrival_ns: int


@dataclasses.dataclass(frozen=True)
class Told:
    """
    What the provenance says of one verified message.

    :param waited_ns: from the student's result to the output, by the fallback's own clock.
    """

    stamp_ns: int
    arrival_ns: int
    source: str
    waited_ns: int
    deadline_met: bool
    unverified: str = ''


@dataclasses.dataclass(frozen=True)
class Matching:
    """
    Which verified message answers which result; numbers are places in the sequences that were matched.

    :param pairs: (result, verified). :param lost: results without an answer.
    :param doubled: further verified messages for a result that has its answer.
    :param unseen: answers to an image that was published, but whose result was not seen here.
    :param invented: verified messages whose stamp no image had.
    :param out_of_order: answers that came after the answer to a later result.
    """

    pairs: tuple[tuple[int, int], ...]
    lost: tuple[int, ...]
    doubled: tuple[int, ...]
    unseen: tuple[int, ...]
    invented: tuple[int, ...]
    out_of_order: int


def match(results: Sequence[Seen], verified: Sequence[Seen], published: Collection[int]) -> Matching:
    """
    Match one camera's messages by their stamps, both in the order of arrival.

    Of results with one stamp the first is answered first. :param published: stamps of all images [ns].
    """
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for i, result in enumerate(results):
        waiting[result.stamp_ns].append(i)
    answered = Counter()
    pairs, doubled, unseen, invented = [], [], [], []
    for j, message in enumerate(verified):
        stamp_ns = message.stamp_ns
        answered[stamp_ns] += 1
        if waiting.get(stamp_ns):
            pairs.append((waiting[stamp_ns].popleft(), j))
        elif answered[stamp_ns] > 1:
            doubled.append(j)
        elif stamp_ns in published:
            unseen.append(j)
        else:
            invented.append(j)
    latest, out_of_order = -1, 0
    for i, _ in pairs:
        out_of_order += i < latest
        latest = max(latest, i)
    return Matching(tuple(pairs), tuple(sorted(i for left in waiting.values() for i in left)),
                    tuple(doubled), tuple(unseen), tuple(invented), out_of_order)


def excusable(results: Sequence[Seen], matching: Matching, births: Sequence[int], deaths: Sequence[int]
              ) -> tuple[int, ...]:
    """
    Return those of the lost results that may never have reached the fallback.

    A student that is killed may have sent its last results to one reader only; one that has just begun may
    have met this consumer before it met the fallback. That it was so is for the fallback's counts to prove.

    :param births, deaths: when a student was started and killed during the run [ns, wall clock].
    """
    excused = []
    answered_ns = sorted(results[i].arrival_ns for i, _ in matching.pairs)
    for i in matching.lost:
        arrival_ns = results[i].arrival_ns
        if any(0 <= death_ns - arrival_ns <= LAST_WORDS_NS for death_ns in deaths):
            excused.append(i)
            continue
        births_before = [birth_ns for birth_ns in births if birth_ns <= arrival_ns]
        if births_before:
            place = np.searchsorted(answered_ns, arrival_ns, side='right')
            if not place or answered_ns[place - 1] < max(births_before):
                excused.append(i)
    return tuple(excused)


@dataclasses.dataclass(frozen=True)
class Lateness:
    """
    How outputs stood to their deadline.

    :param worst_ns: the furthest behind it, 0 where all were in time. :param beyond: more than the tolerance
        behind it.
    """

    count: int
    met: int
    beyond: int
    worst_ns: int


def lateness(waits_ns: Iterable[int], deadline_ns: int, tolerance_ns: int) -> Lateness:
    """Judge waits, each from a result to its answer [ns]."""
    waits = np.fromiter(waits_ns, np.int64)
    late = np.maximum(waits - deadline_ns, 0)
    return Lateness(len(late), int((late == 0).sum()), int((late > tolerance_ns).sum()),
                    int(late.max()) if len(late) else 0)


def percentiles_ms(values_ns: Iterable[int]) -> dict[str, float]:
    """Return `count`, and p50, p95, p99 and max in ms; the latter are missing where there is no value."""
    values = np.fromiter(values_ns, np.float64) / 1e6
    if not len(values):
        return {'count': 0}
    found = np.percentile(values, PERCENTILES)
    return {'count': len(values), **{f'p{p}': round(float(v), 3) for p, v in zip(PERCENTILES, found)},
            'max': round(float(values.max()), 3)}


def growth(lives: Iterable[Sequence[tuple[float, float]]], warm_up_s: float) -> float | None:
    """
    Return the slope of a line through what a process took, one slope for all its lives.

    A process that was killed and started again begins at its own height: each life has its own intercept.

    :param lives: (time [s], amount) of each life.
    :param warm_up_s: at a life's begin, left out; a life that goes on for less than half of it says nothing.
    :return: amount per second; None where no life is long enough for a slope.
    """
    numerator = denominator = 0.0
    for life in lives:
        if not life:
            continue
        kept = np.array([(t, a) for t, a in life if t >= life[0][0] + warm_up_s], np.float64)
        if len(kept) < 3 or kept[-1, 0] - kept[0, 0] < warm_up_s / 2:
            continue
        t, amount = (kept - kept.mean(axis=0)).T
        numerator += float(t @ amount)
        denominator += float(t @ t)
    return numerator / denominator if denominator > 0 else None


def shares(sources: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return {source: {count, share}}, the most frequent first."""
    counts = Counter(sources)
    total = counts.total() if hasattr(counts, 'total') else sum(counts.values())
    return {source: {'count': count, 'share': round(count / total, 4)}
            for source, count in counts.most_common()}


def spans(reports: Sequence[tuple[float, str]], end_s: float) -> list[tuple[float, float, str]]:
    """
    Turn states that were reported now and then into [(begin [s], end [s], state)] without a gap.

    :param reports: (time [s], state), in order. :param end_s: when the last one ends.
    """
    merged: list[tuple[float, str]] = []
    for at_s, state in reports:
        if not merged or merged[-1][1] != state:
            merged.append((at_s, state))
    ends = [at_s for at_s, _ in merged[1:]] + [max([end_s, *(at_s for at_s, _ in merged)])]
    return [(begin, end, state) for (begin, state), end in zip(merged, ends)]


@dataclasses.dataclass(frozen=True)
class Balance:
    """
    One camera's account.

    :param lost: results that went without an answer and should have had one.
    :param unreached: results that never reached the fallback, as its own counts prove.
    :param proof: why `unreached` was not granted; empty where it was, or nothing had to be.
    """

    results: int
    verified: int
    lost: int
    unreached: int
    doubled: int
    unseen: int
    invented: int
    out_of_order: int
    proof: str = ''


def balance(results: Sequence[Seen], verified: Sequence[Seen], published: Collection[int],
            births: Sequence[int], deaths: Sequence[int], counts: Mapping[str, int], heard: int) -> Balance:
    """
    Draw up one camera's account.

    :param births, deaths: of students, see `excusable`.
    :param counts: the fallback's totals since its start: `arbiter.students`, `arbiter.outputs`.
    :param heard: verified messages that arrived here since the fallback's start.
    """
    matching = match(results, verified, published)
    excused = len(excusable(results, matching, births, deaths))
    students, outputs = counts.get('arbiter.students'), counts.get('arbiter.outputs')
    proof = ''
    if excused and (students is None or students != outputs):
        proof = f'the fallback took {students} results and gave {outputs} answers'
    elif excused and heard != outputs:
        proof = f'the fallback gave {outputs} answers, {heard} arrived'
    unreached = 0 if proof else excused
    return Balance(len(results), len(verified), len(matching.lost) - unreached, unreached,
                   len(matching.doubled), len(matching.unseen), len(matching.invented),
                   matching.out_of_order, proof)
