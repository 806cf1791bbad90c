# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Text files as users save them: a mark in front, another encoding, a class that nobody evaluates."""

import json

import numpy as np
import pytest

from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import run_command
from kd_perception.config import load_yaml
from kd_perception.errors import KdPerceptionError
from kd_perception.labels.kitti_folder import read_frame_labels, read_projection, read_tracking_labels
from kd_perception.labels.kitti_text import read_label_file
from kd_perception.labels.label_check import check_labels
from kd_perception.labels.label_folder import read_label_folder
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import IMAGE
from kd_perception.sources.folders import read_timestamps

MARK = b'\xef\xbb\xbf'
LABEL = 'Car 0.00 0 -1.57 {}.00 150.00 {}.00 230.00 1.5 1.6 3.7 2.0 1.6 20.0 -1.5\n'
DETECTION = 'Car -1 -1 -10 {}.00 150.00 {}.00 230.00 -1 -1 -1 -1000 -1000 -1000 -10 {}\n'
NUMBERS = ' '.join(['700', '0', '600', '0', '0', '700', '180', '0', '0', '0', '1', '0'])
LABELS = LABEL.format(50, 150) + LABEL.format(550, 650)


def folder_of(reader):
    return lambda path: reader(path.parent)


# What reads a text file, and a text: each gives for the file with a mark what it gives without.
READERS = {
    'labels': (lambda path: read_label_file(path).types, LABELS),
    'labels, many at once': (folder_of(lambda path: len(read_label_folder(path, False).type_names)), LABELS),
    'labels to convert': (folder_of(lambda path: [item.text for item in read_frame_labels(path).values()]),
                          LABELS),
    'detections': (lambda path: read_label_file(path, scores=True).types,
                   DETECTION.format(50, 150, 0.9) + DETECTION.format(550, 650, 0.8)),
    'tracking labels': (lambda path: list(read_tracking_labels(path)), f'0 1 {LABEL.format(50, 150)}'),
    'calibration': (lambda path: read_projection(path, 2).tolist(), f'P2: {NUMBERS}\n'),
    'time stamps': (read_timestamps, '1.5\n2.5\n'),
    'configuration': (load_yaml, 'steps: 3\nseed: 1\n'),
}


@pytest.mark.parametrize('name', READERS)
def test_a_byte_order_mark_changes_nothing_and_another_encoding_is_named(name, tmp_path):
    read, text = READERS[name]
    file = tmp_path / '000000.txt'
    file.write_text(text)
    expected = read(file)
    assert expected
    file.write_bytes(MARK + text.encode().replace(b'\n', b'\r\n'))
    assert json.dumps(read(file)).replace('\\r', '') == json.dumps(expected)
    # Joined files: a mark begins a line further down.
    file.write_bytes(MARK + MARK + text.encode())
    assert json.dumps(read(file)) == json.dumps(expected)
    for encoding in ('utf-16', 'utf-32', 'utf-16-le'):
        file.write_bytes(text.encode(encoding))
        with pytest.raises(KdPerceptionError, match=f'^{file}.*UTF-8'):
            read(file)


def test_the_marks_of_labels_and_detections_lose_no_object(tmp_path, capsys):
    for folder in ('plain', 'label_2', 'plain_found', 'found'):
        (tmp_path / folder).mkdir()
    for i in range(50):
        labels = LABEL.format(50 + i, 150 + i) + LABEL.format(550 + i, 650 + i)
        found = DETECTION.format(50 + i, 150 + i, 0.9) + DETECTION.format(550 + i, 650 + i, 0.8)
        for folder, text in (('plain', labels), ('plain_found', found)):
            (tmp_path / folder / f'{i:06d}.txt').write_text(text)
        for folder, text in (('label_2', labels), ('found', found)):
            (tmp_path / folder / f'{i:06d}.txt').write_bytes(MARK + text.encode())
    reports = []
    for labels, found in (('plain', 'plain_found'), ('label_2', 'found')):
        assert run_command('evaluate', [
            '--labels', str(tmp_path / labels), '--detections', str(tmp_path / found), '--no-html',
            '--out', str(tmp_path / 'report'), '--bootstrap', '0', '--coco', 'off']) == 0
        reports.append(json.loads((tmp_path / 'report' / 'report.json').read_text()))
    assert reports[0]['results']['Car']['moderate']['valid_ground_truths'] == 100
    assert reports[0]['results'] == reports[1]['results']
    assert reports[0]['data']['sha256'] == reports[1]['data']['sha256']
    assert not reports[1]['warnings']


def test_the_metadata_of_a_recording_may_have_a_mark(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        image = messages.raw_image(np.zeros((4, 4, 3), np.uint8), 10 ** 9, 'front')
        bag.write('/front/image_raw', image, 10 ** 9)
    metadata = tmp_path / 'bag' / 'metadata.yaml'
    metadata.write_bytes(MARK + metadata.read_bytes())
    with BagReader(tmp_path / 'bag') as bag:
        assert bag.topics['/front/image_raw'].msgtype == IMAGE
        assert not bag.problems


def evaluate(tmp_path, labels, found, *words):
    for folder, text in (('labels', labels), ('found', found)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / '000000.txt').write_text(text)
    assert run_command('evaluate', [
        '--labels', str(tmp_path / 'labels'), '--detections', str(tmp_path / 'found'), '--no-html', '--out',
        str(tmp_path / 'report'), '--bootstrap', '0', '--coco', 'off', *words]) == 0
    return json.loads((tmp_path / 'report' / 'report.json').read_text())


def test_class_names_that_no_figure_counts_are_named_with_their_counts(tmp_path, capsys):
    report = evaluate(tmp_path, LABELS.replace('Car', 'auto', 1) + LABEL.format(1, 9).replace('Car', 'Tram'),
                      DETECTION.format(50, 150, 0.9).replace('Car', 'person') * 3,
                      '--rename', 'man=Pedestrian')
    text = '\n'.join(report['warnings'])
    assert "'auto' (1)" in text and "'person' (3)" in text and 'Tram' not in text
    assert "--rename man=Pedestrian: no detection has the class 'man'" in text
    assert report['objects']['label_types'] == {'auto': 1, 'Car': 1, 'Tram': 1}
    assert report['objects']['detection_types'] == {'person': 3}
    assert "'auto' (1)" in capsys.readouterr().err
    report = evaluate(tmp_path, LABELS, DETECTION.format(50, 150, 0.9), '--class', 'Bus=0.5:Coach')
    text = '\n'.join(report['warnings'])
    assert "class 'Bus': neither a label nor a detection has it; the labels hold 'Car' (2)" in text
    assert "class 'Coach', to be ignored" in text
    assert not evaluate(tmp_path, LABELS, DETECTION.format(50, 150, 0.9))['warnings']


def test_label_files_are_found_in_whatever_case_and_hidden_ones_are_none(tmp_path):
    for folder in ('images', 'label_2'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'label_2' / 'A.TXT').write_text(LABELS)
    (tmp_path / 'label_2' / '._A.TXT').write_bytes(bytes(range(256)))
    assert len(read_label_folder(tmp_path / 'label_2', False)) == 2
    (tmp_path / 'label_2' / 'A.txt').write_text(LABELS)
    with pytest.raises(KdPerceptionError, match='A.TXT and A.txt name the same frame'):
        read_label_folder(tmp_path / 'label_2', False)
    (tmp_path / 'label_2' / 'A.txt').unlink()
    (tmp_path / 'images' / 'A.png').write_bytes(b'no image')
    found = check_labels(tmp_path / 'images', tmp_path / 'label_2', ['Car', 'Bus'])
    assert any("class 'Bus': no label has it" in line for line in found.warnings)
