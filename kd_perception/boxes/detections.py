# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The result of a detector on one image."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """
    Zero or more detections of one image, as parallel arrays.

    :param boxes_xyxy: (N, 4) float32, px of the image that they belong to.
    :param scores: (N,) float32 confidence in [0, 1].
    :param class_ids: (N,) int64 index into the model's labels.
    :raises ValueError: shapes disagree or a value is not finite.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray

    def __post_init__(self):
        """Normalise dtypes and check shapes once, so that no consumer has to."""
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float32)
        scores = np.asarray(self.scores, dtype=np.float32)
        class_ids = np.asarray(self.class_ids, dtype=np.int64)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        count = len(boxes)
        if boxes.shape != (count, 4) or scores.shape != (count,) or class_ids.shape != (count,):
            raise ValueError(
                f'boxes {boxes.shape}, scores {scores.shape} and class ids {class_ids.shape} disagree: '
                'expected (N, 4), (N,), (N,)')
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError('boxes and scores must be finite')
        object.__setattr__(self, 'boxes_xyxy', boxes)
        object.__setattr__(self, 'scores', scores)
        object.__setattr__(self, 'class_ids', class_ids)

    @classmethod
    def empty(cls) -> Detections:
        """No detection: an ordinary value."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros(0))

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """All detections of `parts`, in order; empty when there is none."""
        if not parts:
            return cls.empty()
        return cls(np.concatenate([p.boxes_xyxy for p in parts]), np.concatenate([p.scores for p in parts]),
                   np.concatenate([p.class_ids for p in parts]))

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.scores)

    def select(self, index: np.ndarray | slice) -> Detections:
        """Detections at `index`: integer indices, a boolean mask (N,) or a slice."""
        return Detections(self.boxes_xyxy[index], self.scores[index], self.class_ids[index])

    def above(self, threshold: float) -> Detections:
        """Detections with a score of at least `threshold`."""
        return self.select(self.scores >= threshold)

    def by_score(self) -> Detections:
        """Detections in descending score; equal scores keep their order."""
        return self.select(np.argsort(-self.scores, kind='stable'))
