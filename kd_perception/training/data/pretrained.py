# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The pretrained COCO network's view of training images, kept on disk between runs."""

from __future__ import annotations

from collections.abc import Iterable
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kd_perception.boxes.detections import Detections
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.files import write_whole
from kd_perception.models.spec import ThresholdSpec
from kd_perception.training.data.datasets import LabelledImage
from kd_perception.training.data.targets import BICYCLE, BUS, CAR, MOTORCYCLE, PERSON, TRUCK
from kd_perception.training.networks.picodet import PicoDet, SIZE_STEP_PX
from kd_perception.training.networks.picodet_onnx import COCO_CLASSES
from kd_perception.training.networks.torch_detector import detection_spec, torch_detector

_KEPT_CLASSES = (PERSON, BICYCLE, CAR, MOTORCYCLE, BUS, TRUCK)
_LOWEST_SCORE = 0.1
_MAX_CACHE_BYTES = 256 << 20


class PretrainedView:
    """
    Detections of the untouched 80-class network, computed once for each image.

    :param network: 80-class PicoDet.
    :param cache: JSON file; unreadable or stale entries are computed again.
    :param scale: how many times larger than in training the network sees the images.
    """

    def __init__(self, network: PicoDet, cache: Path, scale: float = 1.0):
        self.network, self.cache, self.scale = network, cache, scale
        self._detectors: dict[tuple[int, int], OnnxDetector] = {}
        self._known: dict[str, list] = self._read()

    def __call__(self, image: LabelledImage) -> Detections:
        """Return the road users and vehicles seen in an image: 80-class ids, px of the image."""
        rows = np.array(self._known[self._key(image)], np.float64).reshape(-1, 6)
        return Detections(rows[:, 2:], rows[:, 1], rows[:, 0])

    def prepare(self, images: Iterable[LabelledImage]) -> None:
        """Detect in all images that are not known yet, and store the result."""
        missing = [image for image in images if self._key(image) not in self._known]
        for image in tqdm(missing, desc='pretrained view', unit='image', disable=not missing):
            self._known[self._key(image)] = self._detect(image)
        if missing:
            write_whole(self.cache, json.dumps(self._known))

    def _width_range_px(self, image: LabelledImage) -> tuple[int, int]:
        low, high = image.dataset.width_px
        return round(low * self.scale), round(high * self.scale)

    def _key(self, image: LabelledImage) -> str:
        low, high = self._width_range_px(image)
        return f'{image.dataset.folder}/{image.name}@{low}-{high}'

    def _read(self) -> dict[str, list]:
        if not self.cache.is_file():
            return {}
        if self.cache.stat().st_size > _MAX_CACHE_BYTES:
            raise TrainingError(f'{self.cache}: larger than {_MAX_CACHE_BYTES} bytes')
        try:
            known = json.loads(self.cache.read_text(encoding='utf-8'))
        except ValueError:
            return {}
        return known if isinstance(known, dict) else {}

    def _detect(self, image: LabelledImage) -> list[list[float]]:
        pixels = image.read()
        # The middle of the sizes that training shows the image at, times the scale.
        width = float(np.sqrt(np.prod(np.array(self._width_range_px(image), np.float64))))
        height = width * pixels.shape[0] / pixels.shape[1]
        size = tuple(max(SIZE_STEP_PX, round(side / SIZE_STEP_PX) * SIZE_STEP_PX) for side in (height, width))
        if size not in self._detectors:
            spec = detection_spec('pretrained', tuple(f'coco_{i}' for i in range(COCO_CLASSES)), size,
                                  self.network, ThresholdSpec(score=_LOWEST_SCORE, score_low=_LOWEST_SCORE,
                                                              nms_iou=0.6, max_detections=300))
            self._detectors[size] = torch_detector(self.network, spec)
        found = self._detectors[size].detect(pixels).detections
        found = found.select(np.isin(found.class_ids, _KEPT_CLASSES))
        return [[int(c), round(float(s), 4), *(round(float(v), 2) for v in box)]
                for c, s, box in zip(found.class_ids, found.scores, found.boxes_xyxy)]
