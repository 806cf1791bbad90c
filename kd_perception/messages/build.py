# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Build and read the messages of our recordings, without ROS.

`Detection2DArray` follows the convention of the detector node: class *name* in `hypothesis.class_id`, boxes
as centre and size in pixels of the source image, every nested header equal to the image's, `id` left empty.
"""
import struct

import numpy as np

from kd_perception.detection.drawing import class_color
from kd_perception.errors import BagError
from kd_perception.messages import typestore as ts

NS_PER_S = 1_000_000_000
_HEADER_BYTES = 16  # CDR encapsulation (4), sec (4), nanosec (4), length of frame_id (4)


def parse_header(raw: bytes) -> tuple:
    """
    Read the `std_msgs/Header` at the start of a CDR message without decoding the rest.

    :returns: (stamp_ns, frame_id).
    :raises BagError: too short, not CDR, or a frame_id that leaves the message.
    """
    if len(raw) < _HEADER_BYTES or raw[0] != 0 or raw[1] > 1:
        raise BagError(f'a message of {len(raw)} bytes is no CDR message with a header')
    order = '<' if raw[1] else '>'
    sec, nanosec, length = struct.unpack_from(order + 'iII', raw, 4)
    if length > len(raw) - _HEADER_BYTES:
        raise BagError(f'a frame_id of {length} bytes does not fit its message of {len(raw)} bytes')
    text = bytes(raw[_HEADER_BYTES:_HEADER_BYTES + length]).rstrip(b'\0')
    return sec * NS_PER_S + nanosec, text.decode('utf-8', errors='replace')


def time(stamp_ns: int):
    """Return `builtin_interfaces/Time` of nanoseconds since the epoch."""
    sec, nanosec = divmod(int(stamp_ns), NS_PER_S)
    return ts.message_class('builtin_interfaces/msg/Time')(sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame_id: str):
    """Return `std_msgs/Header`."""
    return ts.message_class('std_msgs/msg/Header')(stamp=time(stamp_ns), frame_id=frame_id)


def raw_image(image_bgr: np.ndarray, stamp_ns: int, frame_id: str):
    """Return `sensor_msgs/Image` in bgr8 of an (H, W, 3) uint8 image."""
    height, width = image_bgr.shape[:2]
    return ts.message_class(ts.IMAGE)(
        header=header(stamp_ns, frame_id), height=height, width=width, encoding='bgr8', is_bigendian=0,
        step=3 * width, data=np.ascontiguousarray(image_bgr).reshape(-1))


def compressed_image(data: bytes, image_format: str, stamp_ns: int, frame_id: str):
    """Return `sensor_msgs/CompressedImage`; `image_format` is `jpeg` or `png`."""
    return ts.message_class(ts.COMPRESSED_IMAGE)(
        header=header(stamp_ns, frame_id), format=image_format, data=np.frombuffer(data, np.uint8))


def detection_array(detections, labels, stamp_ns: int, frame_id: str):
    """
    Return `vision_msgs/Detection2DArray`.

    :param detections: `kd_perception.boxes.detections.Detections`, boxes in source pixels.
    :param labels: class name of each class id.
    """
    cls = ts.message_class
    pose = cls('geometry_msgs/msg/PoseWithCovariance')(
        pose=cls('geometry_msgs/msg/Pose')(
            position=cls('geometry_msgs/msg/Point')(x=0.0, y=0.0, z=0.0),
            orientation=cls('geometry_msgs/msg/Quaternion')(x=0.0, y=0.0, z=0.0, w=1.0)),
        covariance=np.zeros(36))
    items = []
    for box, score, class_id in zip(detections.boxes_xyxy.astype(np.float64), detections.scores,
                                    detections.class_ids):
        x1, y1, x2, y2 = (float(v) for v in box)
        hypothesis = cls('vision_msgs/msg/ObjectHypothesis')(class_id=labels[class_id], score=float(score))
        centre = cls('vision_msgs/msg/Pose2D')(
            position=cls('vision_msgs/msg/Point2D')(x=(x1 + x2) / 2, y=(y1 + y2) / 2), theta=0.0)
        items.append(cls('vision_msgs/msg/Detection2D')(
            header=header(stamp_ns, frame_id),
            results=[cls('vision_msgs/msg/ObjectHypothesisWithPose')(hypothesis=hypothesis, pose=pose)],
            bbox=cls('vision_msgs/msg/BoundingBox2D')(center=centre, size_x=x2 - x1, size_y=y2 - y1), id=''))
    return cls(ts.DETECTION_ARRAY)(header=header(stamp_ns, frame_id), detections=items)


def parse_detection_array(raw: bytes) -> tuple:
    """
    Read a CDR `vision_msgs/Detection2DArray`.

    Of each detection the best hypothesis counts.

    :returns: (stamp_ns, frame_id, boxes_xyxy (N, 4) float64 px, scores (N,) float64, class_names tuple of N).
    :raises BagError: the bytes are not such a message, or a detection has no hypothesis.
    """
    try:
        message = ts.deserialize(raw, ts.DETECTION_ARRAY)
    except Exception as error:  # the decoder's errors on hostile bytes are of many kinds
        raise BagError(f'not a {ts.DETECTION_ARRAY} message of vision_msgs 4 or later: {error}') from None
    boxes, scores, names = [], [], []
    for item in message.detections:
        if not item.results:
            raise BagError('a Detection2D without a hypothesis')
        best = max((result.hypothesis for result in item.results), key=lambda found: found.score)
        centre, half_w, half_h = item.bbox.center.position, item.bbox.size_x / 2, item.bbox.size_y / 2
        boxes.append((centre.x - half_w, centre.y - half_h, centre.x + half_w, centre.y + half_h))
        scores.append(best.score)
        names.append(best.class_id)
    stamp = message.header.stamp
    return (stamp.sec * NS_PER_S + stamp.nanosec, message.header.frame_id,
            np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64), tuple(names))


def image_annotations(boxes_xyxy: np.ndarray, scores: np.ndarray, class_names, stamp_ns: int, labels=()):
    """
    Return `foxglove_msgs/ImageAnnotations`: a closed outline and a caption for each box.

    :param boxes_xyxy: (N, 4) px of the image.
    :param class_names: N names.
    :param labels: all class names of the model; their order decides the colours.
    """
    cls = ts.message_class
    colour, point = cls('foxglove_msgs/msg/Color'), cls('foxglove_msgs/msg/Point2')
    clear, dark = colour(r=0.0, g=0.0, b=0.0, a=0.0), colour(r=0.0, g=0.0, b=0.0, a=0.6)
    outlines, captions = [], []
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4).tolist()
    for (x1, y1, x2, y2), score, name in zip(boxes, scores, class_names):
        blue, green, red = class_color(labels.index(name) if name in labels else len(labels))
        ink = colour(r=red / 255, g=green / 255, b=blue / 255, a=1.0)
        outlines.append(cls('foxglove_msgs/msg/PointsAnnotation')(
            timestamp=time(stamp_ns), type=2,  # LINE_LOOP
            points=[point(x=x1, y=y1), point(x=x2, y=y1), point(x=x2, y=y2), point(x=x1, y=y2)],
            outline_color=ink, outline_colors=[], fill_color=clear, thickness=2.0))
        captions.append(cls('foxglove_msgs/msg/TextAnnotation')(
            timestamp=time(stamp_ns), position=point(x=x1, y=y1), text=f'{name} {score:.2f}', font_size=12.0,
            text_color=ink, background_color=dark))
    return cls(ts.IMAGE_ANNOTATIONS)(circles=[], points=outlines, texts=captions)
