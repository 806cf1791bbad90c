# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""COCO average precision, computed by pycocotools (Lin et al., ECCV 2014)."""
from collections.abc import Sequence
import contextlib
import io

import numpy as np

from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, DONT_CARE
from kd_perception.labels.object_table import ObjectTable

# Order of COCOeval.stats.
METRICS = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large', 'ar_1', 'ar_10', 'ar_100', 'ar_small',
           'ar_medium', 'ar_large')


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def coco_ap(labels: ObjectTable, detections: ObjectTable,
            classes: Sequence[ClassProtocol]) -> dict[str, dict[str, float | None]]:
    """
    Return {class: {metric: percent}} over all labelled objects of each class, and `mean` over the classes.

    KITTI's neighbours and DontCare regions become COCO crowd regions: they may match any number of
    detections, and count for nothing. Occlusion and truncation play no part. None: nothing to compute.

    :raises ImportError: pycocotools is not installed.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    results: dict[str, dict[str, float | None]] = {}
    for protocol in classes:
        own = labels.is_type([protocol.name])
        rows = np.flatnonzero(own | labels.is_type([*protocol.neighbours, DONT_CARE]))
        found = np.flatnonzero(detections.is_type([protocol.name]))
        if not own.any() or not len(found):
            results[protocol.name] = dict.fromkeys(METRICS)
            continue
        boxes, found_boxes = _xywh(labels.boxes_xyxy[rows]), _xywh(detections.boxes_xyxy[found])
        images, found_images = labels.frame_ids[rows], detections.frame_ids[found]
        truth = COCO()
        truth.dataset = {
            'images': [{'id': i} for i in range(len(labels.frames))],
            'categories': [{'id': 1, 'name': protocol.name}],
            'annotations': [
                {'id': i + 1, 'image_id': int(image), 'category_id': 1, 'bbox': box.tolist(),
                 'area': float(box[2] * box[3]), 'iscrowd': int(not mine)}
                for i, (image, box, mine) in enumerate(zip(images, boxes, own[rows]))]}
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            truth.createIndex()
            predicted = truth.loadRes(np.column_stack([
                found_images, found_boxes, detections.scores[found], np.ones(len(found))]))
            evaluation = COCOeval(truth, predicted, 'bbox')
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        results[protocol.name] = {name: None if value < 0 else 100.0 * float(value)
                                  for name, value in zip(METRICS, evaluation.stats)}
    results['mean'] = {}
    for name in METRICS:
        figures = [item.get(name) for item in results.values()]
        values = [figure for figure in figures if figure is not None]
        results['mean'][name] = float(np.mean(values)) if values else None
    return results
