# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Frames of a source into serialised image messages. Free of ROS: what goes out is CDR."""

from __future__ import annotations

import struct

import cv2

from kd_perception.errors import ImageError
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import COMPRESSED_IMAGE, IMAGE, serialize
from kd_perception.sources.frames import Frame, NS_PER_S

JPEG_QUALITY = 95


def image_cdr(frame: Frame, transport: str, stamp_ns: int) -> tuple[bytes, str]:
    """
    Serialise a frame for publishing.

    A recorded message of the wanted type goes through as it is, without being decoded; only its stamp is
    overwritten where `stamp_ns` differs. A JPEG or PNG file goes into a CompressedImage as it is.

    :param transport: `raw`, `compressed`, or `recorded` (compressed where the source holds it compressed).
    :return: (CDR bytes, message type).
    :raises ImageError: the frame has to be decoded and cannot be.
    """
    if transport == 'recorded':
        transport = 'compressed' if frame.msgtype == COMPRESSED_IMAGE else 'raw'
    wanted = COMPRESSED_IMAGE if transport == 'compressed' else IMAGE
    if frame.msgtype == wanted:
        return with_stamp(frame.raw_cdr, stamp_ns), wanted
    if transport == 'raw':
        return serialize(messages.raw_image(frame.decode(), stamp_ns, frame.frame_id)), wanted
    encoded = frame.encoded()
    if encoded is None:
        done, data = cv2.imencode('.jpg', frame.decode(), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise ImageError('too_large', 'a side is longer than a JPEG image can be')
        encoded = data.tobytes(), 'jpeg'
    return serialize(messages.compressed_image(*encoded, stamp_ns, frame.frame_id)), wanted


def with_stamp(raw: bytes, stamp_ns: int) -> bytes:
    """Return a CDR message that begins with a header, with another stamp; the same object if it has it."""
    if messages.parse_header(raw)[0] == stamp_ns:
        return raw
    order = '<' if raw[1] else '>'
    return raw[:4] + struct.pack(order + 'iI', *divmod(stamp_ns, NS_PER_S)) + raw[12:]
