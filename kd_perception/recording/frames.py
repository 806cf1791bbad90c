# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What is recorded of a hard frame, where it lies in a recording, and the recorder's settings."""

from __future__ import annotations

import dataclasses
import math

from kd_perception.errors import ConfigError, ImageError
from kd_perception.messages import build as messages
from kd_perception.messages import typestore
from kd_perception.sources.any_source import decode_image_message

MIB = 1 << 20
MAX_QUEUE_FRAMES = 10_000

# Kind of message -> its topic below the camera's namespace.
DETECTION_TOPICS = {
    'student': 'detections', 'teacher': 'teacher/detections', 'verified': 'verified_detections'}
PROVENANCE_TOPIC = 'provenance'
IMAGE_TOPICS = {typestore.IMAGE: 'image_raw', typestore.COMPRESSED_IMAGE: 'image_raw/compressed'}


@dataclasses.dataclass(frozen=True)
class RecorderSettings:
    """
    Bounds of a recorder.

    :param folder: where the recordings go; made if it is missing.
    :param max_total_mib: all recordings of this recorder together, on disk; the oldest make room.
    :param max_file_mib: one recording; a single frame that is larger has one of its own.
    :param min_free_mib: with less free space on the disk nothing is written.
    :param queue_frames: frames that may wait for the disk, each with its image in memory.
    :param max_rate_hz: frames of one camera that are taken in a second.
    :param jpeg_quality: 1 to 100 stores raw images as JPEG; 0 stores them as they came.
    :raises ConfigError: a value is out of range.
    """

    folder: str
    max_total_mib: float = 1024
    max_file_mib: float = 64
    min_free_mib: float = 500
    queue_frames: int = 16
    max_rate_hz: float = 2.0
    jpeg_quality: int = 0

    def __post_init__(self):
        """Check ranges."""
        if not str(self.folder).strip():
            raise ConfigError('recorder: folder is empty, expected a path')
        for name in ('max_total_mib', 'max_file_mib', 'max_rate_hz'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f'recorder: {name} is {value}, expected a number above 0')
        if not (math.isfinite(self.min_free_mib) and self.min_free_mib >= 0):
            raise ConfigError(f'recorder: min_free_mib is {self.min_free_mib}, expected at least 0')
        if self.max_file_mib > self.max_total_mib:
            raise ConfigError(f'recorder: max_file_mib ({self.max_file_mib:g}) is above max_total_mib '
                              f'({self.max_total_mib:g})')
        if not 1 <= self.queue_frames <= MAX_QUEUE_FRAMES:
            raise ConfigError(f'recorder: queue_frames is {self.queue_frames}, expected 1 to '
                              f'{MAX_QUEUE_FRAMES}')
        if not 0 <= self.jpeg_quality <= 100:
            raise ConfigError(f'recorder: jpeg_quality is {self.jpeg_quality}, expected 0 to 100')


@dataclasses.dataclass(frozen=True)
class HardFrame:
    """
    One frame to record, its messages serialised (CDR).

    :param camera: namespace, with or without leading slash.
    :param stamp_ns: of the image; becomes the log time of all its messages.
    :param image_type: `sensor_msgs/msg/Image` or `sensor_msgs/msg/CompressedImage`, the type of `image`.
    :param student, teacher, verified: `vision_msgs/msg/Detection2DArray`; None: the teacher has not answered.
    :param provenance: `diagnostic_msgs/msg/DiagnosticArray`.
    """

    camera: str
    stamp_ns: int
    frame_id: str
    image: bytes = dataclasses.field(repr=False)
    image_type: str
    student: bytes = dataclasses.field(repr=False)
    teacher: bytes | None = dataclasses.field(repr=False)
    verified: bytes = dataclasses.field(repr=False)
    provenance: bytes = dataclasses.field(repr=False)

    def messages(self, jpeg_quality: int = 0) -> list[tuple[str, str, bytes]]:
        """
        Return (topic, type, CDR bytes) of each message, the image last.

        The image is the largest: behind it the storage closes its chunk, so that a recording that was cut
        ends with a whole frame.

        :param jpeg_quality: as in `RecorderSettings`; an image that cannot be decoded stays as it came.
        :raises KeyError: the type of the image is none of the two.
        """
        prefix = camera_prefix(self.camera)
        image, image_type = self.image, self.image_type
        if jpeg_quality and image_type == typestore.IMAGE:
            image, image_type = self._as_jpeg(jpeg_quality)
        found = [(f'{prefix}/{topic}', typestore.DETECTION_ARRAY, getattr(self, kind))
                 for kind, topic in DETECTION_TOPICS.items()]
        found += [(f'{prefix}/{PROVENANCE_TOPIC}', typestore.DIAGNOSTIC_ARRAY, self.provenance),
                  (f'{prefix}/{IMAGE_TOPICS[image_type]}', image_type, image)]
        return [item for item in found if item[2] is not None]

    def _as_jpeg(self, quality: int) -> tuple[bytes, str]:
        import cv2
        try:
            image = decode_image_message(self.image, self.image_type)
            done, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        except (ImageError, cv2.error):
            done = False
        if not done:
            return self.image, self.image_type
        message = messages.compressed_image(data.tobytes(), 'jpeg', self.stamp_ns, self.frame_id)
        return typestore.serialize(message), typestore.COMPRESSED_IMAGE


def camera_prefix(camera: str) -> str:
    """Return a camera's namespace as the absolute beginning of topics: `/front` of `front` and `/front/`."""
    return ''.join(f'/{part}' for part in camera.split('/') if part)
