# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Labelled frames of a site into a part to train on and a part to measure on, so that no neighbours leak.

Frames that follow one another look alike: one held out between two that were trained on measures memory.
So whole blocks of consecutive frames are held out, and frames next to a held-out block are left out of both.
"""
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import re

import numpy as np

from kd_perception.errors import EvaluationError

# Between two frames of one sequence the numbers in their names jump by no more than this many usual steps.
_JUMP = 20
_DRAWS = 400
_MIN_BLOCKS = 4
_NUMBER = re.compile(r'\d+$')
DEFAULT_SHARE, DEFAULT_GAP = 0.4, 2
# So long that a block's middle is far from the others, so many that an interval over them means something.
_MOST_BLOCK, _LEAST_BLOCK, _WANTED_BLOCKS = 20, 4, 24


@dataclass(frozen=True)
class SiteSplit:
    """
    The parts, each in name order.

    :ivar train, held_out, left_out: frame names; `left_out` are those beside a held-out block.
    :ivar blocks: {frame name: block number} of every frame. :ivar sequences: how many were told apart.
    :ivar block_frames: the length of a block.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    left_out: tuple[str, ...]
    blocks: dict[str, int]
    sequences: int
    block_frames: int

    @property
    def held_out_blocks(self) -> int:
        """Return the number of blocks that are held out: what intervals are resampled over."""
        return len({self.blocks[name] for name in self.held_out})


def find_sequences(names: Sequence[str]) -> list[list[str]]:
    """
    Group frames that follow one another: names that differ in their last number alone, without a large jump.

    :return: sequences, each in the order of its numbers; a name that ends in no number is one by itself.
    """
    by_stem: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBER.search(name)
        key = name[:match.start()] + '#' if match else name
        by_stem.setdefault(key, []).append((int(match.group()) if match else 0, name))
    found = []
    for _, items in sorted(by_stem.items()):
        items.sort()
        steps = np.diff(np.array([float(number) for number, _ in items]))
        cuts = np.flatnonzero(steps > _JUMP * np.median(steps)) + 1 if len(steps) else []
        found += [[name for _, name in part] for part in _cut(items, cuts)]
    return found


def _cut(items: Sequence, places: Sequence[int]) -> list[Sequence]:
    edges = [0, *(int(place) for place in places), len(items)]
    return [items[low:high] for low, high in zip(edges[:-1], edges[1:])]


def split_site(names: Sequence[str], objects: Mapping[str, Counter], share: float = DEFAULT_SHARE,
               block_frames: int | None = None, gap: int = DEFAULT_GAP, seed: int = 0) -> SiteSplit:
    """
    Hold whole blocks out, chosen so that each class has about the same share of its objects there.

    Only counts of labels choose: nothing that a model says.

    :param objects: {frame name: {class: objects}}. :param share: of the frames to hold out.
    :param block_frames: length of a block; default: 24 blocks or so, of 4 to 20 frames.
    :param gap: so many frames before and behind held-out ones of their sequence are left out of both parts.
    :raises EvaluationError: there are too few frames.
    """
    length = block_frames or int(np.clip(len(names) // _WANTED_BLOCKS, _LEAST_BLOCK, _MOST_BLOCK))
    sequences = find_sequences(names)
    blocks = [block for sequence in sequences
              for block in _cut(sequence, range(length, len(sequence), length))]
    if len(blocks) < _MIN_BLOCKS:
        raise EvaluationError(f'{len(names)} labelled frames make {len(blocks)} blocks of {length}: at least '
                              f'{_MIN_BLOCKS} are needed to train on some and measure on others')
    chosen = _choose(blocks, objects, share, seed)
    held = {name for number, block in enumerate(blocks) if chosen[number] for name in block}
    parts: dict[str, list[str]] = {'train': [], 'held_out': [], 'left_out': []}
    for sequence in sequences:
        measured = np.array([name in held for name in sequence])
        near = np.convolve(measured, np.ones(2 * gap + 1), 'full')[gap:gap + len(sequence)] > 0.5
        for name, own, beside in zip(sequence, measured, near):
            parts['held_out' if own else 'left_out' if beside else 'train'].append(name)
    if not parts['train']:
        raise EvaluationError(f'{len(names)} labelled frames in blocks of {length} leave none to train on; '
                              f'a smaller gap than {gap} or longer blocks are needed')
    return SiteSplit(*(tuple(sorted(part)) for part in parts.values()),
                     {name: number for number, block in enumerate(blocks) for name in block},
                     len(sequences), length)


def _choose(blocks: Sequence[Sequence[str]], objects: Mapping[str, Counter], share: float, seed: int
            ) -> np.ndarray:
    """Return (B,) bool: of many draws the one whose share of frames and of each class's objects fits best."""
    classes = sorted({name for found in objects.values() for name in found})
    counts = np.array([[len(block), *(sum(objects.get(frame, Counter())[name] for frame in block)
                                      for name in classes)] for block in blocks], dtype=float)
    total = counts.sum(axis=0)
    counts, total = counts[:, total > 0], total[total > 0]
    rng = np.random.default_rng(seed)
    wanted = min(max(round(share * len(blocks)), 1), len(blocks) - 1)
    best, error = np.zeros(len(blocks), dtype=bool), np.inf
    for _ in range(_DRAWS):
        draw = np.zeros(len(blocks), dtype=bool)
        draw[rng.permutation(len(blocks))[:wanted]] = True
        found = float((((counts[draw].sum(axis=0) / total) - share) ** 2).sum())
        if found < error:
            best, error = draw, found
    return best
