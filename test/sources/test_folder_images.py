# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What of a folder is read as images: content decides, and what is left out is named with its reason."""

import json

import cv2
import pytest

from bag_helpers import numbered_image
from kd_perception.cli.main import main
from kd_perception.errors import BagError, ImageError
from kd_perception.images.kinds import image_kind
from kd_perception.sources.any_source import open_source
from kd_perception.sources.folder_images import list_images

HEIC = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'
AVIF = b'\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf'
GIF = b'GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;'


def encoded(number, suffix='.png', hw=(8, 12)):
    return bytes(cv2.imencode(suffix, numbered_image(number, hw))[1])


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize('suffix, kind', [
    ('.jpg', 'JPEG'), ('.png', 'PNG'), ('.bmp', 'BMP'), ('.ppm', 'PNM'), ('.tif', 'TIFF'), ('.webp', 'WebP')])
def test_each_kind_is_told_by_its_first_bytes(tmp_path, suffix, kind):
    data = encoded(3, suffix)
    assert image_kind(data[:512]) == kind
    # Under a name that tells nothing it is read all the same; a TIFF may be a raw photograph.
    write(tmp_path, {'1.png': encoded(1), 'frame_3': data})
    listed = list_images(tmp_path)
    if kind == 'TIFF':
        assert listed.left_out == {'TIFF of another suffix': ['frame_3']}
    else:
        assert [item.name for item in listed.files] == ['1.png', 'frame_3']
    assert [item.name for item in list_images(write(tmp_path / 'named', {f'a{suffix}': data})).files]


@pytest.mark.parametrize('head', [
    b'', b'BM', b'BM' + bytes(600), b'P6 matrix of the camera', b'P2: 7.1e+02 0 6', b'RIFF\0\0\0\0WAVEfmt ',
    b'\0\0\0\x18ftypisom\0\0\0\0isommp42', b'Car 0.00 0 1.5 1 2 3 4', b'\xff\xd8'])
def test_what_only_resembles_an_image_is_none(head):
    assert image_kind(head) == ''


def test_content_decides_and_the_rest_is_named(tmp_path):
    write(tmp_path, {
        '1.jpg': encoded(1), '2.dat': encoded(2), '3': encoded(3), '4.JPG.txt': encoded(4),
        '5.png': encoded(5),
        '1.jpg.bak': encoded(9), '5.thumb': encoded(9), 'a.gif': GIF, 'b.gif': b'', 'c.heic': HEIC,
        'd': HEIC, 'e.bin': AVIF, 'f.dng': encoded(9, '.tif'), '.g.jpg': encoded(9), '._1.jpg': b'\0\5\x16\7',
        'more/6.png': encoded(6), 'label_2/1.txt': b'Car', 'notes.txt': b'P6 is a portable pixmap',
        'timestamps.txt': b'1.0\n2.0\n3.0\n4.0\n5.0\n'})
    with open_source(tmp_path) as source:
        assert [int(frame.decode()[0, 0, 0]) for frame in source] == [1, 2, 3, 4, 5]
        name = tmp_path.name
        assert source.problems == [
            f'{name}: 3 images by their content, not their names, are read too: 2.dat, 3, 4.JPG.txt',
            f'{name}: left out: 1 AVIF (e.bin), 2 GIF (a.gif, b.gif), 2 HEIC (c.heic, d), '
            '2 beside an image of that name (1.jpg.bak, 5.thumb), 1 hidden (.g.jpg), '
            '1 raw photograph (f.dng), 1 sub-folder with images (more)']
    with open_source(tmp_path / '3') as source:
        assert [int(frame.decode()[0, 0, 0]) for frame in source] == [3] and source.kind == 'folder'


def test_a_name_that_lies_keeps_its_place_and_says_what_it_holds(tmp_path):
    write(tmp_path, {'0.jpg': encoded(0), '1.jpg': b'no image at all', '2.jpg': HEIC, '3.jpg': GIF,
                     '4.jpg': encoded(4)})
    (tmp_path / '5.jpg').symlink_to(tmp_path / 'of a drive that is not mounted')
    reasons = {}
    with open_source(tmp_path) as source:
        for frame in source:
            try:
                frame.decode()
            except ImageError as error:
                reasons[frame.name] = (error.reason, str(error))
        assert source.frame_count == 6 and next(iter(source)).encoded() == (encoded(0), 'png')
    assert {name: reason for name, (reason, _) in reasons.items()} == {
        '1': 'corrupt_compressed', '2': 'unsupported_encoding', '3': 'unsupported_encoding',
        '5': 'short_data'}
    assert '2.jpg holds HEIC' in reasons['2'][1] and '3.jpg holds GIF' in reasons['3'][1]


def test_sub_folders_that_hold_nothing_to_read_are_named(tmp_path):
    write(tmp_path, {'front/1.png': encoded(1), 'rear/1.png': encoded(2), 'phone/1.heic': HEIC,
                     'x.gif': GIF})
    with open_source(tmp_path) as source:
        assert [camera.name for camera in source.cameras] == ['front', 'rear']
        assert source.problems[0] == (
            f'{tmp_path.name}: left out: 1 GIF (x.gif), 1 sub-folder with images (phone)')
    write(tmp_path / 'only', {'a.heic': HEIC, 'b.heic': HEIC})
    with pytest.raises(BagError, match=r'holds no image.*left out: 2 HEIC \(a.heic, b.heic\)'):
        open_source(tmp_path / 'only')


def test_detect_counts_them_on_the_terminal_and_in_the_summary(tmp_path, capsys):
    images = write(tmp_path / 'in', {'1.png': encoded(1, hw=(64, 96)), '2.jpg': b'text', 'c.heic': HEIC})
    assert main(['detect', '--input', str(images), '--model', 'student', '--threads', '1', '--quiet',
                 '--out', str(tmp_path / 'out')]) == 0
    shown = capsys.readouterr()
    assert 'left out: 1 HEIC (c.heic)' in shown.err and '1 of 2 frames were skipped' in shown.err
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert 'in: left out: 1 HEIC (c.heic)' in summary['input_problems']
    assert [(item['name'], item['reason']) for item in summary['skipped']] == [('2', 'corrupt_compressed')]
