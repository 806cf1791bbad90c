# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Who rides what: one rule for training, labels of a foreign network, and detection.

COCO and most label sets know a person and a bicycle; KITTI's Cyclist is one box that holds both. A person
rides a machine of which its box, widened downwards, covers a good part, whose middle lies under it, and
whose top lies below its own.
"""

from __future__ import annotations

import numpy as np

from kd_perception.boxes.overlap import box_intersection_over_area

# A rider's box ends at the pedals or above the machine's bottom: widen it downwards by this share.
_REACH = 0.3
# Share of the machine that the widened box covers.
_RIDES = 0.25


def ridden_machines(people_xyxy: np.ndarray, machines_xyxy: np.ndarray, machine_scores: np.ndarray
                    ) -> np.ndarray:
    """
    Return for each person (N,) the index of the machine that it rides, -1 for none.

    :param people_xyxy: (N, 4), machines_xyxy: (M, 4) px of one image. Of several machines that fit, the
        one of the greatest score (M,) counts.
    """
    people, machines = np.asarray(people_xyxy), np.asarray(machines_xyxy)
    if not len(machines) or not len(people):
        return np.full(len(people), -1)
    reach = people.copy()
    reach[:, 3] += _REACH * (reach[:, 3] - reach[:, 1])
    cover = box_intersection_over_area(machines, reach).T
    middle = ((machines[:, 0] + machines[:, 2]) / 2)[None]
    centred = (middle > reach[:, :1]) & (middle < reach[:, 2:3])
    above = machines[None, :, 1] > people[:, 1:2]
    fits = (cover > _RIDES) & centred & above
    best = np.where(fits, np.asarray(machine_scores)[None], -np.inf).argmax(axis=1)
    return np.where(fits.any(axis=1), best, -1)


def joined_boxes(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Return the smallest boxes (N, 4) around the pairs of two sets of boxes (N, 4)."""
    return np.concatenate([np.minimum(a_xyxy[:, :2], b_xyxy[:, :2]),
                           np.maximum(a_xyxy[:, 2:], b_xyxy[:, 2:])], axis=1)
