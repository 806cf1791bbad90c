# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import os

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import LabelError
from kd_perception.labels.kitti_text import (
    format_objects,
    KittiObjects,
    MAX_LABEL_BYTES,
    parse_label_text,
    read_label_file,
)

LABEL = 'Car 0.88 3 -0.69 0.00 192.37 402.31 374.00 1.60 1.57 3.23 -2.70 1.74 3.68 -1.29'
DONT_CARE = 'DontCare -1 -1 -10 800.38 163.67 825.45 184.07 -1 -1 -1 -1000 -1000 -1000 -10'


def test_columns_come_back_in_their_fields():
    objects = parse_label_text(f'{LABEL}\n{DONT_CARE}\n', 'f')
    assert objects.types == ('Car', 'DontCare')
    assert objects.truncation.tolist() == [0.88, -1]
    assert objects.occlusion.tolist() == [3, -1]
    assert objects.alpha.tolist() == [-0.69, -10]
    assert objects.boxes_xyxy[0].tolist() == [0, 192.37, 402.31, 374]
    assert objects.dimensions[0].tolist() == [1.6, 1.57, 3.23]
    assert objects.location[0].tolist() == [-2.7, 1.74, 3.68]
    assert objects.rotation_y.tolist() == [-1.29, -10]
    assert objects.scores is None


@pytest.mark.parametrize('text', [f'{LABEL}\n{DONT_CARE}\n', f'{LABEL} 0.25\n', ''])
def test_text_survives_a_round_trip(text):
    assert format_objects(parse_label_text(text, 'f')) == text


@pytest.mark.parametrize('text, scores, message', [
    (f'{LABEL}\nCar 0.0 0\n', None, 'f:2: 3 columns, 15 expected'),
    ('Car 0.0 0\n', None, 'f:1: 3 columns, 15 or 16 expected'),
    (f'{LABEL}\n', True, 'f:1: 15 columns, 16 expected'),
    (f'{LABEL} 0.5\n', False, 'f:1: 16 columns, 15 expected'),
    (f'{LABEL}\n\n{LABEL} 0.5\n', None, 'f:3: 16 columns, 15 expected'),
    (LABEL.replace('402.31', 'wide'), None, "f:1: right is 'wide', a number expected"),
    (LABEL.replace('402.31', '4_0'), None, "f:1: right is '4_0', a number expected"),
    (LABEL.replace('402.31', 'nan'), None, 'f:1: right is nan, a finite number expected'),
    (LABEL.replace('402.31', '1e999'), None, 'f:1: right is 1e999, a finite number expected'),
    (f'{LABEL} nan', None, 'f:1: score is nan, a finite number expected'),
    (LABEL.replace(' 3 ', ' 0.5 '), None, 'f:1: occlusion is 0.5, an integer expected'),
    (LABEL.replace('0.00', '500'), None, 'f:1: box 500 192.37 402.31 374 is inverted'),
    (LABEL.replace('192.37', '375'), None, 'f:1: box 0 375 402.31 374 is inverted'),
    ('C' * 300 + LABEL[3:], None, 'f:1: type has 300 characters'),
])
def test_a_bad_line_names_file_and_line(text, scores, message):
    with pytest.raises(LabelError) as caught:
        parse_label_text(text, 'f', scores)
    assert str(caught.value).startswith(message)


def test_files_that_cannot_be_labels_are_refused(tmp_path):
    with pytest.raises(LabelError, match='missing.txt: cannot be read'):
        read_label_file(tmp_path / 'missing.txt')
    with pytest.raises(LabelError, match='not a regular file'):
        read_label_file(tmp_path)
    os.mkfifo(tmp_path / 'pipe.txt')
    with pytest.raises(LabelError, match='pipe.txt: cannot be read: not a regular file'):
        read_label_file(tmp_path / 'pipe.txt')
    large = tmp_path / 'large.txt'
    large.write_bytes(b' ' * (MAX_LABEL_BYTES + 1))
    with pytest.raises(LabelError, match='large.txt: larger than'):
        read_label_file(large)
    binary = tmp_path / 'binary.txt'
    binary.write_bytes(LABEL.encode() + b'\n\xff\xfe')
    with pytest.raises(LabelError, match='binary.txt:2: not UTF-8'):
        read_label_file(binary)


def test_windows_line_ends_and_blank_lines_are_fine(tmp_path):
    path = tmp_path / '000001.txt'
    path.write_bytes(f'\r\n{LABEL}\r\n\r\n{DONT_CARE}'.encode())
    assert read_label_file(path).types == ('Car', 'DontCare')


finite = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(['Car', 'Person_sitting']), finite, finite, finite, finite,
                          st.floats(0, 1, width=32)), max_size=5))
def test_detections_survive_to_a_millionth_of_a_pixel_with_exact_float32_scores(rows):
    corners = np.array([row[1:5] for row in rows], dtype=np.float32).reshape(-1, 2, 2)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    scores = np.array([row[5] for row in rows], dtype=np.float32)
    written = KittiObjects.from_boxes([row[0] for row in rows], boxes, scores)
    back = parse_label_text(format_objects(written), 'f', True if rows else None)
    assert back.types == written.types
    np.testing.assert_allclose(back.boxes_xyxy, written.boxes_xyxy, rtol=0, atol=5.1e-7)
    if rows:
        assert (back.scores.astype(np.float32) == scores).all()


def test_from_boxes_refuses_what_a_file_may_not_hold():
    with pytest.raises(LabelError, match='2 types, 1 boxes'):
        KittiObjects.from_boxes(['Car', 'Car'], np.zeros((1, 4)))
    with pytest.raises(LabelError, match='object 0 is not finite or inverted'):
        KittiObjects.from_boxes(['Car'], np.array([[5, 0, 1, 1]]))
    with pytest.raises(LabelError, match='object 0 is not finite or inverted'):
        KittiObjects.from_boxes(['Car'], np.array([[0, 0, 1, 1]]), np.array([np.nan]))
    with pytest.raises(LabelError, match='one word expected'):
        format_objects(KittiObjects.from_boxes(['Person sitting'], np.array([[0, 0, 1, 1]])))


def test_select_keeps_every_column_aligned():
    objects = parse_label_text(f'{LABEL} 0.5\n{DONT_CARE} 0.25\n', 'f')
    assert format_objects(objects.select(np.array([False, True]))) == f'{DONT_CARE} 0.25\n'
    assert format_objects(objects.select(np.array([1, 0]))) == f'{DONT_CARE} 0.25\n{LABEL} 0.5\n'
