# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Write a detections folder of chosen size from a labels folder, to measure the evaluator's speed.

Usage: python perturb_labels.py LABELS OUT [--per-frame 100] [--frames N] [--seed 0]
"""
import argparse
from pathlib import Path

import numpy as np

from kd_perception.labels.kitti_text import format_objects, KittiObjects, read_label_file


def perturb(labels: KittiObjects, count: int, rng: np.random.Generator) -> KittiObjects:
    """Return ``count`` detections: most labels found, shifted by a few per cent, the rest false alarms."""
    known = [i for i, name in enumerate(labels.types) if name != 'DontCare' and rng.random() < 0.9]
    picks = np.array([i for i in known for _ in range(1 + rng.integers(3))][:count], dtype=np.int64)
    boxes = labels.boxes_xyxy[picks]
    size = np.repeat(boxes[:, 2:] - boxes[:, :2], 2, axis=0).reshape(-1, 4)
    boxes = boxes + rng.normal(0, 0.05, boxes.shape) * size
    far = count - len(picks)
    corner = rng.uniform([0, 100], [1200, 300], (far, 2))
    extent = rng.uniform([10, 10], [200, 150], (far, 2))
    boxes = np.concatenate([boxes, np.concatenate([corner, corner + extent], axis=1)])
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    boxes = np.round(np.concatenate([low, high], axis=1), 2)
    types = [labels.types[i] for i in picks]
    types += [('Car', 'Pedestrian', 'Cyclist')[i] for i in rng.integers(0, 3, far)]
    scores = np.concatenate([rng.beta(4, 2, len(picks)), rng.beta(1.2, 4, far)])
    order = rng.permutation(count)
    return KittiObjects.from_boxes([types[i] for i in order], boxes[order], np.round(scores[order], 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('labels', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--per-frame', type=int, default=100)
    parser.add_argument('--frames', type=int)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    for path in sorted(args.labels.glob('*.txt'))[:args.frames]:
        detections = perturb(read_label_file(path, scores=False), args.per_frame, rng)
        (args.out / path.name).write_text(format_objects(detections), encoding='utf-8')


if __name__ == '__main__':
    main()
