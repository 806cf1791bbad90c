# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Conditions (day, night, rain, fog) and scene groups of frames: from a YAML file, and from the images.

The file has two lists, both optional::

    conditions:
      - {tag: fog, frames: ['000010..000042', 'dawn_*', '000077']}
      - {tag: night, bag: drive_01, from_s: 12.5, to_s: 60}
    groups:
      - {name: drive_0005, frames: ['000000..000153']}

`frames` holds names, inclusive ranges `first..last` in name order, and patterns with `*` or `?`. A bag
interval counts in seconds from the recording's first image.
"""
from collections.abc import Sequence
from dataclasses import dataclass
import fnmatch
from typing import Optional, TYPE_CHECKING

import numpy as np

from kd_perception.config import from_mapping, load_yaml
from kd_perception.errors import EvaluationError

if TYPE_CHECKING:  # finished detections are evaluated without OpenCV
    from kd_perception.images.scene import SceneSignals

# Automatic tags begin with this, so that they never pass for a person's judgement.
AUTO_PREFIX = 'auto:'
# Mean grey level as measured with `measure_scene`: KITTI drives (day) 80 to 157, traffic cameras at night 26
# to 56; daylight fog of the DAWN set goes up to 209.
DARK_LUMINANCE = 60.0
BRIGHT_LUMINANCE = 160.0
# Variance of the Laplacian: KITTI drives 1,355 and more, traffic cameras at night 318 and more, 95 % of
# DAWN's fog under 270.
LOW_SHARPNESS = 300.0


@dataclass(frozen=True)
class ConditionTag:
    """One tag for named frames, or for an interval of a bag [s from its first image]."""

    tag: str
    frames: tuple[str, ...] = ()
    bag: str | None = None
    from_s: float = 0.0
    to_s: float | None = None

    def __post_init__(self) -> None:
        if not self.tag.strip() or self.tag.startswith(AUTO_PREFIX):
            raise ValueError(f'tag {self.tag!r}: a name that does not begin with {AUTO_PREFIX!r} expected')
        if bool(self.frames) == bool(self.bag):
            raise ValueError(f'tag {self.tag!r}: either frames or a bag expected')
        if self.to_s is not None and self.to_s <= self.from_s:
            raise ValueError(f'tag {self.tag!r}: to_s {self.to_s} is not after from_s {self.from_s}')


@dataclass(frozen=True)
class SceneGroup:
    """Frames of one scene: they resemble one another, and are resampled together."""

    name: str
    frames: tuple[str, ...]


@dataclass(frozen=True)
class FrameInfo:
    """Content of the YAML file."""

    conditions: tuple[ConditionTag, ...] = ()
    groups: tuple[SceneGroup, ...] = ()


def load_frame_info(path: str) -> FrameInfo:
    """Read the YAML file; ConfigError names file and key."""
    return from_mapping(FrameInfo, load_yaml(path), str(path))


def _matching(patterns: Sequence[str], frames: Sequence[str], what: str) -> np.ndarray:
    """(F,) bool: the frames named by ``patterns``; a name or range that fits nothing is an error."""
    chosen = np.zeros(len(frames), dtype=bool)
    names = np.array(frames, dtype=object)
    for pattern in patterns:
        first, dots, last = pattern.partition('..')
        if dots:
            hit = np.array([first <= name <= last for name in frames], dtype=bool)
        elif '*' in pattern or '?' in pattern:
            hit = np.array([fnmatch.fnmatchcase(name, pattern) for name in frames], dtype=bool)
        else:
            hit = names == pattern
        if not hit.any():
            raise EvaluationError(f'{what}: {pattern!r} names no frame of this evaluation')
        chosen |= hit
    return chosen


def condition_masks(info: FrameInfo, frames: Sequence[str], stamps_ns: np.ndarray | None = None,
                    bags: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """
    Return {tag: (F,) bool}.

    :param stamps_ns: (F,) int64 image stamps, for bag intervals.
    :param bags: name of each frame's bag.
    :raises EvaluationError: a tag names no frame, or a bag where there is none of that name.
    """
    masks: dict[str, np.ndarray] = {}
    for item in info.conditions:
        what = f'condition {item.tag!r}'
        if item.frames:
            mask = _matching(item.frames, frames, what)
        else:
            mine = np.array([name == item.bag for name in bags or ()], dtype=bool)
            if stamps_ns is None or not mine.any():
                known = ', '.join(sorted(set(bags or ()))) or 'none'
                raise EvaluationError(f'{what}: no bag {item.bag!r} in this evaluation; bags: {known}')
            seconds = (stamps_ns - stamps_ns[mine].min()) / 1e9
            mask = mine & (seconds >= item.from_s)
            if item.to_s is not None:
                mask &= seconds <= item.to_s
            if not mask.any():
                raise EvaluationError(f'{what}: no frame between {item.from_s} and {item.to_s} s')
        masks[item.tag] = masks.get(item.tag, False) | mask
    return masks


def scene_groups(info: FrameInfo, frames: Sequence[str]) -> np.ndarray | None:
    """
    Return (F,) int64 group numbers, None where the file names no groups; a frame in none is its own group.

    :raises EvaluationError: a frame is in two groups, or a group names no frame.
    """
    if not info.groups:
        return None
    groups = np.full(len(frames), -1, dtype=np.int64)
    for number, item in enumerate(info.groups):
        mask = _matching(item.frames, frames, f'group {item.name!r}')
        twice = np.flatnonzero(mask & (groups >= 0))
        if len(twice):
            raise EvaluationError(f'group {item.name!r}: frame {frames[twice[0]]} is in another group too')
        groups[mask] = number
    alone = groups < 0
    groups[alone] = len(info.groups) + np.arange(alone.sum())
    return np.unique(groups, return_inverse=True)[1].reshape(-1)


def scene_masks(signals: Sequence[Optional['SceneSignals']]) -> dict[str, np.ndarray]:
    """
    Return {condition: (F,) bool} by luminance and sharpness, of every condition that is told apart.

    :param signals: of each frame, None where it has no image: such a frame is in no condition.
    """

    def mask(test) -> np.ndarray:
        return np.array([item is not None and test(item) for item in signals], dtype=bool)

    return {
        'dark': mask(lambda item: item.luminance < DARK_LUMINANCE),
        'bright': mask(lambda item: item.luminance > BRIGHT_LUMINANCE),
        'medium light': mask(lambda item: DARK_LUMINANCE <= item.luminance <= BRIGHT_LUMINANCE),
        'blurred or foggy': mask(lambda item: item.sharpness < LOW_SHARPNESS),
        'sharp': mask(lambda item: item.sharpness >= LOW_SHARPNESS)}


def automatic_tags(signals: Sequence[Optional['SceneSignals']]) -> dict[str, np.ndarray]:
    """Return {tag: (F,) bool} of `scene_masks`; a tag that fits all frames or none is left out."""
    return {AUTO_PREFIX + name: found for name, found in scene_masks(signals).items()
            if found.any() and not found.all()}
