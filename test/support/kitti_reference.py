# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The KITTI matching written down object by object: slow, and plain enough to be checked by eye."""
import numpy as np

MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
NEIGHBOURS = {'car': 'van', 'pedestrian': 'person_sitting'}


def overlap(a, b, of_a=False):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area_a if of_a else area_a + area_b - width * height)


def states(labels, detections, name, level):
    truth = []
    for i, kind in enumerate(labels.types):
        kind = kind.lower()
        box = labels.boxes_xyxy[i]
        outside = (labels.occlusion[i] > MAX_OCCLUSION[level] or labels.truncation[i] > MAX_TRUNCATION[level]
                   or box[3] - box[1] <= MIN_HEIGHT[level])
        if kind == name:
            truth.append(1 if outside else 0)
        else:
            truth.append(1 if NEIGHBOURS.get(name) == kind else -1)
    found = []
    for i, kind in enumerate(detections.types):
        box = detections.boxes_xyxy[i]
        small = int(abs(box[1] - box[3])) < MIN_HEIGHT[level]
        found.append(1 if small else 0 if kind.lower() == name else -1)
    return truth, found


def count_frame(labels, detections, name, level, min_iou, threshold=None):
    """Return (scores of true positives, true positives, false positives); no threshold: the first pass."""
    truth, found = states(labels, detections, name, level)
    free = [True] * len(found)
    able = [state >= 0 and (threshold is None or detections.scores[j] >= threshold)
            for j, state in enumerate(found)]
    scores = []
    for i, state in enumerate(truth):
        if state < 0:
            continue
        candidates = [(j, overlap(detections.boxes_xyxy[j], labels.boxes_xyxy[i]))
                      for j in range(len(found)) if able[j] and free[j]]
        candidates = [(j, iou) for j, iou in candidates if iou > min_iou]
        if threshold is None:
            candidates = [(j, detections.scores[j]) for j, _ in candidates if detections.scores[j] > -1e7]
        elif any(found[j] == 0 for j, _ in candidates):
            candidates = [(j, iou) for j, iou in candidates if found[j] == 0]
        else:
            candidates = [(j, 0) for j, _ in candidates]
        if not candidates:
            continue
        best = max(candidates, key=lambda item: item[1])[0]
        free[best] = False
        if state == 0 and found[best] == 0:
            scores.append(detections.scores[best])
    alarms = [j for j in range(len(found)) if able[j] and free[j] and found[j] == 0]
    regions = [labels.boxes_xyxy[i] for i, kind in enumerate(labels.types) if kind.lower() == 'dontcare']
    alarms = [j for j in alarms
              if not any(overlap(detections.boxes_xyxy[j], region, True) > min_iou for region in regions)]
    return scores, len(scores), len(alarms)


def precision_points(frames, name, level, min_iou):
    """Return the 41 precision points of frames (labels, detections), as a list."""
    scores = [score for labels, detections in frames
              for score in count_frame(labels, detections, name, level, min_iou)[0]]
    total = sum(states(labels, detections, name, level)[0].count(0) for labels, detections in frames)
    scores.sort(reverse=True)
    thresholds, recall = [], 0.0
    for i, score in enumerate(scores):
        last = i == len(scores) - 1
        left = (i + 1) / total
        right = left if last else (i + 2) / total
        if right - recall < recall - left and not last:
            continue
        thresholds.append(score)
        recall += 1 / 40.0
    raw = []
    for threshold in thresholds:
        counts = np.sum([count_frame(labels, detections, name, level, min_iou, threshold)[1:]
                         for labels, detections in frames], axis=0)
        raw.append(counts[0] / counts.sum() if counts.sum() else float('nan'))
    points = [0.0] * 41
    for i, value in enumerate(raw):
        points[i] = value if np.isnan(value) else max(other for other in raw[i:] if not np.isnan(other))
    return points
