# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The kind of an image file, by its first bytes."""

from __future__ import annotations

import re

# These are decoded with every OpenCV that is supported.
READ_KINDS = ('JPEG', 'PNG', 'BMP', 'PNM', 'TIFF', 'WebP')
_MARKS = (
    (b'\xff\xd8\xff', 'JPEG'), (b'\x89PNG\r\n\x1a\n', 'PNG'), (b'II*\0', 'TIFF'), (b'MM\0*', 'TIFF'),
    (b'GIF87a', 'GIF'), (b'GIF89a', 'GIF'), (b'8BPS\0\1', 'Photoshop'), (b'v/1\1', 'OpenEXR'),
    (b'\0\0\0\x0cjP  \r\n\x87\n', 'JPEG 2000'), (b'\xff\x0a', 'JPEG XL'),
    (b'\0\0\0\x0cJXL \r\n\x87\n', 'JPEG XL'))
# Brands of ISO base media files (ISO/IEC 23008-12, AV1 image file format).
_HEIC, _AVIF = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'mif1', b'msf1'), (b'avif', b'avis')
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
# Width, height and greatest value, between which comments may stand.
_PNM = re.compile(rb'P[56](?:\s+(?:#[^\n]*\n\s*)*\d+){3}\s')


def image_kind(head: bytes) -> str:
    """Return the kind of a file that begins with these bytes (some hundred), '' if it is no image."""
    for mark, kind in _MARKS:
        if head.startswith(mark):
            return kind
    if head[:4] == b'RIFF' and head[8:12] == b'WEBP':
        return 'WebP'
    if head[4:8] == b'ftyp':
        brands = [head[at:at + 4] for at in range(8, min(int.from_bytes(head[:4], 'big'), len(head)), 4)]
        return ('AVIF' if any(brand in _AVIF for brand in brands) else
                'HEIC' if any(brand in _HEIC for brand in brands) else '')
    if head[:2] == b'BM' and int.from_bytes(head[14:18], 'little') in _BMP_HEADERS:
        return 'BMP'
    return 'PNM' if _PNM.match(head) else ''
