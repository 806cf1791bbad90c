# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The message types of recordings: ROS 2 Jazzy's, plus those that rosbags' store lacks.

A bag must be readable and writable on a machine without ROS, so the definitions of `vision_msgs` and of
Foxglove's image annotations are kept here as text. Layouts: vision_msgs 4.1.1 (ros-perception/vision_msgs,
Apache-2.0); foxglove_msgs as released for Jazzy (foxglove/schemas, MIT), the fields that every later release
still has. Only the field layout decides the type hash (REP-2016), comments do not.
"""
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
DETECTION_ARRAY = 'vision_msgs/msg/Detection2DArray'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'
DIAGNOSTIC_ARRAY = 'diagnostic_msgs/msg/DiagnosticArray'
IMAGE_ANNOTATIONS = 'foxglove_msgs/msg/ImageAnnotations'

# What a stock Jazzy install computes for vision_msgs/msg/Detection2DArray.
DETECTION_ARRAY_HASH = 'RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968'

VISION_MSGS_DEFINITIONS = {
    'vision_msgs/msg/Point2D': 'float64 x\nfloat64 y\n',
    'vision_msgs/msg/Pose2D': 'vision_msgs/Point2D position\nfloat64 theta\n',
    'vision_msgs/msg/BoundingBox2D': 'vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n',
    'vision_msgs/msg/ObjectHypothesis': 'string class_id\nfloat64 score\n',
    'vision_msgs/msg/ObjectHypothesisWithPose':
        'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n',
    'vision_msgs/msg/Detection2D':
        'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
        'vision_msgs/BoundingBox2D bbox\nstring id\n',
    'vision_msgs/msg/Detection2DArray': 'std_msgs/Header header\nvision_msgs/Detection2D[] detections\n',
    'vision_msgs/msg/VisionClass': 'uint16 class_id\nstring class_name\n',
    'vision_msgs/msg/LabelInfo':
        'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n',
    'vision_msgs/msg/VisionInfo':
        'std_msgs/Header header\nstring method\nstring database_location\nint32 database_version\n',
}

FOXGLOVE_DEFINITIONS = {
    'foxglove_msgs/msg/Point2': 'float64 x\nfloat64 y\n',
    'foxglove_msgs/msg/Color': 'float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n',
    'foxglove_msgs/msg/CircleAnnotation':
        'builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\nfloat64 diameter\n'
        'float64 thickness\nfoxglove_msgs/Color fill_color\nfoxglove_msgs/Color outline_color\n',
    'foxglove_msgs/msg/PointsAnnotation':
        'builtin_interfaces/Time timestamp\nuint8 UNKNOWN=0\nuint8 POINTS=1\nuint8 LINE_LOOP=2\n'
        'uint8 LINE_STRIP=3\nuint8 LINE_LIST=4\nuint8 type\nfoxglove_msgs/Point2[] points\n'
        'foxglove_msgs/Color outline_color\nfoxglove_msgs/Color[] outline_colors\n'
        'foxglove_msgs/Color fill_color\nfloat64 thickness\n',
    'foxglove_msgs/msg/TextAnnotation':
        'builtin_interfaces/Time timestamp\nfoxglove_msgs/Point2 position\nstring text\nfloat64 font_size\n'
        'foxglove_msgs/Color text_color\nfoxglove_msgs/Color background_color\n',
    'foxglove_msgs/msg/ImageAnnotations':
        'foxglove_msgs/CircleAnnotation[] circles\nfoxglove_msgs/PointsAnnotation[] points\n'
        'foxglove_msgs/TextAnnotation[] texts\n',
}

# An Image of 16 million BGR pixels is 48 MB; no field of ours is longer than this.
MAX_SEQUENCE_LENGTH = 2 ** 28


@lru_cache(maxsize=1)
def typestore():
    """
    Return the one rosbags typestore of this process.

    :returns: `rosbags.typesys.store.Typestore` with ROS 2 Jazzy's types, `VISION_MSGS_DEFINITIONS` and
        `FOXGLOVE_DEFINITIONS`.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    # Bounds what a length field of a damaged or hostile message may ask for.
    store.max_sequence_length = MAX_SEQUENCE_LENGTH
    types = {}
    for name, text in {**VISION_MSGS_DEFINITIONS, **FOXGLOVE_DEFINITIONS}.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store


def message_class(msgtype: str):
    """
    Return rosbags' dataclass of a message type.

    :param msgtype: full name such as `std_msgs/msg/Header`.
    :raises KeyError: the store does not know it.
    """
    return typestore().types[msgtype]


def serialize(message) -> bytes:
    """Return the CDR bytes (little endian, with encapsulation header) of a rosbags message."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__, little_endian=True))


def deserialize(raw: bytes, msgtype: str):
    """
    Return the rosbags message in CDR bytes.

    :raises rosbags.serde.SerdeError: the bytes are not such a message.
    :raises KeyError: the store does not know the type.
    """
    return typestore().deserialize_cdr(raw, msgtype)


def canonical(raw: bytes, msgtype: str) -> bytes:
    """
    Return the same message with every padding byte zero.

    CDR aligns numbers with bytes of no meaning, and Fast CDR leaves in them whatever its buffer held before:
    equal messages differ on the wire. Recordings that are compared byte by byte are written in this form.

    :raises rosbags.serde.SerdeError: the bytes are not such a message.
    :raises KeyError: the store does not know the type.
    """
    return serialize(deserialize(raw, msgtype))


def other_layout(msgtype: str, definition: str) -> bool:
    """
    Tell whether messages of this recorded definition have other bytes than ours of the same name.

    Names do not count, and neither does who nests whom: ``center.x`` and ``center.position.x`` are the same
    bytes. A definition that cannot be read tells nothing.

    :param definition: .msg text of the type and those in it, as recordings keep it; empty: unknown.
    """
    if not definition:
        return False
    try:
        theirs = get_types_from_msg(definition, msgtype)
        return _fields(theirs, msgtype) != _fields(typestore().fielddefs, msgtype)
    except Exception:   # the parser's errors on damaged text are of many kinds
        return False


def _fields(types: Mapping[str, Any], msgtype: str) -> list[Any]:
    """Return the types of all fields, in the order of the bytes; sequences as (kind, content)."""
    flat: list[Any] = []
    for _, (kind, content) in types[msgtype][1]:
        flat += _flat(types, kind, content)
    return flat


def _flat(types: Mapping[str, Any], kind: Any, content: Any) -> list[Any]:
    if kind == Nodetype.BASE:
        return [content[0]]
    if kind == Nodetype.NAME:
        return _fields(types if content in types else typestore().fielddefs, content)
    item, length = content
    return [(int(kind), length, _flat(types, *item))]
