# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Decoding of `sensor_msgs/Image` payloads into BGR arrays; `images.compressed` has the compressed ones.

Works on the messages' fields, not on messages: bags, tests and nodes share it. Encodings follow
`sensor_msgs/image_encodings.hpp`. What is not listed here is left to cv_bridge (see
`nodes.conversions`).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import cv2
import numpy as np

from kd_perception.errors import ImageError
from kd_perception.images.planar_yuv import decode_planar, PLANAR_ENCODINGS
from kd_perception.limits import MAX_IMAGE_PIXELS

REASONS = {
    'unsupported_encoding': 'the encoding or compressed format is not known',
    'zero_size': 'width or height is zero',
    'too_large': f'more than {MAX_IMAGE_PIXELS} pixels',
    'bad_step': 'step is smaller than a row, or the width does not fit the encoding',
    'short_data': 'data holds fewer bytes than height and step promise',
    'non_finite': 'a floating-point image holds NaN or infinity',
    'value_range': 'a floating-point image holds values outside [0, 1]',
    'corrupt_compressed': 'the compressed data cannot be decoded whole',
}


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Memory layout of one encoding: element type, channels and how it becomes BGR."""

    dtype: str
    channels: int
    to_bgr: int | None = None


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's
# first two: rggb is OpenCV's "BG".
_LAYOUTS = {
    'bgr8': _Layout('u1', 3),
    '8UC3': _Layout('u1', 3),
    '8UC4': _Layout('u1', 4, cv2.COLOR_BGRA2BGR),
    'rgb8': _Layout('u1', 3, cv2.COLOR_RGB2BGR),
    'bgra8': _Layout('u1', 4, cv2.COLOR_BGRA2BGR),
    'rgba8': _Layout('u1', 4, cv2.COLOR_RGBA2BGR),
    'mono8': _Layout('u1', 1, cv2.COLOR_GRAY2BGR),
    '8UC1': _Layout('u1', 1, cv2.COLOR_GRAY2BGR),
    'mono16': _Layout('u2', 1, cv2.COLOR_GRAY2BGR),
    'bgr16': _Layout('u2', 3),
    'rgb16': _Layout('u2', 3, cv2.COLOR_RGB2BGR),
    'bgra16': _Layout('u2', 4, cv2.COLOR_BGRA2BGR),
    'rgba16': _Layout('u2', 4, cv2.COLOR_RGBA2BGR),
    'bayer_rggb8': _Layout('u1', 1, cv2.COLOR_BayerBG2BGR),
    'bayer_bggr8': _Layout('u1', 1, cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg8': _Layout('u1', 1, cv2.COLOR_BayerGR2BGR),
    'bayer_grbg8': _Layout('u1', 1, cv2.COLOR_BayerGB2BGR),
    'bayer_rggb16': _Layout('u2', 1, cv2.COLOR_BayerBG2BGR),
    'bayer_bggr16': _Layout('u2', 1, cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg16': _Layout('u2', 1, cv2.COLOR_BayerGR2BGR),
    'bayer_grbg16': _Layout('u2', 1, cv2.COLOR_BayerGB2BGR),
    'yuv422': _Layout('u1', 2, cv2.COLOR_YUV2BGR_UYVY),
    'uyvy': _Layout('u1', 2, cv2.COLOR_YUV2BGR_UYVY),
    'yuv422_yuy2': _Layout('u1', 2, cv2.COLOR_YUV2BGR_YUY2),
    'yuyv': _Layout('u1', 2, cv2.COLOR_YUV2BGR_YUY2),
    '32FC1': _Layout('f4', 1, cv2.COLOR_GRAY2BGR),
    '32FC3': _Layout('f4', 3),
}
SUPPORTED_ENCODINGS = (*_LAYOUTS, *PLANAR_ENCODINGS)
# Drivers write YUYV or NV12 too; no two encodings differ in their case alone.
_SPELLINGS = {name.lower(): name for name in SUPPORTED_ENCODINGS}


def decode_raw(
        encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data) -> np.ndarray:
    """
    Decode the fields of a `sensor_msgs/Image`.

    :param encoding: one of `SUPPORTED_ENCODINGS`, in any case. 16-bit values are scaled by 255/65535; floats
        are taken as intensities in [0, 1], and as BGR when they have three channels.
    :param step: bytes from one row to the next, padding included; the last row's padding may be
        missing from `data`. Of planar YUV: of the brightness plane.
    :param data: any C-contiguous buffer of bytes.
    :return: (height, width, 3) uint8 BGR. For bgr8 and 8UC3 this is a view of `data`, padding
        skipped and nothing copied: treat it as read-only.
    :raises ImageError: with a reason out of `REASONS`.
    """
    known = _SPELLINGS.get(encoding.lower())
    if known is None:
        raise ImageError('unsupported_encoding',
                         f'{encoding[:40]!r} is none of the {len(SUPPORTED_ENCODINGS)} that are decoded')
    check_size(height, width)
    if known in PLANAR_ENCODINGS:
        return decode_planar(known, height, width, step, data)
    layout = _LAYOUTS[known]
    itemsize = np.dtype(layout.dtype).itemsize
    # Two pixels of packed YUV share their colour: the last of an odd row has a hidden neighbour.
    stored = width + width % 2 if layout.channels == 2 else width
    row_bytes = stored * layout.channels * itemsize
    if step < row_bytes:
        raise ImageError('bad_step', f'{step}, expected at least {row_bytes} for {width} px of {encoding}')
    needed = step * (height - 1) + row_bytes
    buffer = memoryview(data).cast('B')
    if buffer.nbytes < needed:
        raise ImageError(
            'short_data', f'{buffer.nbytes} bytes, expected {needed} for {width}x{height} {encoding}')
    order: Literal['>', '<'] = '>' if is_bigendian else '<'
    pixels = np.ndarray(
        (height, stored, layout.channels), dtype=np.dtype(layout.dtype).newbyteorder(order), buffer=buffer,
        strides=(step, layout.channels * itemsize, itemsize))
    if layout.dtype != 'u1':
        pixels = _to_uint8(pixels, encoding)
    if layout.to_bgr is None:
        return pixels
    image = cv2.cvtColor(np.ascontiguousarray(pixels), layout.to_bgr)
    return image if stored == width else np.ascontiguousarray(image[:, :width])


def is_supported(encoding: str) -> bool:
    """Tell whether `decode_raw` knows an encoding."""
    return encoding.lower() in _SPELLINGS


def check_size(height: int, width: int) -> None:
    """
    Refuse an image that is empty or absurdly large, before memory is spent on it.

    :raises ImageError: zero_size or too_large.
    """
    if height <= 0 or width <= 0:
        raise ImageError('zero_size', f'{width}x{height}')
    if height * width > MAX_IMAGE_PIXELS:
        raise ImageError('too_large', f'{width}x{height}, expected at most {MAX_IMAGE_PIXELS} pixels')


def _to_uint8(pixels: np.ndarray, encoding: str) -> np.ndarray:
    if pixels.dtype.kind == 'u':
        # Rounded, as cv_bridge does; 65535 = 255 * 257.
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise ImageError('non_finite', f'{encoding} holds {bad} NaN or infinite values')
    if values.min() < 0 or values.max() > 1:
        raise ImageError(
            'value_range', f'{encoding} spans [{values.min():g}, {values.max():g}], expected [0, 1]')
    return np.rint(values * 255).astype(np.uint8)
