# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The one boundary between ROS messages and the arrays of the core.

Everything that crosses it is checked here: sizes before memory is spent on them, and values before
they are believed. Assignments are the cheap ones: `msg.data = array.array` costs 0.1 ms for a 1.4 MB
image where a list costs 64 ms and a numpy array 182 ms, since rclpy then checks every element.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
import functools
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from kd_perception.boxes.detections import Detections
from kd_perception.errors import ImageError, one_line
from kd_perception.images import raw as image_decoding
from kd_perception.images.compressed import decode_compressed
from kd_perception.nodes.shared.vision_messages import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)


@functools.lru_cache(maxsize=1)
def load_cv_bridge() -> Any:
    """
    Return a CvBridge, or None where it is missing or broken.

    Any exception counts: builds of cv_bridge against numpy 1 fail under numpy 2 with more than ImportError
    (vision_opencv issue 535).
    """
    try:
        from cv_bridge import CvBridge
        return CvBridge()
    except Exception:
        return None


def image_to_bgr(message: Image, bridge: Callable[[], Any] = load_cv_bridge) -> np.ndarray:
    """
    Decode an image message.

    :param bridge: gives a CvBridge or None; asked only for encodings that the core does not decode.
    :return: (H, W, 3) uint8 BGR; for bgr8 a view of the message's data, so read-only by agreement.
    :raises ImageError: with one of `images.raw.REASONS`.
    """
    if image_decoding.is_supported(message.encoding):
        return image_decoding.decode_raw(message.encoding, message.height, message.width, message.step,
                                         message.is_bigendian, message.data)
    image_decoding.check_size(message.height, message.width)
    encoding = message.encoding[:40]
    converter = bridge()
    if converter is None:
        raise ImageError(
            'unsupported_encoding', f'{encoding!r} is not decoded here and cv_bridge is not installed')
    needed = message.step * message.height
    if message.step < message.width or len(message.data) < needed:
        raise ImageError('short_data', f'{len(message.data)} bytes, expected {needed} for {message.width}x'
                                       f'{message.height} {encoding!r}, step {message.step}')
    try:
        bgr = np.asarray(converter.imgmsg_to_cv2(message, desired_encoding='bgr8'))
    except Exception as error:  # cv_bridge raises its own, OpenCV's and Python's errors
        raise ImageError(
            'unsupported_encoding', f'cv_bridge refuses {encoding!r}: {one_line(error)}') from error
    if bgr.dtype != np.uint8 or bgr.shape != (message.height, message.width, 3):
        raise ImageError('unsupported_encoding', f'cv_bridge gives {bgr.dtype} {bgr.shape} for {encoding!r}')
    return bgr


def compressed_to_bgr(message: CompressedImage) -> np.ndarray:
    """
    Decode a JPEG or PNG message to (H, W, 3) uint8 BGR.

    :raises ImageError: with one of `images.raw.REASONS`.
    """
    return decode_compressed(message.data, message.format)


def bgr_to_image(image_bgr: np.ndarray, header: Header) -> Image:
    """
    Make a bgr8 message.

    :param image_bgr: (H, W, 3) uint8; may be strided, the message is not.
    :param header: taken as it is.
    """
    if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3:
        raise ValueError(f'expected (H, W, 3) uint8, got {image_bgr.shape} {image_bgr.dtype}')
    message = Image()
    message.header = header
    message.height, message.width = image_bgr.shape[:2]
    message.encoding = 'bgr8'
    message.step = 3 * message.width
    message.data = array.array('B', image_bgr.tobytes())
    return message


def detections_to_message(detections: Detections, labels: Sequence[str], header: Header) -> Detection2DArray:
    """
    Make the result of one frame.

    The header is the image's, in the array and in each detection; `id` is left for a tracker.

    :param detections: boxes in px of the source image.
    :param labels: class names by class id.
    """
    message = Detection2DArray()
    message.header = header
    items = []
    boxes = detections.boxes_xyxy.astype(np.float64)
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    for centre, size, score, class_id in zip(
            centres, sizes, detections.scores.tolist(), detections.class_ids.tolist()):
        item = Detection2D()
        item.header = header
        item.bbox.center.position.x, item.bbox.center.position.y = centre
        item.bbox.size_x, item.bbox.size_y = size
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = labels[class_id]
        result.hypothesis.score = score
        item.results = [result]
        items.append(item)
    message.detections = items
    return message


def label_info_message(labels: Sequence[str], threshold: float, header: Header) -> LabelInfo:
    """
    Make the class map.

    :param threshold: least score that is published now.
    """
    message = LabelInfo()
    message.header = header
    message.class_map = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(labels)]
    message.threshold = float(threshold)
    return message


def stamp_to_ns(stamp: Time) -> int:
    """Return a stamp in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def ns_to_stamp(stamp_ns: int) -> Time:
    """Return the stamp of a time in nanoseconds."""
    sec, nanosec = divmod(int(stamp_ns), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)
