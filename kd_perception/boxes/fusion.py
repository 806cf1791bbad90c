# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Several detectors' boxes of one image, fused into one set: weighted boxes fusion.

Solovyev, Wang, Gabruseva, 'Weighted boxes fusion: Ensembling boxes from different object detection
models', Image and Vision Computing 2021, section 3. Their package (`ensemble-boxes`) needs numba
and pandas, some 100 MB, for the loop below.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_iou

FUSION_IOU = 0.55   # the paper's


@dataclasses.dataclass(frozen=True, eq=False)
class FusedDetections:
    """
    Fused boxes, strongest first.

    :param votes: (N,) int64: how many members found each.
    """

    detections: Detections
    votes: np.ndarray


@dataclasses.dataclass
class _Cluster:
    """Boxes of one object so far."""

    boxes: list[np.ndarray]
    weights: list[float]    # of the members times their scores
    members: dict[int, float]   # best weight by member
    mean: np.ndarray

    def add(self, box: np.ndarray, weight: float, member: int) -> None:
        self.boxes.append(box)
        self.weights.append(weight)
        self.members[member] = max(weight, self.members.get(member, 0.0))
        self.mean = np.average(self.boxes, axis=0, weights=self.weights)


def weighted_boxes_fusion(members: Sequence[Detections], weights: np.ndarray, iou: float = FUSION_IOU
                          ) -> FusedDetections:
    """
    Fuse what several detectors found in one image.

    Boxes of a class join, strongest first, the cluster whose mean box overlaps them most; a
    cluster's box is the mean of its members' boxes, by score. Its score is the mean over all
    members that know the class, one that found nothing counting 0: 0.5 means that they are half
    sure on the whole. A member counts once in a cluster, with its best score.

    :param members: each one's detections, class ids of one list of labels, calibrated scores.
    :param weights: (M, C) weight of each member for each class; 0: it does not know the class, what
        it says of it is left out.
    :param iou: from which a box joins a cluster.
    """
    weights = np.asarray(weights, np.float64)
    boxes, scores, ids, votes = [], [], [], []
    for class_id in range(weights.shape[1]):
        total = weights[:, class_id].sum()
        for cluster in _clusters(members, weights[:, class_id], class_id, iou):
            boxes.append(cluster.mean)
            scores.append(sum(cluster.members.values()) / total)
            ids.append(class_id)
            votes.append(len(cluster.members))
    order = np.argsort(-np.array(scores), kind='stable')
    found = Detections(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(ids, np.int64))
    return FusedDetections(found.select(order), np.array(votes, np.int64)[order])


def _clusters(members: Sequence[Detections], weights: np.ndarray, class_id: int, iou: float
              ) -> list[_Cluster]:
    found = [(float(score) * weights[number], np.asarray(box, np.float64), number)
             for number, each in enumerate(members) if weights[number] > 0
             for box, score in zip(each.boxes_xyxy[each.class_ids == class_id],
                                   each.scores[each.class_ids == class_id]) if score > 0]
    clusters: list[_Cluster] = []
    for weight, box, member in sorted(found, key=lambda entry: -entry[0]):
        overlaps = box_iou(box[None], np.array([c.mean for c in clusters]))[0] if clusters else np.zeros(0)
        if len(overlaps) and overlaps.max() >= iou:
            clusters[int(overlaps.argmax())].add(box, weight, member)
        else:
            clusters.append(_Cluster([box], [weight], {member: weight}, box))
    return clusters
