# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
KITTI folders to rosbag2 recordings, and their ground truth back again.

For a camera C (default ``kitti/camera_color_left``, as kitti2bag names it) the recording holds

- ``/C/image_raw`` (sensor_msgs/Image) or ``/C/image_raw/compressed`` (sensor_msgs/CompressedImage),
- ``/C/camera_info`` (sensor_msgs/CameraInfo) of the rectified camera,
- ``/C/ground_truth`` (vision_msgs/Detection2DArray): class, score 1, box, track id if there is one,
- ``/C/ground_truth/label_2`` (diagnostic_msgs/DiagnosticArray): the frame's name and its label text,
  untouched. Detection2DArray has no place for truncation, occlusion and 3D boxes; with this text they
  survive, and so do the frame's name and the last digit of every number.
"""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import BagError, ConfigError, ImageError, LabelError, one_line
from kd_perception.labels.kitti_folder import FrameLabel, KittiFolder
from kd_perception.labels.kitti_text import KittiObjects, parse_label_text
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.sources.folders import FolderSource
from kd_perception.sources.frames import Frame

# Names of kitti2bag for KITTI's cameras 0 to 3.
CAMERA_NAMES = ('camera_gray_left', 'camera_gray_right', 'camera_color_left', 'camera_color_right')
GROUND_TRUTH, LABEL_TEXT = 'ground_truth', 'ground_truth/label_2'
LABEL_KEY, TRACKING_KEY = 'label_2', 'label_02'
IMAGE_FORMATS = ('keep', 'jpeg', 'raw')
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Conversion:
    """What was written: frames, labelled frames, frames with CameraInfo, and what was left out by reason."""

    frames: int
    labelled: int
    calibrated: int
    left_out: Counter
    problems: tuple


def camera_info(projection: np.ndarray, image_hw: tuple, stamp_ns: int, frame_id: str) -> Any:
    """
    Return sensor_msgs/CameraInfo of a rectified camera: no distortion, K is the left part of P.

    :param projection: (3, 4).
    """
    roi = ts.message_class('sensor_msgs/msg/RegionOfInterest')(
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return ts.message_class(ts.CAMERA_INFO)(
        header=messages.header(stamp_ns, frame_id), height=int(image_hw[0]), width=int(image_hw[1]),
        distortion_model='plumb_bob', d=np.zeros(5), k=projection[:, :3].reshape(-1).copy(),
        r=np.eye(3).reshape(-1), p=projection.reshape(-1).copy(), binning_x=0, binning_y=0, roi=roi)


def ground_truth_array(objects: KittiObjects, stamp_ns: int, frame_id: str, track_ids: tuple = ()) -> Any:
    """Return vision_msgs/Detection2DArray of labels, DontCare regions too."""
    names = sorted(set(objects.types))
    boxes = SimpleNamespace(boxes_xyxy=objects.boxes_xyxy, scores=np.ones(len(objects)),
                            class_ids=[names.index(name) for name in objects.types])
    message = messages.detection_array(boxes, names, stamp_ns, frame_id)
    for item, track_id in zip(message.detections, track_ids):
        item.id = '' if track_id == '-1' else track_id
    return message


def label_text_message(name: str, label: FrameLabel | None, stamp_ns: int, frame_id: str) -> Any:
    """Return diagnostic_msgs/DiagnosticArray with a frame's name and label text."""
    pair = ts.message_class('diagnostic_msgs/msg/KeyValue')
    values = [] if label is None else [pair(key=LABEL_KEY, value=label.text)]
    if label is not None and label.original:
        values.append(pair(key=TRACKING_KEY, value=label.original))
    status = ts.message_class('diagnostic_msgs/msg/DiagnosticStatus')(
        level=0, name=name, message='KITTI labels' if values else 'no labels', hardware_id='', values=values)
    return ts.message_class(ts.DIAGNOSTIC_ARRAY)(header=messages.header(stamp_ns, frame_id), status=[status])


def convert(folder: KittiFolder, out: Path, camera: str, frame_id: str, image_format: str = 'keep',
            storage: str | None = None, fps: float = 10.0, overwrite: bool = False) -> Conversion:
    """
    Write a recording.

    :param image_format: 'keep' stores JPEG and PNG files as they are, 'jpeg' makes everything JPEG (JPEG
        files stay as they are), 'raw' decodes to bgr8.
    :param fps: frame rate where the folder has no time stamps.
    :raises BagError: no images, or ``out`` cannot be written.
    :raises LabelError: a label file is malformed.
    """
    if image_format not in IMAGE_FORMATS:
        raise ConfigError(f'image format {image_format!r}: one of {", ".join(IMAGE_FORMATS)} expected')
    base = '/' + camera.strip('/')
    source = FolderSource(folder.images, [camera], fps)
    left_out: Counter = Counter()
    frames = labelled = calibrated = 0
    with BagWriter(out, storage, overwrite) as bag:
        for frame in source:
            try:
                image, image_hw = _image_message(frame, image_format, frame_id)
            except ImageError as error:
                left_out[error.reason] += 1
                continue
            topic = f'{base}/image_raw' if image_format == 'raw' else f'{base}/image_raw/compressed'
            stamp = frame.stamp_ns
            projection = folder.projection(frame.name)
            if projection is not None:
                bag.write(f'{base}/camera_info', camera_info(projection, image_hw, stamp, frame_id), stamp)
                calibrated += 1
            bag.write(topic, image, stamp)
            frames += 1
            if folder.labels is None:
                continue
            label = folder.labels.get(frame.name)
            if label is not None:
                objects = parse_label_text(label.text, f'{frame.name} (labels)', scores=False)
                bag.write(f'{base}/{GROUND_TRUTH}', ground_truth_array(objects, stamp, frame_id,
                                                                       label.track_ids), stamp)
                labelled += 1
            elif folder.layout == 'tracking':
                # A tracking file has no line for a frame in which nothing is labelled.
                label = FrameLabel('')
                bag.write(f'{base}/{GROUND_TRUTH}', ground_truth_array(KittiObjects.empty(), stamp, frame_id),
                          stamp)
                labelled += 1
            bag.write(f'{base}/{LABEL_TEXT}', label_text_message(frame.name, label, stamp, frame_id), stamp)
        if not frames:
            raise BagError(f'{folder.images}: no image of it can be read')
    return Conversion(frames, labelled, calibrated, left_out, tuple(source.problems))


def _image_message(frame: Frame, image_format: str, frame_id: str) -> tuple:
    """Return (message, (height, width))."""
    import cv2
    image = frame.decode()
    if image_format == 'raw':
        return messages.raw_image(image, frame.stamp_ns, frame_id), image.shape[:2]
    encoded = frame.encoded()
    if encoded is None or (image_format == 'jpeg' and encoded[1] != 'jpeg'):
        _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        encoded = data.tobytes(), 'jpeg'
    return messages.compressed_image(*encoded, frame.stamp_ns, frame_id), image.shape[:2]


@dataclass(frozen=True)
class BagLabels:
    """
    Ground truth of a recording.

    :ivar objects: labels by image stamp [ns].
    :ivar names: frame names by image stamp, where the recording holds them.
    :ivar left_out: messages that could not be used, by reason. :ivar problem: of the first such message.
    """

    objects: dict[int, KittiObjects]
    names: dict[int, str]
    left_out: Counter
    problem: str = ''


def read_bag_labels(path: Path, topic: str) -> BagLabels:
    """
    Read the ground truth of a recording: label texts where there are any, else the arrays of ``topic``.

    :param topic: of type vision_msgs/Detection2DArray.
    :raises BagError: unreadable recording, no such topic, or of another type.
    """
    topic = '/' + topic.strip('/')
    objects: dict[int, KittiObjects] = {}
    texts: dict[int, KittiObjects] = {}
    names: dict[int, str] = {}
    left_out: Counter = Counter()
    problem = ''
    with BagReader(path) as bag:
        require_topic(bag, topic, ts.DETECTION_ARRAY)
        text_topic = f'{topic}/{LABEL_KEY}'
        known = bag.topics.get(text_topic)
        wanted = [topic] + ([text_topic] if known and known.msgtype == ts.DIAGNOSTIC_ARRAY else [])
        for record in bag.messages(wanted):
            try:
                if record.topic == topic:
                    stamp, found = parse_objects(record.raw, scored=False)
                    if stamp in objects:
                        left_out['duplicate_stamp'] += 1
                        continue
                    objects[stamp] = found
                else:
                    stamp, name, text = parse_label_message(record.raw)
                    names[stamp] = name
                    if text is not None:
                        texts[stamp] = parse_label_text(text, f'{path}: {name}', scores=False)
            except (BagError, LabelError) as error:
                left_out['bad_message'] += 1
                problem = problem or one_line(error)
    return BagLabels({**objects, **texts}, names, left_out, problem)


def require_topic(bag: BagReader, topic: str, msgtype: str) -> None:
    """Raise BagError unless the recording holds ``topic`` with that type, in the version that we read."""
    found = bag.topics.get(topic)
    if found is None:
        same = ', '.join(name for name, item in bag.topics.items() if item.msgtype == msgtype) or 'none'
        raise BagError(f'{bag.path}: no topic {topic}; topics of type {msgtype}: {same}')
    if found.msgtype != msgtype:
        raise BagError(f'{bag.path}: topic {topic} is {found.msgtype}, {msgtype} expected')
    if ts.other_layout(msgtype, found.definition):
        raise BagError(f'{bag.path}: topic {topic} was recorded with another version of {msgtype}'
                       f'{", of vision_msgs before 4" if "source_img" in found.definition else ""}; '
                       'expected that of vision_msgs 4 or later')


def parse_objects(raw: bytes, scored: bool) -> tuple:
    """
    Read a Detection2DArray message.

    :return: (stamp_ns, KittiObjects).
    :raises BagError, LabelError: not such a message, or a box that is not finite or inverted.
    """
    stamp, _, boxes, scores, types = messages.parse_detection_array(raw)
    return stamp, KittiObjects.from_boxes([name.replace(' ', '_') for name in types], boxes,
                                          scores if scored else None)


def parse_label_message(raw: bytes) -> tuple:
    """Read a label text message: (stamp_ns, frame name, text or None); BagError otherwise."""
    try:
        message = ts.deserialize(raw, ts.DIAGNOSTIC_ARRAY)
        status = message.status[0]
        texts = [item.value for item in status.values if item.key == LABEL_KEY]
    except Exception as error:  # the decoder's errors on hostile bytes are of many kinds
        raise BagError(f'not a label text message: {error}') from None
    stamp = message.header.stamp
    return stamp.sec * messages.NS_PER_S + stamp.nanosec, status.name, texts[0] if texts else None
