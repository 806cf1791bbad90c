# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`check-labels`: every planted fault is found with file and line, and nothing else is."""

import cv2
import numpy as np
import pytest

from kd_perception.cli.main import main

GOOD = 'Car -1 -1 -10 5 5 35 30 -1 -1 -1 -1000 -1000 -1000 -10\n'


def line(kind='Car', box='5 5 35 30'):
    return f'{kind} -1 -1 -10 {box} -1 -1 -1 -1000 -1000 -1000 -10\n'


@pytest.fixture
def site(tmp_path):
    for name in ('images', 'label_2'):
        (tmp_path / 'site' / name).mkdir(parents=True)
    for name, text in {
            'good': GOOD + '\n' + line('DontCare', '40 5 60 30'), 'empty': '',
            'lines': GOOD + 'Car 1 2 3\n\n' + line(box='9 5 3 30') + line(box='5 5 x 30') + GOOD,
            'case': line('car'), 'outside': line(box='90 5 99 30') + line(box='60 5 99 30'),
            'missing': GOOD, 'broken': GOOD, 'tiny': line(box='5 5 5.4 30') + line('Scooter')}.items():
        (tmp_path / 'site' / 'label_2' / f'{name}.txt').write_text(text)
        if name != 'missing':
            cv2.imwrite(str(tmp_path / 'site' / 'images' / f'{name}.png'), np.zeros((60, 80, 3), np.uint8))
    broken = tmp_path / 'site' / 'images' / 'broken.png'
    broken.write_bytes(broken.read_bytes()[:60])
    cv2.imwrite(str(tmp_path / 'site' / 'images' / 'unlabelled.png'), np.zeros((60, 80, 3), np.uint8))
    return tmp_path / 'site'


def test_every_fault_has_its_line(site, capsys):
    assert main(['check-labels', '--input', str(site)]) == 1
    found = capsys.readouterr().out.splitlines()
    labels = site / 'label_2'
    for start in (f'error: {labels}/lines.txt:2: 4 columns, 15 expected',
                  f'error: {labels}/lines.txt:4: box 9 5 3 30 is inverted',
                  f"error: {labels}/lines.txt:5: right is 'x', a number expected",
                  f"error: {labels}/case.txt:1: type is 'car', training reads 'Car'",
                  f'error: {labels}/outside.txt:1: box 90 5 99 30 lies outside its image of 80x60 px',
                  f'error: {labels}/missing.txt: no image', f'error: {site}/images/broken.png: ',
                  f'warning: {labels}/outside.txt:2: box 60 5 99 30 ends 19 px outside',
                  f'warning: {labels}/tiny.txt:1: box 5 5 5.4 30 is under 1 px',
                  f'warning: {labels}/lines.txt:6: the same Car as in line 1',
                  f"warning: {labels}: type 'Scooter', 1 objects",
                  f'warning: {site}/images: 1 images have no label'):
        assert sum(text.startswith(start) for text in found) == 1, start
    assert found[-1].startswith(f'{site}: 8 label files, 8 images')
    assert found[-1].endswith('7 errors, 5 warnings, 3 frames without an error') and len(found) == 13


def test_a_clean_folder_and_no_folder(site, capsys):
    for name in ('lines', 'case', 'outside', 'missing', 'broken'):
        (site / 'label_2' / f'{name}.txt').unlink()
    assert main(['check-labels', '--input', str(site), '--quiet', '--class', 'Car',
                 '--class', 'Scooter']) == 0
    assert capsys.readouterr().out.splitlines() == [
        f'{site}: 3 label files, 8 images, 2 Car, 1 DontCare, 1 Scooter; 0 errors, 2 warnings, '
        '3 frames without an error']
    assert main(['check-labels', '--input', str(site / 'images')]) == 2
    assert 'label_2: not a readable folder' in capsys.readouterr().err
