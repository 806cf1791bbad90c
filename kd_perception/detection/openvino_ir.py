# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Detectors in OpenVINO's intermediate representation, as Intel's Open Model Zoo publishes them: image
in, boxes out.

An IR file says neither which classes it knows nor how it wants its input, so the caller does. Two
outputs are understood, told apart by their shapes:

- `DetectionOutput` (1, 1, N, 7): image, class, score, corners as shares of the input; the first
  image of -1 ends it;
- boxes (N, 5), corners in px of the input and score, beside class ids (N,).

The input is (1, 3, H, W), float, BGR, 0 to 255: normalisation is part of these graphs. They are
fully convolutional, so each image is run at its own aspect.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
import hashlib
from pathlib import Path

import cv2
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_area, clip_boxes
from kd_perception.detection.openvino_runtime import OpenVinoModel, OpenVinoSession
from kd_perception.errors import ModelError
from kd_perception.models.model_bytes import read_model

SIZE_STEP_PX = 32
_KEPT_SESSIONS = 8


class IrDetector:
    """
    A detector of an IR file.

    :param path: of the XML; the weights lie beside it, with the suffix `.bin`.
    :param labels: the caller's classes; `classes`: the model's class number -> one of them. Others
        are left out.
    :param longest_px: the longer side of what the network sees.
    :param threads: of OpenVINO.
    :raises ModelError: a file is missing or of another kind; OpenVINO is not installed.
    """

    def __init__(self, path: Path, labels: Sequence[str], classes: Mapping[int, str], longest_px: int = 1280,
                 threads: int = 1):
        unknown = set(classes.values()) - set(labels)
        if unknown:
            raise ModelError(f'{path}: {sorted(unknown)} are not among the labels {list(labels)}')
        content, _ = read_model(path)
        weights, _ = read_model(path.with_suffix('.bin'))
        self.path, self.labels, self.longest_px, self.threads = path, tuple(labels), longest_px, threads
        self.sha256 = hashlib.sha256(content + weights).hexdigest()
        self._ids = {number: self.labels.index(name) for number, name in classes.items()}
        self._model = OpenVinoModel(content, path, weights)
        self._input, self._outputs = self._check()
        self._sessions: OrderedDict[tuple[int, int], OpenVinoSession] = OrderedDict()

    def detect(self, image_bgr: np.ndarray, score_threshold: float) -> Detections:
        """
        Detect objects in one image.

        :param image_bgr: (H, W, 3) uint8.
        :return: in px of the image, cut at its borders, strongest first.
        """
        size_hw = input_size(image_bgr.shape[:2], self.longest_px)
        shrinks = size_hw[1] < image_bgr.shape[1]
        resized = cv2.resize(image_bgr, size_hw[::-1],
                             interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        tensor = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], dtype=np.float32)
        outputs = self._session(size_hw).run(list(self._outputs), {self._input: tensor})
        numbers, scores, corners = _rows(outputs)
        chosen = np.isin(numbers, list(self._ids)) & (scores >= score_threshold)
        numbers, scores, corners = numbers[chosen], scores[chosen], corners[chosen]
        scale = np.array(image_bgr.shape[1::-1] * 2, np.float64)
        if len(outputs) == 2:   # px of the input
            corners = corners / np.array(size_hw[::-1] * 2)
        boxes = clip_boxes(corners * scale, image_bgr.shape[:2])
        inside = box_area(boxes) > 0
        ids = np.array([self._ids[int(number)] for number in numbers], np.int64)
        return Detections(boxes, np.clip(scores, 0, 1), ids).select(inside).by_score()

    def _session(self, size_hw: tuple[int, int]) -> OpenVinoSession:
        if size_hw not in self._sessions:
            if len(self._sessions) >= _KEPT_SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[size_hw] = self._model.compile(self.threads, {self._input: (1, 3, *size_hw)})
        self._sessions.move_to_end(size_hw)
        return self._sessions[size_hw]

    def _check(self) -> tuple[str, tuple[str, ...]]:
        """Return the names of the input and of the outputs, after a look at their shapes."""
        inputs, outputs = self._model.inputs, self._model.outputs
        if len(inputs) != 1 or (next(iter(inputs.values())) + (None,) * 4)[:2] != (1, 3):
            raise ModelError(f'{self.path}: has inputs {inputs}, expected one image [1, 3, height, width]')
        shapes = list(outputs.values())
        if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][3] == 7:
            return next(iter(inputs)), tuple(outputs)
        boxes = [name for name, shape in outputs.items() if len(shape) == 2 and shape[1] == 5]
        classes = [name for name, shape in outputs.items() if len(shape) == 1]
        if len(shapes) == 2 and boxes and classes:
            return next(iter(inputs)), (boxes[0], classes[0])
        raise ModelError(f'{self.path}: has outputs {outputs}, expected detections [1, 1, any, 7], or boxes '
                         '[any, 5] and classes [any]')


def input_size(image_hw: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """Return the network's (height, width) for an image: its aspect, multiples of `SIZE_STEP_PX`."""
    scale = longest_px / max(image_hw)
    height, width = (max(1, round(side * scale / SIZE_STEP_PX)) * SIZE_STEP_PX for side in image_hw)
    return height, width


def _rows(outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return class numbers (N,), scores (N,) and corners (N, 4) of one image."""
    if len(outputs) == 2:
        boxes, numbers = outputs[0].astype(np.float64), outputs[1].astype(np.int64)
        return numbers, boxes[:, 4], boxes[:, :4]
    rows = outputs[0].reshape(-1, 7).astype(np.float64)
    ended = np.flatnonzero(rows[:, 0] < 0)
    rows = rows[:ended[0]] if len(ended) else rows
    return rows[:, 1].astype(np.int64), rows[:, 2], rows[:, 3:]
