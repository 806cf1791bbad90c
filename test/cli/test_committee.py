# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`committee` and `pseudo-label --committee`, with models that find bright rectangles."""

import dataclasses
import json

import cv2
import pytest
import yaml

pytest.importorskip('onnx', reason='onnx, which writes the test models, is not installed')

from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.detection.committee import CommitteeSettings, MemberSettings
from kd_perception.evaluation.committee import committee_file
from kd_perception.labels.kitti_text import read_label_file

HW = (96, 128)
BOX = (16, 24, 48, 64)
LINE = '{} 0.00 0 0.10 {} {} {} {} 1.50 1.60 3.70 1.00 1.70 9.00 0.20\n'


@pytest.fixture
def folder(tmp_path):
    """Two models, of which one sees only half as much, and a file that names both."""
    write_rectangle_model(tmp_path / 'a.onnx')
    write_rectangle_model(tmp_path / 'b.onnx', score_gain=0.5)
    members = [{'model': 'a.onnx'}, {'model': 'b.onnx', 'skip': ['Cyclist']}]
    (tmp_path / 'both.yaml').write_text(yaml.safe_dump({'labels': ['Car', 'Pedestrian', 'Cyclist'],
                                                        'members': members}))
    site = tmp_path / 'site'
    for part in ('images', 'label_2'):
        (site / part).mkdir(parents=True)
    for number in range(12):
        shade = (200, 120)[number % 2]
        cv2.imwrite(str(site / 'images' / f'{number:06d}.png'), draw_rectangles(HW, (0, BOX, shade)))
        (site / 'label_2' / f'{number:06d}.txt').write_text(LINE.format('Car', *BOX))
    return tmp_path


def test_majorities_are_labels_and_single_voices_dont_care(folder):
    drive = folder / 'drive'
    drive.mkdir()
    cv2.imwrite(str(drive / 'sure.png'), draw_rectangles(HW, (0, BOX, 250)))      # 0.98 and 0.49
    cv2.imwrite(str(drive / 'doubtful.png'), draw_rectangles(HW, (0, BOX, 100)))  # 0.39 and 0.20
    cv2.imwrite(str(drive / 'rider.png'), draw_rectangles(HW, (2, BOX, 100)))     # 0.39, asked alone
    assert main(['pseudo-label', '--committee', str(folder / 'both.yaml'), '--input', str(drive),
                 '--quiet', '--out', str(folder / 'out')]) == 0
    types = {path.stem: read_label_file(path, scores=False).types
             for path in (folder / 'out' / 'drive' / 'label_2').glob('*.txt')}
    assert types == {'sure': ('Car',), 'doubtful': ('DontCare',), 'rider': ('Cyclist',)}
    summary = json.loads((folder / 'out' / 'pseudo_labels.json').read_text())
    assert [m['name'] for m in summary['committee']['members']] == ['a', 'b']
    assert summary['committee']['members'][1]['labels'] == ['Car', 'Pedestrian']
    assert summary['scores'] == {'Car': 0.5, 'Pedestrian': 0.4, 'Cyclist': 0.3}
    assert summary['uncertain'] == 0.1


def test_report_and_calibration(folder, capsys):
    fitted = folder / 'fitted.yaml'
    assert main(['committee', '--committee', str(folder / 'both.yaml'), '--input', str(folder / 'site'),
                 '--quiet', '--out', str(folder / 'report'), '--fit', str(fitted)]) == 0
    report = json.loads((folder / 'report' / 'committee.json').read_text())
    whole = {row['detector']: row for row in report['rows']
             if row['label'] == 'Car' and row['height_px'] == [25, None]}
    figures = {name: (row['precision'], row['recall'], row['objects']) for name, row in whole.items()}
    assert figures == dict.fromkeys(('committee', 'a', 'b'), (1.0, 1.0, 12))
    assert '| committee | Car | 25 and more | 12 | 1.000 |' in capsys.readouterr().out
    members = yaml.safe_load(fitted.read_text())['members']
    # All of both are right: scores rise, those of the dull one most.
    gain = [m['calibration']['Car'][1] for m in members]
    assert gain[0] > 0 and gain[1] > 0
    assert main(['committee', '--committee', str(fitted), '--input', str(folder / 'site'), '--quiet',
                 '--out', str(folder / 'again')]) == 0
    assert json.loads((folder / 'again' / 'committee.json').read_text())['rows'] == report['rows']


def test_a_file_that_is_written_reads_back_as_it_was(tmp_path):
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / 'net.xml').write_bytes(b'x')
    settings = CommitteeSettings(('Car', 'Cyclist'), (
        MemberSettings('net.xml', {0: 'Car', 2: 'Cyclist'}, calibration={'Car': (2.0, -0.5)}),
        MemberSettings('teacher', skip=('Cyclist',))))
    path = tmp_path / 'fitted.yaml'
    path.write_text(yaml.safe_dump(committee_file(settings, tmp_path / 'raw', tmp_path)))
    moved = dataclasses.replace(settings.members[0], model='raw/net.xml')
    assert load_config(CommitteeSettings, path) == dataclasses.replace(settings,
                                                                       members=(moved, settings.members[1]))


@pytest.mark.parametrize('change, message', [
    ({'members': []}, 'expected labels, members'),
    ({'members': [{'model': 'a.xml'}]}, 'classes are given with an IR file'),
    ({'members': [{'model': 'a.onnx'}, {'model': 'a.onnx'}]}, 'given twice'),
    ({'members': [{'model': 'a.onnx', 'skip': ['Bus']}]}, 'not among labels'),
    ({'members': [{'model': 'none.onnx'}]}, 'none.onnx'),
    ({'labels': ['Bus'], 'members': [{'model': 'a.onnx'}]}, 'none of'),
])
def test_files_that_name_no_committee_are_refused(folder, change, message, capsys):
    mapping = {**yaml.safe_load((folder / 'both.yaml').read_text()), **change}
    (folder / 'bad.yaml').write_text(yaml.safe_dump(mapping))
    assert main(['committee', '--committee', str(folder / 'bad.yaml'), '--input', str(folder / 'site'),
                 '--out', str(folder / 'report')]) == 2
    assert message in capsys.readouterr().err


def test_a_set_without_labels_is_refused(folder, capsys):
    assert main(['committee', '--committee', str(folder / 'both.yaml'), '--input', str(folder),
                 '--out', str(folder / 'report')]) == 2
    assert 'expected a set with images/ and label_2/' in capsys.readouterr().err
