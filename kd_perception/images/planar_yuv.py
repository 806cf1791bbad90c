# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
YUV images whose brightness lies in a plane of its own, as hardware decoders and camera pipelines give them.

All are taken for BT.601 of limited range, as OpenCV takes NV12 and packed YUV, so that a camera has the same
colours in each encoding. Layouts are those of Linux' V4L2 (docs.kernel.org, "YUV formats").
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from kd_perception.errors import ImageError


@dataclasses.dataclass(frozen=True)
class _Planes:
    """
    Where the colour lies.

    :param across, down: pixels that share a colour. :param order: of U and V.
    :param interleaved: U and V alternate in one plane; else each has its own.
    """

    across: int
    down: int
    order: str
    interleaved: bool = True


_PLANES = {
    'nv12': _Planes(2, 2, 'UV'), 'nv21': _Planes(2, 2, 'VU'),
    'nv16': _Planes(2, 1, 'UV'), 'nv61': _Planes(2, 1, 'VU'),
    'nv24': _Planes(1, 1, 'UV'), 'nv42': _Planes(1, 1, 'VU'),
    'i420': _Planes(2, 2, 'UV', False), 'iyuv': _Planes(2, 2, 'UV', False),
    'yu12': _Planes(2, 2, 'UV', False), 'yv12': _Planes(2, 2, 'VU', False),
}
PLANAR_ENCODINGS = tuple(_PLANES)


def decode_planar(encoding: str, height: int, width: int, step: int, data) -> np.ndarray:
    """
    Decode a planar image.

    :param encoding: one of `PLANAR_ENCODINGS`.
    :param step: bytes from one row of the brightness plane to the next. The colour rows are as long in
        proportion. Drivers also give the bytes of a row of all planes; what fits the data is taken.
    :param data: any C-contiguous buffer of bytes.
    :return: (height, width, 3) uint8 BGR.
    :raises ImageError: bad_step or short_data.
    """
    planes = _PLANES[encoding]
    buffer = np.frombuffer(memoryview(data).cast('B'), np.uint8)
    if step < width:
        raise ImageError('bad_step', f'{step}, expected at least {width} for {width} px of {encoding}')
    needed = _needed(planes, height, width, step)
    if buffer.size < needed and buffer.size == _needed(planes, height, width, width):
        step, needed = width, buffer.size
    if buffer.size < needed:
        raise ImageError(
            'short_data', f'{buffer.size} bytes, expected {needed} for {width}x{height} {encoding}, '
                          f'step {step}')
    luma = _plane(buffer, 0, height, width, step)
    chroma = _chroma(buffer, planes, height, width, step)
    if planes.down == 2:
        # OpenCV takes even sizes only; the pixels that are added are cut off again.
        even = cv2.copyMakeBorder(luma, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        image = cv2.cvtColorTwoPlane(even, chroma, cv2.COLOR_YUV2BGR_NV12)
        return image if even is luma else np.ascontiguousarray(image[:height, :width])
    # As packed UYVY, in which two pixels share a colour: where each has its own, each is there twice.
    repeated = np.repeat(luma, 2, axis=1) if planes.across == 1 else (
        cv2.copyMakeBorder(luma, 0, 0, 0, width % 2, cv2.BORDER_REPLICATE))
    packed = np.empty((*repeated.shape, 2), np.uint8)
    packed[..., 1] = repeated
    packed[:, 0::2, 0], packed[:, 1::2, 0] = chroma[..., 0], chroma[..., 1]
    image = cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_UYVY)
    return np.ascontiguousarray(image[:, ::2] if planes.across == 1 else image[:, :width])


def _chroma_layout(planes: _Planes, height: int, width: int, step: int) -> tuple[int, int, int]:
    """Return (rows, bytes of a row, bytes from row to row) of a colour plane."""
    values = -(-width // planes.across)
    stride = -(-step // planes.across)
    count = 2 if planes.interleaved else 1
    return -(-height // planes.down), values * count, stride * count


def _needed(planes: _Planes, height: int, width: int, step: int) -> int:
    """Return the bytes of an image; the padding of the very last row may be missing."""
    rows, row_bytes, stride = _chroma_layout(planes, height, width, step)
    return step * height + stride * rows * (1 if planes.interleaved else 2) - (stride - row_bytes)


def _plane(buffer: np.ndarray, start: int, rows: int, row_bytes: int, stride: int) -> np.ndarray:
    view = np.ndarray((rows, row_bytes), np.uint8, buffer=buffer, offset=start, strides=(stride, 1))
    return np.ascontiguousarray(view)


def _chroma(buffer: np.ndarray, planes: _Planes, height: int, width: int, step: int) -> np.ndarray:
    """Return (rows, values, 2) of U and V."""
    rows, row_bytes, stride = _chroma_layout(planes, height, width, step)
    start = step * height
    first = _plane(buffer, start, rows, row_bytes, stride)
    if planes.interleaved:
        pair = first.reshape(rows, -1, 2)
    else:
        pair = np.stack([first, _plane(buffer, start + stride * rows, rows, row_bytes, stride)], axis=-1)
    return np.ascontiguousarray(pair if planes.order == 'UV' else pair[..., ::-1])
