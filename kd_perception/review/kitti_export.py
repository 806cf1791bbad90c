# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Hard frames as a data folder for training: images/ and label_2/, labelled as `pseudo-label` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.errors import ConfigError
from kd_perception.files import write_whole
from kd_perception.labels.kitti_text import format_objects, KittiObjects
from kd_perception.labels.label_merge import (
    DEFAULT_SCORE,
    DEFAULT_SCORES,
    DEFAULT_UNCERTAIN,
    merge_labels,
    Merged,
    Thresholds,
)
from kd_perception.output_folder import cannot_be_written, OutputFolder
from kd_perception.recording.recorded import Boxes, RecordedFrame, RecordedImage


def propose_labels(boxes: Boxes, image_hw: tuple[int, int]) -> Merged:
    """Return a frame's labels as `pseudo-label` would write them with its default scores."""
    labels = tuple(dict.fromkeys(boxes.names))
    thresholds = Thresholds({label: DEFAULT_SCORES.get(label, DEFAULT_SCORE) for label in labels},
                            DEFAULT_UNCERTAIN)
    ids = np.array([labels.index(name) for name in boxes.names], np.int64)
    found = Detections(boxes.boxes_xyxy, boxes.scores, ids)
    return merge_labels(KittiObjects.empty(), frozenset(), found, labels, thresholds, image_hw)


def image_file(image: RecordedImage, pixels: np.ndarray) -> tuple[bytes, str]:
    """Return (data, suffix) of an image as a file: a compressed one byte for byte, a raw one as PNG."""
    return image.encoded() or (cv2.imencode('.png', pixels)[1].tobytes(), 'png')


class KittiExport:
    """
    Writes DIR/images/<name>.jpg or .png and DIR/label_2/<name>.txt.

    Sure boxes become labels and doubtful ones DontCare, by the default scores of `pseudo-label`. A frame
    without the wanted boxes (the teacher has not answered) is left out: an empty label file would say that
    there is nothing to see.

    :param labels_from: `student`, `teacher` or `verified`.
    :raises ConfigError: the folder holds images or labels already.
    """

    def __init__(self, folder: OutputFolder, labels_from: str):
        self._out, self._folder, self._from = folder, folder.path, labels_from
        self._images = self._labels = self._dont_care = self._left_out = 0
        for name in ('images', 'label_2'):
            place = self._folder / name
            if place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise ConfigError(f'{place}: exists and is not empty; choose another folder to export to')

    def begin(self, frames: Sequence[RecordedFrame]) -> None:
        """
        Make the folders.

        :raises ConfigError: they cannot be made, or a class name cannot be written as a label.
        """
        names = sorted({name for frame in frames for name in self._boxes(frame).names})
        wrong = next((name for name in names if len(name.split()) != 1 or name != name.strip()), None)
        if wrong is not None:
            raise ConfigError(f'class names must be single words to be written as labels, got {wrong!r}')
        # Two bags may hold one frame; two cameras may have one name, once `/` is written as `_`.
        stems: dict[str, int] = {}
        self._stems = {}
        for frame in frames:
            count = stems[frame.name] = stems.get(frame.name, 0) + 1
            self._stems[frame.key] = frame.name if count == 1 else f'{frame.name}__{count}'
        try:
            for name in ('images', 'label_2'):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_be_written(self._folder, error) from error

    def add(self, frame: RecordedFrame, image: RecordedImage, pixels: np.ndarray) -> None:
        """Write one frame; `pixels` (H, W, 3) uint8 BGR are those of `image`."""
        if self._missing(frame):
            self._left_out += 1
            return
        merged = propose_labels(self._boxes(frame), pixels.shape[:2])
        stem = self._stems[frame.key]
        data, suffix = image_file(image, pixels)
        try:
            write_whole(self._out.new(f'images/{stem}.{suffix}'), data)
            write_whole(self._out.new(f'label_2/{stem}.txt'), format_objects(merged.objects))
        except OSError as error:
            raise cannot_be_written(self._folder, error) from error
        self._images += 1
        self._labels += sum(merged.added.values())
        self._dont_care += sum(merged.ignored.values())

    def summary(self) -> dict[str, Any]:
        """Return what was written: for review.json."""
        return {'folder': str(self._folder), 'labels_from': self._from, 'images': self._images,
                'labels': self._labels, 'dont_care': self._dont_care, 'left_out': self._left_out}

    def _missing(self, frame: RecordedFrame) -> bool:
        return getattr(frame, self._from) is None

    def _boxes(self, frame: RecordedFrame) -> Boxes:
        found = getattr(frame, self._from)
        return Boxes(np.zeros((0, 4)), np.zeros(0), ()) if found is None else found
