# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Decoding of raw images: against rosbags-image, with padded rows, both byte orders, and every refusal."""

import types

import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import ImageError
from kd_perception.images.planar_yuv import PLANAR_ENCODINGS
from kd_perception.images.raw import decode_raw, REASONS, SUPPORTED_ENCODINGS

rosbags_image = pytest.importorskip(
    'rosbags.image', reason='rosbags-image, the oracle of this test, is not installed')

HEIGHT, WIDTH = 6, 8
# (bytes of an element, channels); floats are not among the oracle's conversions to BGR.
ORACLE = {'bgr8': (1, 3), '8UC3': (1, 3), 'rgb8': (1, 3), 'bgra8': (1, 4), 'rgba8': (1, 4), 'mono8': (1, 1),
          '8UC1': (1, 1), 'mono16': (2, 1), 'bgr16': (2, 3), 'rgb16': (2, 3), 'bayer_rggb8': (1, 1),
          'bayer_bggr8': (1, 1), 'bayer_gbrg8': (1, 1), 'bayer_grbg8': (1, 1),
          'yuv422': (1, 2), 'uyvy': (1, 2),
          'yuv422_yuy2': (1, 2), 'yuyv': (1, 2), '8UC4': (1, 4), 'bgra16': (2, 4), 'rgba16': (2, 4),
          'bayer_rggb16': (2, 1), 'bayer_bggr16': (2, 1), 'bayer_gbrg16': (2, 1),
          'bayer_grbg16': (2, 1)}


def padded(rows, padding):
    """Rows (H, row bytes) with noise behind each."""
    noise = np.random.default_rng(1).integers(0, 256, (len(rows), padding), dtype=np.uint8)
    return np.concatenate([rows, noise], axis=1).tobytes()


def oracle_bgr(encoding, rows, is_bigendian):
    """What rosbags-image makes of the same pixels (it ignores step, so it gets them unpadded)."""
    # It calls 8UC1 generic; as an intensity image it is mono8, and 8UC3 is bgr8.
    encoding = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8'}.get(encoding, encoding)
    message = types.SimpleNamespace(height=HEIGHT, width=WIDTH, encoding=encoding, is_bigendian=is_bigendian,
                                    step=rows.shape[1], data=rows.reshape(-1))
    return rosbags_image.message_to_cvimage(message, 'bgr8')


@pytest.mark.parametrize('padding', [0, 1, 6])
@pytest.mark.parametrize('encoding', ORACLE)
def test_agrees_with_rosbags_image(encoding, padding):
    itemsize, channels = ORACLE[encoding]
    rows = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH * channels * itemsize), dtype=np.uint8)
    image = decode_raw(encoding, HEIGHT, WIDTH, rows.shape[1] + padding, 0, padded(rows, padding))
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    # The oracle truncates 16-bit values where cv_bridge, and this package, round.
    tolerance = 1 if itemsize == 2 else 0
    assert np.abs(image.astype(int) - np.atleast_3d(oracle_bgr(encoding, rows, False))).max() <= tolerance


def test_every_encoding_is_compared_or_a_float():
    assert set(SUPPORTED_ENCODINGS) == set(ORACLE) | {'32FC1', '32FC3'} | set(PLANAR_ENCODINGS)


def bt601(y, u, v):
    """Return BGR of limited-range BT.601 values (ITU-R BT.601-7, 2.5), in floats."""
    y, u, v = 255 / 219 * (y.astype(float) - 16), u - 128.0, v - 128.0
    scale = 255 / 224
    blue, red = y + 1.772 * scale * u, y + 1.402 * scale * v
    green = y - scale * (0.344136 * u + 0.714136 * v)
    return np.clip(np.stack([blue, green, red], axis=-1), 0, 255)


@pytest.mark.parametrize('size_hw', [(6, 8), (5, 7), (5, 8), (6, 7), (1, 1)])
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', PLANAR_ENCODINGS)
def test_planar_yuv_is_what_its_definition_says(encoding, padding, size_hw):
    """Planes are laid out by V4L2's definition, noise in the padding; each pixel by the equation."""
    height, width = size_hw
    down = {'16': 1, '61': 1, '24': 1, '42': 1}.get(encoding[2:], 2)
    across = 1 if encoding[2:] in ('24', '42') else 2
    random = np.random.default_rng(7)
    luma = random.integers(16, 236, (height, width), np.uint8)
    u, v = random.integers(64, 192, (2, -(-height // down), -(-width // across)), np.uint8)
    first, second = (v, u) if encoding in ('nv21', 'nv61', 'nv42', 'yv12') else (u, v)
    step = width + padding

    def rows(plane, stride):
        noise = random.integers(0, 256, (len(plane), stride - plane.shape[1]), np.uint8)
        return np.concatenate([plane, noise], axis=1).tobytes()

    if encoding.startswith('nv'):
        pair = np.stack([first, second], axis=-1).reshape(len(u), -1)
        colour = rows(pair, -(-step // across) * 2)
    else:
        colour = rows(first, -(-step // 2)) + rows(second, -(-step // 2))
    data = rows(luma, step) + colour
    wide_u, wide_v = (np.repeat(np.repeat(plane, down, axis=0), across, axis=1)[:height, :width]
                      for plane in (u, v))
    expected = bt601(luma, wide_u, wide_v)
    for name in (encoding, encoding.upper()):
        image = decode_raw(name, height, width, step, 0, data)
        assert image.shape == (height, width, 3) and np.abs(image - expected).max() <= 2
    if not padding:     # some drivers give the bytes of a row of all planes
        assert np.array_equal(decode_raw(encoding, height, width, 3 * width, 0, data), image)
    with pytest.raises(ImageError, match='short_data'):
        decode_raw(encoding, height, width, step, 0, data[:height * step])


@pytest.mark.parametrize('encoding,code', [
    ('nv12', cv2.COLOR_YUV2BGR_NV12), ('nv21', cv2.COLOR_YUV2BGR_NV21), ('i420', cv2.COLOR_YUV2BGR_I420),
    ('yv12', cv2.COLOR_YUV2BGR_YV12)])
def test_planar_yuv_is_what_opencv_makes_of_its_own_layout(encoding, code):
    data = np.random.default_rng(3).integers(0, 256, (36, 32), np.uint8)
    expected = cv2.cvtColor(data, code)
    assert np.array_equal(decode_raw(encoding, 24, 32, 32, 0, data.tobytes()), expected)


@pytest.mark.parametrize('encoding', ['yuv422', 'yuyv'])
def test_packed_yuv_of_odd_width(encoding):
    rows = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH * 2), np.uint8)
    whole = decode_raw(encoding, HEIGHT, WIDTH, WIDTH * 2, 0, rows.tobytes())
    odd = decode_raw(encoding, HEIGHT, WIDTH - 1, WIDTH * 2, 0, rows.tobytes())
    assert np.array_equal(odd, whole[:, :-1])


@pytest.mark.parametrize('encoding,channels', [('mono16', 1), ('bgr16', 3)])
def test_byte_order(encoding, channels):
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH * channels))
    little = decode_raw(encoding, HEIGHT, WIDTH, WIDTH * channels * 2, 0, values.astype('<u2').tobytes())
    big = decode_raw(encoding, HEIGHT, WIDTH, WIDTH * channels * 2, 1, values.astype('>u2').tobytes())
    assert np.array_equal(little, big)
    expected = np.rint(values / 257).reshape(HEIGHT, WIDTH, channels)
    assert np.array_equal(little, np.broadcast_to(expected, (HEIGHT, WIDTH, 3)))


def test_floats_are_intensities():
    values = np.linspace(0, 1, HEIGHT * WIDTH * 3, dtype='>f4')
    image = decode_raw('32FC3', HEIGHT, WIDTH, WIDTH * 12, 1, values.tobytes())
    assert np.array_equal(image.reshape(-1), np.rint(values.astype(float) * 255))


def test_bgr8_is_a_view():
    data = bytearray(HEIGHT * (WIDTH * 3 + 5))
    image = decode_raw('bgr8', HEIGHT, WIDTH, WIDTH * 3 + 5, 0, data)
    data[WIDTH * 3 + 5] = 99
    assert image[1, 0, 0] == 99


def test_last_row_needs_no_padding():
    assert decode_raw('mono8', 2, 3, 10, 0, bytes(13)).shape == (2, 3, 3)


def raw_case(reason, **changes):
    fields = dict(encoding='bgr8', height=4, width=4, step=12, is_bigendian=0, data=bytes(48))
    return pytest.param({**fields, **changes}, reason, id=f'{reason}-{"-".join(changes)}')


@pytest.mark.parametrize('fields,reason', [
    raw_case('unsupported_encoding', encoding='nonsense'),
    raw_case('unsupported_encoding', encoding=''),
    raw_case('zero_size', height=0),
    raw_case('zero_size', width=0),
    raw_case('too_large', height=2**31, width=2**31, step=2**32 - 1),
    raw_case('bad_step', step=11),
    raw_case('bad_step', step=0),
    raw_case('bad_step', encoding='yuv422', width=3, step=6),
    raw_case('bad_step', encoding='nv12', step=3),
    raw_case('short_data', encoding='nv12', step=4, data=bytes(23)),
    raw_case('short_data', encoding='yv12', step=5, data=bytes(30)),
    raw_case('short_data', data=bytes(47)),
    raw_case('short_data', data=b''),
    raw_case('short_data', step=10**9),
    raw_case('non_finite', encoding='32FC1', step=16, data=np.full(16, np.nan, 'f4').tobytes()),
    raw_case('non_finite', encoding='32FC1', step=16, data=np.full(16, -np.inf, 'f4').tobytes()),
    raw_case('value_range', encoding='32FC1', step=16, data=np.full(16, 1.5, 'f4').tobytes()),
])
def test_bad_raw_image(fields, reason):
    with pytest.raises(ImageError) as error:
        decode_raw(**fields)
    assert error.value.reason == reason and reason in REASONS
    assert '\n' not in str(error.value)


@given(encoding=st.sampled_from([*SUPPORTED_ENCODINGS, 'other']),
       height=st.integers(0, 9), width=st.integers(0, 9), step=st.integers(0, 120),
       is_bigendian=st.integers(0, 255), data=st.binary(max_size=1200))
def test_any_message_is_an_image_or_an_image_error(encoding, height, width, step, is_bigendian, data):
    try:
        image = decode_raw(encoding, height, width, step, is_bigendian, data)
    except ImageError as error:
        assert error.reason in REASONS
    else:
        assert image.shape == (height, width, 3) and image.dtype == np.uint8
