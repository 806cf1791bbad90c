# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Anchors for YOLOv2 by k-means on the boxes of a data set.

Redmon and Farhadi, 'YOLO9000', CVPR 2017, section 2 (dimension clusters): the distance of a box from a
centroid is 1 - IoU, both placed on one corner, so that large boxes do not outweigh small ones.

    python -m kd_perception.training.anchors --data DATA --folder kitti_object --split train \\
        --input 1248x384 --classes Car Pedestrian Cyclist --count 5
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

import numpy as np

from kd_perception.detection.letterbox import Letterbox
from kd_perception.errors import KdPerceptionError, TrainingError
from kd_perception.training.data.datasets import LabelledImage, load_dataset
from kd_perception.training.settings.run import DatasetSettings

_MAX_ROUNDS = 300


def size_iou(sizes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """IoU (N, K) of boxes (N, 2) and (K, 2), width and height, that share a corner."""
    overlap = np.minimum(sizes[:, None], centroids[None]).prod(axis=2)
    return overlap / (sizes.prod(axis=1)[:, None] + centroids.prod(axis=1)[None] - overlap)


def mean_best_iou(sizes: np.ndarray, centroids: np.ndarray) -> float:
    """Average over the boxes of the IoU with their best centroid: the paper's measure of a set of anchors."""
    return float(size_iou(sizes, centroids).max(axis=1).mean())


def cluster_anchors(sizes_px: np.ndarray, count: int, seed: int = 0, restarts: int = 10) -> np.ndarray:
    """
    Cluster box sizes.

    :param sizes_px: (N, 2) float, positive width and height in px of the model's input.
    :param count: number of anchors, at most the number of different sizes.
    :param restarts: the best of this many seeded runs is kept.
    :return: (count, 2) float64, smallest area first.
    :raises TrainingError: too few sizes, or one that is not positive.
    """
    sizes = np.asarray(sizes_px, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise TrainingError('anchors: box sizes must be positive')
    distinct = len(np.unique(sizes, axis=0))
    if not 1 <= count <= distinct:
        raise TrainingError(f'anchors: expected 1 to {distinct} (the number of different boxes), got {count}')
    runs = [_cluster(sizes, count, np.random.default_rng([seed, i])) for i in range(restarts)]
    best = max(runs, key=lambda centroids: mean_best_iou(sizes, centroids))
    return best[np.argsort(best.prod(axis=1), kind='stable')]


def _cluster(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's rounds with k-means++ seeding (Arthur and Vassilvitskii, 2007), distance 1 - IoU."""
    centroids = sizes[[rng.integers(len(sizes))]]
    while len(centroids) < count:
        distance = 1 - size_iou(sizes, centroids).max(axis=1)
        distance = np.where(distance > 1e-12, distance, 0)
        centroids = np.vstack([centroids, sizes[rng.choice(len(sizes), p=distance / distance.sum())]])
    owner = None
    for _ in range(_MAX_ROUNDS):
        new_owner = size_iou(sizes, centroids).argmax(axis=1)
        if owner is not None and np.array_equal(owner, new_owner):
            break
        owner = new_owner
        # The mean is not the best centre under 1 - IoU, but the one that Darknet takes; a cluster that
        # lost all its boxes stays where it is.
        centroids = np.array([sizes[owner == i].mean(axis=0) if (owner == i).any() else centroids[i]
                              for i in range(count)])
    return centroids


def label_sizes(images: Sequence[LabelledImage], input_hw: tuple[int, int],
                classes: Sequence[str]) -> np.ndarray:
    """
    Collect the sizes of the labelled boxes as the network would see them, letterboxed.

    :return: (N, 2) width and height, px of the input.
    :raises TrainingError: an image cannot be decoded.
    """
    sizes = [np.zeros((0, 2))]
    for image in images:
        boxes = image.objects.boxes_xyxy[np.isin(np.array(image.objects.types, dtype=object), list(classes))]
        if len(boxes):
            boxes = Letterbox.fit(image.read().shape[:2], input_hw).to_model(boxes)
            sizes.append(boxes[:, 2:] - boxes[:, :2])
    return np.concatenate(sizes)


def main(argv: Sequence[str] | None = None) -> int:
    """Print anchors as YAML; exit code 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(prog='python -m kd_perception.training.anchors',
                                     description='YOLOv2 anchors by k-means, printed as YAML.')
    parser.add_argument('--data', type=Path, required=True, help='folder that holds the data sets')
    parser.add_argument('--folder', required=True, help='the data set: a folder with images/ and label_2/')
    parser.add_argument('--split', default='all', help='a key of splits.json under that folder, or all')
    parser.add_argument('--input', default='1248x384', help='WIDTHxHEIGHT px of the model input')
    parser.add_argument('--classes', nargs='+', default=['Car', 'Pedestrian', 'Cyclist'])
    parser.add_argument('--count', type=int, default=5, help='number of anchors')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    try:
        width, _, height = args.input.partition('x')
        if not (width.isdigit() and height.isdigit()):
            raise TrainingError(f'--input {args.input!r}: expected WIDTHxHEIGHT, for example 1248x384')
        images, _ = load_dataset(args.data, DatasetSettings(args.folder, (1, 1), split=args.split))
        sizes = label_sizes(images, (int(height), int(width)), args.classes)
        anchors = cluster_anchors(sizes, args.count, args.seed)
    except KdPerceptionError as error:
        print(f'anchors: error: {error}', file=sys.stderr)
        return 2
    pairs = ', '.join(f'[{w:.1f}, {h:.1f}]' for w, h in anchors)
    print(f'anchors_px: [{pairs}]  # {len(sizes)} boxes, mean best IoU {mean_best_iou(sizes, anchors):.3f}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
