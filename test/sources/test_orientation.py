# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One rule for orientation: whoever decodes an image gets it upright, and says how many were turned."""

import io

import cv2
import numpy as np
from PIL import Image, ImageOps
import pytest

from bag_helpers import stamp_of
from kd_perception.bags.writer import BagWriter
from kd_perception.images.compressed import decode_image_file, orientation_of
from kd_perception.labels.label_check import check_labels
from kd_perception.messages import build
from kd_perception.sources.any_source import open_source
from kd_perception.sources.folders import read_image_file

TURNED = 'images were turned upright, as their EXIF data say'
UPRIGHT_HW = (96, 160)


def picture():
    noise = np.random.default_rng(0).integers(0, 256, (*(side // 8 for side in UPRIGHT_HW), 3), np.uint8)
    return cv2.resize(noise, UPRIGHT_HW[::-1], interpolation=cv2.INTER_CUBIC)


def stored(kind, orientation, pixels=None, **options):
    """Return an image file whose EXIF data hold an orientation."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(picture() if pixels is None else pixels).save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind,options', [
    ('PNG', {}), ('WEBP', {'lossless': True}), ('TIFF', {}), ('JPEG', {'quality': 95})])
def test_every_orientation_and_format_is_turned_as_pillow_turns_it(kind, options, orientation):
    data = stored(kind, orientation, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB'))[..., ::-1]
    image = decode_image_file(data, 'a')
    assert image.shape == expected.shape and image.flags.c_contiguous
    # Two builds of libjpeg may round differently.
    assert np.abs(image.astype(int) - expected).max() <= (4 if kind == 'JPEG' else 0)
    assert orientation_of(data) == orientation


@pytest.mark.parametrize('value', [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(value):
    data = stored('PNG', value)
    assert np.array_equal(decode_image_file(data, 'a'), picture()[..., ::-1])


@pytest.mark.parametrize('damage', range(9, 32, 3))
def test_exif_data_out_of_order_turn_nothing(damage):
    data = bytearray(stored('JPEG', 6))
    place = data.index(b'Exif')
    data[place + 6:place + damage] = b'\x7f' * (damage - 6)
    assert decode_image_file(bytes(data), 'a').shape == (*UPRIGHT_HW, 3)


@pytest.fixture
def labelled(tmp_path):
    """One image that lies on its side, labelled as every labelling tool shows it, and an upright one."""
    for folder in ('images', 'label_2'):
        (tmp_path / folder).mkdir()
    on_its_side = np.ascontiguousarray(np.rot90(picture()))
    (tmp_path / 'images' / 'a.jpg').write_bytes(stored('JPEG', 6, on_its_side, quality=95))
    (tmp_path / 'images' / 'b.png').write_bytes(stored('PNG', 1))
    for name in 'ab':
        (tmp_path / 'label_2' / f'{name}.txt').write_text(
            'Car 0.00 0 0 100.00 10.00 150.00 60.00 1 1 1 1 1 9 0\n')
    return tmp_path


def test_folders_labels_and_single_files_agree(labelled):
    with open_source(labelled / 'images') as source:
        first, second = [frame.decode() for frame in source]
        assert first.shape == second.shape == (*UPRIGHT_HW, 3)
        assert np.abs(first.astype(int) - second).mean() < 3, 'the same picture'
        list(source)
        assert [line for line in source.problems if TURNED in line][0].startswith('1 images were turned')
    assert np.array_equal(read_image_file(labelled / 'images' / 'a.jpg'), first)
    found = check_labels(labelled / 'images', labelled / 'label_2')
    assert found.errors == [] and found.image_hw == {'a': UPRIGHT_HW, 'b': UPRIGHT_HW}
    assert [line for line in found.warnings if '1 images are turned upright' in line]


def test_compressed_topics_agree(labelled):
    data = (labelled / 'images' / 'a.jpg').read_bytes()
    with BagWriter(labelled / 'b.mcap') as writer:
        for i in range(3):
            message = build.compressed_image(data, 'jpeg', stamp_of(i), 'c')
            writer.write('/front/image_raw/compressed', message, stamp_of(i))
    with open_source(labelled / 'b.mcap') as source:
        for frame in source:
            assert np.array_equal(frame.decode(), read_image_file(labelled / 'images' / 'a.jpg'))
        assert any(line.startswith(f'3 {TURNED}') for line in source.problems)
