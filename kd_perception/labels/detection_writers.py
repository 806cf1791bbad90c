# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The output formats of `detect`: KITTI text, JSON and MCAP (docs/how-to/detect.md)."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kd_perception.bags.writer import BagWriter
from kd_perception.boxes.detections import Detections
from kd_perception.errors import ConfigError
from kd_perception.files import write_whole
from kd_perception.labels.kitti_text import format_objects, KittiObjects
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import LABEL_INFO, message_class
from kd_perception.models.spec import ModelSpec
from kd_perception.output_folder import OutputFolder
from kd_perception.sources.frames import Frame

JSON_VERSION = 1
JPEG_QUALITY = 90


class KittiWriter:
    """
    One text file a frame, 16 columns a line; an empty file where nothing was found.

    :param folders: of each camera, relative to `out`, as `folder_names` gives them; '' for `out` itself.
    """

    def __init__(self, out: OutputFolder, spec: ModelSpec, folders: Mapping[str, str]):
        self._out, self._labels, self._folders = out, spec.labels, folders

    def add(self, frame: Frame, image_bgr: np.ndarray, detections: Detections) -> None:
        """Write one frame."""
        # KITTI's columns are separated by blanks, so a class of two words needs another separator.
        types = [self._labels[class_id].replace(' ', '_') for class_id in detections.class_ids]
        objects = KittiObjects.from_boxes(types, detections.boxes_xyxy, detections.scores)
        write_whole(self._out.new(str(Path(self._folders[frame.camera], f'{frame.name}.txt'))),
                    format_objects(objects))

    def close(self, summary: dict[str, Any]) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Leave the frames that are written."""


class JsonWriter:
    """One document: the summary's fields and `frames`."""

    def __init__(self, path: Path, spec: ModelSpec):
        self._path, self._labels = path, spec.labels
        self._frames: list[dict] = []

    def add(self, frame: Frame, image_bgr: np.ndarray, detections: Detections) -> None:
        """Keep one frame until `close`."""
        self._frames.append({
            'camera': frame.camera, 'name': frame.name, 'index': frame.index, 'stamp_ns': frame.stamp_ns,
            'width': image_bgr.shape[1], 'height': image_bgr.shape[0],
            'detections': [
                {'class': self._labels[class_id], 'score': float(score), 'box_xyxy': box.tolist()}
                for box, score, class_id in zip(
                    detections.boxes_xyxy, detections.scores, detections.class_ids)]})

    def close(self, summary: dict[str, Any]) -> None:
        """Write the document."""
        document = {'version': JSON_VERSION, **summary, 'frames': self._frames}
        write_whole(self._path, json.dumps(document, indent=1) + '\n')

    def abort(self) -> None:
        """Write nothing."""


class McapWriter:
    """
    One recording per run: `/C/detections`, `/C/annotations`, `/C/label_info`, and the images if asked for.

    Log times are the images' stamps, so that a viewer shows boxes and image together.
    """

    def __init__(self, path: Path, spec: ModelSpec, drawn_score: float, with_images: bool, overwrite: bool):
        self._spec, self._drawn_score, self._with_images = spec, drawn_score, with_images
        self._writer = BagWriter(path, 'mcap', overwrite)
        self._announced: set[str] = set()

    def add(self, frame: Frame, image_bgr: np.ndarray, detections: Detections) -> None:
        """Write one frame's messages."""
        prefix, stamp_ns, writer = f'/{frame.camera}', frame.stamp_ns, self._writer
        if frame.camera not in self._announced:
            self._announced.add(frame.camera)
            writer.add_topic(f'{prefix}/label_info', LABEL_INFO, latched=True)
            writer.write(f'{prefix}/label_info', label_info(self._spec, stamp_ns), stamp_ns)
        if self._with_images:
            data, image_format = frame.encoded() or encode_jpeg(image_bgr)
            writer.write(f'{prefix}/image_raw/compressed',
                         messages.compressed_image(data, image_format, stamp_ns, frame.frame_id), stamp_ns)
        writer.write(f'{prefix}/detections', messages.detection_array(
            detections, self._spec.labels, stamp_ns, frame.frame_id), stamp_ns)
        drawn = detections.above(self._drawn_score)
        writer.write(f'{prefix}/annotations', messages.image_annotations(
            drawn.boxes_xyxy, drawn.scores, [self._spec.labels[i] for i in drawn.class_ids], stamp_ns,
            self._spec.labels), stamp_ns)

    def close(self, summary: dict[str, Any]) -> None:
        """Finish the file."""
        self._writer.close()

    def abort(self) -> None:
        """Drop the file."""
        self._writer.abort()


def label_info(spec: ModelSpec, stamp_ns: int) -> Any:
    """Return `vision_msgs/LabelInfo` of a model at its working threshold."""
    vision_class = message_class('vision_msgs/msg/VisionClass')
    return message_class(LABEL_INFO)(
        header=messages.header(stamp_ns, ''), threshold=spec.thresholds.score,
        class_map=[vision_class(class_id=i, class_name=name) for i, name in enumerate(spec.labels)])


def encode_jpeg(image_bgr: np.ndarray, quality: int = JPEG_QUALITY) -> tuple[bytes, str]:
    """
    Return (JPEG data, 'jpeg') of an image.

    :raises ConfigError: the image cannot be a JPEG (a side longer than 65500 px).
    """
    done, data = cv2.imencode('.jpg', image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ConfigError(f'an image of {image_bgr.shape[1]}x{image_bgr.shape[0]} cannot be stored as JPEG')
    return data.tobytes(), 'jpeg'
