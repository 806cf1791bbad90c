# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Decoding of compressed images, of messages and files alike: an image that is not whole is refused.

libjpeg fills what it misses with grey or shifted pixels and only warns; OpenCV keeps the warning for itself.
So JPEG goes through libjpeg-turbo itself (simplejpeg), whose warnings are errors here; pixels are the same.

One rule for orientation: an image is seen upright, as viewers and labelling tools show it. What its EXIF data
say is applied here, for every image of a file or message; sizes and boxes are those of the upright image.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import simplejpeg

from kd_perception.errors import ImageError
from kd_perception.images.kinds import image_kind, READ_KINDS
from kd_perception.images.raw import check_size
from kd_perception.limits import MAX_COMPRESSED_BYTES

_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8'
# Markers of JPEG segments (ITU-T T.81, table B.1).
_APP0, _SEQUENTIAL, _TABLES, _SCAN = 0xE0, (0xC0, 0xC1), 0xC4, 0xDA
# Longer than any block of a sequential image that is not flat.
_ZEROS = bytes(32)
_TIFF = (b'II*\0', b'MM\0*')
# Of JPEG, PNG and WebP.
_EXIF_MARKS = (b'Exif\0\0', b'eXIf', b'EXIF')
_ORIENTATION_TAG = 0x0112
_ROTATIONS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def decode_compressed(data, image_format: str = '') -> np.ndarray:
    """
    Decode the fields of a `sensor_msgs/CompressedImage` that holds a JPEG or PNG image.

    The size is read from the file's header before anything is decompressed. What follows the image's end has
    no meaning (padding, a second image, what a phone appends). A JPEG has no checksum: damage that leaves a
    valid stream is not seen.

    :param data: any C-contiguous buffer of bytes.
    :param image_format: the message's `format`; compressedDepth is refused, otherwise the data's
        own signature decides.
    :return: (H, W, 3) uint8 BGR, upright.
    :raises ImageError: with a reason out of `images.raw.REASONS`.
    """
    if 'compresseddepth' in image_format.lower():
        raise ImageError('unsupported_encoding', f'{image_format[:60]!r} is a depth image')
    buffer = memoryview(data).cast('B')
    if buffer.nbytes > MAX_COMPRESSED_BYTES:
        raise ImageError(
            'too_large', f'{buffer.nbytes} compressed bytes, expected at most {MAX_COMPRESSED_BYTES}')
    if not buffer.nbytes:
        raise ImageError('short_data', 'the compressed image is empty')
    if buffer[:2] == _JPEG:
        return _upright(_decode_jpeg(buffer), orientation_of(buffer))
    if buffer[:8] == _PNG:
        return _upright(_decode_png(buffer), orientation_of(buffer))
    raise ImageError('unsupported_encoding', f'{image_format[:40]!r}: the data is neither JPEG nor PNG')


def decode_image_file(data: bytes, name: str) -> np.ndarray:
    """
    Decode the content of an image file: JPEG and PNG as above, whatever its name, else what OpenCV reads.

    :param name: for messages. :return: (H, W, 3) uint8 BGR, upright.
    :raises ImageError: with a reason out of `images.raw.REASONS`.
    """
    if data[:2] == _JPEG or data[:8] == _PNG:
        return decode_compressed(data, name)
    kind = image_kind(data[:512])
    if kind and kind not in READ_KINDS:     # some of them with some releases of OpenCV only
        raise ImageError('unsupported_encoding', f'{name} holds {kind}, which is not read')
    image = _imdecode(data, name)
    check_size(*image.shape[:2])
    # OpenCV turns TIFF whatever it is told.
    return image if data[:4] in _TIFF else _upright(image, orientation_of(data))


def orientation_of(data) -> int:
    """
    Return how an encoded image lies, by its EXIF data (tag 0x0112, EXIF 2.32, 4.6.4).

    :return: 1, upright, to 8; 1 also where it does not say, or not in order.
    """
    encoded = bytes(data)
    if not any(mark in encoded for mark in _EXIF_MARKS) and encoded[:4] not in _TIFF:
        return 1
    from PIL import Image  # for the few images that need it
    try:
        with warnings.catch_warnings():     # on standard error they would name no file
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(encoded)) as image:
                orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:           # Pillow's errors on damaged or hostile bytes are of many kinds
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 7):       # mirrored along a diagonal
        image = cv2.transpose(image)
        return cv2.rotate(image, cv2.ROTATE_180) if orientation == 7 else image
    if orientation in (2, 4):
        return cv2.flip(image, 1 if orientation == 2 else 0)
    return cv2.rotate(image, _ROTATIONS[orientation]) if orientation in _ROTATIONS else image


def _imdecode(data, what: str) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error as error:
        raise ImageError('corrupt_compressed', f'{what}: {" ".join(str(error).split())[:200]}') from None
    if image is None:
        raise ImageError('corrupt_compressed', f'{what} is not an image that can be decoded')
    return image


def _decode_png(buffer: memoryview) -> np.ndarray:
    end = _png_end(buffer)
    return _imdecode(buffer[:end], 'the PNG data')


def _png_end(buffer: memoryview) -> int:
    """Return where the first image ends; each chunk's checksum is compared (PNG, third edition, 5.3)."""
    position, size = len(_PNG), buffer.nbytes
    while position + 12 <= size:
        length, kind = struct.unpack('>I4s', buffer[position:position + 8])
        end = position + 12 + length
        if end > size:
            break
        check, = struct.unpack('>I', buffer[end - 4:end])
        if zlib.crc32(buffer[position + 4:end - 4]) != check:
            raise ImageError('corrupt_compressed', f'the PNG chunk at byte {position} is damaged')
        if position == len(_PNG):
            if kind != b'IHDR' or length != 13:
                break
            width, height = struct.unpack('>II', buffer[position + 8:position + 16])
            check_size(height, width)
        if kind == b'IEND':
            return end
        position = end
    raise ImageError('corrupt_compressed', 'the PNG data ends early')


def _decode_jpeg(buffer: memoryview) -> np.ndarray:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(buffer, strict=False)
    except (ValueError, KeyError):
        raise ImageError('corrupt_compressed', 'the JPEG data holds no whole header') from None
    check_size(height, width)
    if _is_zeroed(buffer):
        raise ImageError('corrupt_compressed', 'a piece of the JPEG data is overwritten with zeros')
    try:
        return simplejpeg.decode_jpeg(buffer, colorspace='BGR')
    except ValueError as error:
        said = str(error)
    mended = _without_quirks(bytes(buffer))
    if mended is not None:
        try:
            return simplejpeg.decode_jpeg(mended, colorspace='BGR')
        except ValueError as error:
            said = str(error)
    raise ImageError('corrupt_compressed', f'{buffer.nbytes} bytes of JPEG: {said[:200]}')


def _without_quirks(data: bytes) -> bytes | None:
    """
    Return a JPEG without what libjpeg warns about though no pixel depends on it, else None.

    That is: a JFIF version other than 1, spectral parameters in the scans of a sequential image, which have
    one value only (ITU-T T.81, B.2.3), and zero bytes between the last scan and the end marker.
    """
    mended, sequential, scan = bytearray(data), False, 0
    for position, marker, length in _segments(data):
        if marker == _APP0 and data[position + 4:position + 9] == b'JFIF\0':
            mended[position + 9] = 1
        elif marker in _SEQUENTIAL:
            sequential = True
        elif marker == _SCAN:
            scan = position + 2 + length
            if sequential:
                mended[scan - 3:scan] = 0, 63, 0
    end = data.find(b'\xff\xd9', scan)
    if scan and end > 0:
        last = len(data[:end].rstrip(b'\0'))
        last += data[last - 1] == 0xFF      # the zero that is stuffed behind 0xFF belongs to the scan
        mended[last:end] = b''
    return bytes(mended) if mended != data else None


def _is_zeroed(buffer: memoryview) -> bool:
    """
    Tell whether a piece of the scan is zero bytes that no encoder writes: a sector or packet that was lost.

    The decoder may end at the right number of blocks all the same. The code of all zeros stands for the first
    symbol of each table (ITU-T T.81, C.2); unless that is "no more coefficients" and "no difference", long
    zeros would be blocks of 63 equal coefficients. Progressive images may hold them.
    """
    data = bytes(buffer)
    zeros = data.find(_ZEROS)
    if zeros < 0:
        return False
    flat, sequential, scan = True, False, len(data)
    for position, marker, length in _segments(data):
        if marker in _SEQUENTIAL:
            sequential = True
        elif marker == _TABLES:
            flat = flat and not any(_first_symbols(data[position + 4:position + 2 + length]))
        elif marker == _SCAN:
            scan = position
    zeros = data.find(_ZEROS, scan)
    return sequential and not flat and 0 <= zeros < data.find(b'\xff\xd9', scan)


def _first_symbols(tables: bytes) -> list[int]:
    """Return the first symbol of each Huffman table in a segment (ITU-T T.81, B.2.4.2)."""
    symbols, position = [], 0
    while position + 17 < len(tables):
        symbols.append(tables[position + 17])
        position += 17 + sum(tables[position + 1:position + 17])
    return symbols


def _segments(data: bytes):
    """Yield (position, marker, length) of the segments up to the first scan (ITU-T T.81, B.1.1.4)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:      # fill
            position += 1
            continue
        length = int.from_bytes(data[position + 2:position + 4], 'big')
        if position + 2 + length > len(data):
            return
        yield position, marker, length
        if marker == _SCAN:
            return
        position += 2 + length
