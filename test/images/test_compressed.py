# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Compressed images: OpenCV's pixels where the data is whole, a refusal where it is not."""

import struct
import zlib

import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.images import compressed as compressed_module
from kd_perception.images import raw as image_module
from kd_perception.images.compressed import decode_compressed, decode_image_file
from kd_perception.images.raw import REASONS

_EXIF = b'Exif\0\0'


def picture(hw=(240, 320), seed=0):
    """Return smooth noise, which gives a JPEG of many bytes."""
    small = np.random.default_rng(seed).integers(0, 256, (hw[0] // 8, hw[1] // 8, 3), np.uint8)
    return cv2.resize(small, hw[::-1], interpolation=cv2.INTER_CUBIC)


def encode(extension, image=None, *options):
    image = picture() if image is None else image
    return cv2.imencode(extension, image, options)[1].tobytes()


def opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


KINDS = {
    'baseline': lambda: encode('.jpg'),
    'progressive': lambda: encode('.jpg', None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    'restarts': lambda: encode('.jpg', None, cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    'grey': lambda: encode('.jpg', picture()[..., 0]),
    'best': lambda: encode('.jpg', None, cv2.IMWRITE_JPEG_QUALITY, 100),
    '4:4:4': lambda: encode('.jpg', None, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    '4:2:2, odd': lambda: encode('.jpg', picture()[:233, :317], cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                                 cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    '4:1:1': lambda: encode('.jpg', None, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    'no tables, as in Motion JPEG': lambda: without_segments(encode('.jpg'), 0xC4),
}
# Any size is that of a lost packet or sector; `half` is where.
DAMAGES = {
    'a packet lost': lambda data, half: data[:half] + data[half + 1400:],
    'half of it, and an end marker': lambda data, half: data[:half] + b'\xff\xd9',
    'zeroed': lambda data, half: data[:half] + bytes(300) + data[half + 300:],
    'a sector zeroed': lambda data, half: data[:half] + bytes(512) + data[half + 512:],
    'a packet twice': lambda data, half: data[:half] + data[half - 1400:],
    'cut': lambda data, half: data[:half],
    'cut, padded': lambda data, half: data[:half] + bytes(4096),
    'cut, another image behind': lambda data, half: data[:half] + data,
    'end marker lost': lambda data, half: data[:-2],
}
TRAILERS = {
    'zeros': bytes(4096), 'newline': b'\n', 'fill': b'\xff' * 16, 'a few bytes': b'tail\1\2\3\4',
    'text with a marker': b'\xff\xd9 and \xff\xd8 again', 'half a marker': b'\xff',
    "a phone's": b'\0\0\1\x0aImage_UTC_Data' + b'1' * 90 + b'SEFT',
    'a movie': b'\0\0\0\x18ftypmp42' + bytes(500),
}


def without_segments(data, *markers):
    """Return a JPEG without the header segments of some kinds."""
    kept, position = data[:2], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2:position + 4], 'big')
        kept += b'' if data[position + 1] in markers else data[position:end]
        position = end
    return kept + data[position:]


def with_segment(data, marker, content):
    """Return a JPEG with another segment behind its start."""
    return data[:2] + bytes([0xFF, marker]) + struct.pack('>H', 2 + len(content)) + content + data[2:]


def refused(data, name='jpeg'):
    with pytest.raises(ImageError) as error:
        decode_compressed(data, name)
    assert error.value.reason in REASONS and '\n' not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize('kind', KINDS)
def test_the_pixels_are_those_of_opencv(kind):
    data = KINDS[kind]()
    image = decode_compressed(data, 'jpeg')
    assert image.shape[2] == 3 and image.dtype == np.uint8 and np.array_equal(image, opencv(data))


@pytest.mark.parametrize('optimised', [0, 1])
@pytest.mark.parametrize('level', [0, 128, 255])
def test_a_flat_image_is_not_taken_for_a_zeroed_one(level, optimised):
    flat = np.full((480, 640, 3), level, np.uint8)
    half = flat.copy()
    half[100:140] = picture((40, 640))
    for image in (flat, half, flat[..., 0]):
        for quality in (1, 50, 95):
            data = encode('.jpg', image, cv2.IMWRITE_JPEG_OPTIMIZE, optimised,
                          cv2.IMWRITE_JPEG_QUALITY, quality)
            assert np.array_equal(decode_compressed(data), opencv(data))


def test_png_is_exact():
    image = picture()
    assert np.array_equal(decode_compressed(encode('.png', image), 'bgr8; png compressed bgr8'), image)
    grey = decode_compressed(encode('.png', image[..., 0].astype(np.uint16) * 257))
    assert np.array_equal(grey, cv2.merge([image[..., 0]] * 3)), '16 bits become 8'


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('kind', KINDS)
def test_a_damaged_jpeg_is_refused(kind, damage):
    data = KINDS[kind]()
    header = data.index(b'\xff\xda')
    for share in (0.3, 0.5, 0.7):
        half = header + int(share * (len(data) - header))
        assert refused(DAMAGES[damage](data, half)) == 'corrupt_compressed'


@pytest.mark.parametrize('trailer', TRAILERS)
@pytest.mark.parametrize('kind', [*KINDS, 'png'])
def test_what_follows_the_end_has_no_meaning(kind, trailer):
    data = encode('.png') if kind == 'png' else KINDS[kind]()
    whole = decode_compressed(data)
    for behind in (TRAILERS[trailer], data[:999], data + TRAILERS[trailer]):
        assert np.array_equal(decode_compressed(data + behind), whole)
        assert np.array_equal(decode_compressed(memoryview(bytearray(data + behind))), whole)


def test_a_thumbnail_inside_is_not_the_image():
    """A preview in the header has an end marker of its own."""
    data = with_segment(encode('.jpg'), 0xE1, _EXIF + encode('.jpg', picture((32, 40), 5)))
    data = with_segment(data, 0xE2, b'MPF\0' + bytes(70))
    assert np.array_equal(decode_compressed(data), opencv(encode('.jpg')))
    assert refused(data[:len(data) // 2]) == 'corrupt_compressed'
    thumbnail_end = data.index(b'\xff\xd9') + 2
    assert refused(data[:thumbnail_end]) == 'corrupt_compressed'


def quirks():
    data = encode('.jpg')
    end, scan = data.rindex(b'\xff\xd9'), data.index(b'\xff\xda')
    behind_scan = scan + 2 + int.from_bytes(data[scan + 2:scan + 4], 'big')
    version = data.index(b'JFIF\0') + 5
    return {
        'JFIF of another version': data[:version] + b'\2' + data[version + 1:],
        'spectral end 0': data[:behind_scan - 2] + b'\0' + data[behind_scan - 1:],
        'zeros before the end marker': data[:end] + bytes(31) + data[end:],
        'fill before the end marker': data[:end] + b'\xff' * 7 + data[end:],
    }


@pytest.mark.parametrize('quirk', quirks())
def test_what_no_pixel_depends_on_is_let_pass(quirk):
    data = quirks()[quirk]
    whole = decode_compressed(data)
    assert np.array_equal(whole, decode_compressed(encode('.jpg')))
    half = len(data) // 2
    for damage in ('a packet lost', 'zeroed', 'cut, padded', 'half of it, and an end marker'):
        assert refused(DAMAGES[damage](data, half)) == 'corrupt_compressed'


def test_each_byte_of_a_png_is_checked():
    data = encode('.png', picture((16, 24)))
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x41
        assert refused(bytes(broken)) in (
            'unsupported_encoding' if position < 8 else 'corrupt_compressed', 'too_large')
    for length in range(8, len(data)):
        assert refused(data[:length]) == 'corrupt_compressed'


@pytest.mark.parametrize('make,reason', [
    (lambda: b'', 'short_data'),
    (lambda: b'GIF89a' + bytes(50), 'unsupported_encoding'),
    (lambda: b'\n' + encode('.jpg'), 'unsupported_encoding'),
    (lambda: b'\xff\xd8' + bytes(60) + b'\xff\xd9', 'corrupt_compressed'),
    (lambda: with_png_size(0, 5), 'zero_size'),
    (lambda: with_png_size(0xFFFFFF, 0xFFFFFF), 'too_large'),
])
def test_bad_compressed_image(make, reason):
    assert refused(make()) == reason


def with_png_size(width, height):
    """Return a PNG whose header claims a size, with a right checksum."""
    data = encode('.png')
    header = b'IHDR' + struct.pack('>II', width, height) + data[24:29]
    return data[:12] + header + struct.pack('>I', zlib.crc32(header)) + data[33:]


def test_depth_is_no_picture():
    with pytest.raises(ImageError, match='depth'):
        decode_compressed(encode('.png'), '16UC1; compressedDepth')


def test_claimed_size_is_checked_before_decompression(monkeypatch):
    """A decompression bomb must not reach the decoder."""
    monkeypatch.setattr(image_module, 'MAX_IMAGE_PIXELS', 100)
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('decompressed'))
    monkeypatch.setattr(compressed_module.simplejpeg, 'decode_jpeg', lambda *_: pytest.fail('decompressed'))
    for extension in ('.png', '.jpg'):
        assert refused(encode(extension)) == 'too_large'


@pytest.mark.parametrize('extension', ['.bmp', '.ppm', '.tiff', '.webp', '.jpg', '.png'])
def test_files_are_known_by_their_content(extension):
    data = encode(extension)
    assert np.array_equal(decode_image_file(data, 'a.png'), opencv(data))
    with pytest.raises(ImageError, match='corrupt_compressed'):
        decode_image_file(data[:len(data) // 2], 'a.png')


@given(st.binary(max_size=300), st.sampled_from([b'', b'\xff\xd8', b'\x89PNG\r\n\x1a\n']))
def test_any_bytes_are_an_image_or_an_image_error(data, prefix):
    try:
        assert decode_compressed(prefix + data).ndim == 3
    except ImageError as error:
        assert error.reason in REASONS


@given(st.data())
def test_any_damage_is_an_image_or_an_image_error(data):
    jpeg = bytearray(encode('.jpg', picture((32, 40))))
    for _ in range(data.draw(st.integers(1, 4))):
        jpeg[data.draw(st.integers(2, len(jpeg) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_compressed(bytes(jpeg)).ndim == 3
    except ImageError as error:
        assert error.reason in REASONS
