# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import LabelError
from kd_perception.labels.kitti_text import parse_label_text
from kd_perception.labels.label_folder import (
    _parse_batch,
    list_frames,
    parse_label_files,
    read_label_folder,
)
from kd_perception.labels.object_table import ObjectTable

LABEL = 'Car 0.88 3 -0.69 0.00 192.37 402.31 374.00 1.60 1.57 3.23 -2.70 1.74 3.68 -1.29'
DONT_CARE = 'DontCare -1 -1 -10 800.38 163.67 825.45 184.07 -1 -1 -1 -1000 -1000 -1000 -10'


def by_line(texts, scores):
    return ObjectTable.from_objects([parse_label_text(text, str(i), scores) for i, text in enumerate(texts)],
                                    [str(i) for i in range(len(texts))])


def names_of(table):
    return [table.type_names[i] for i in table.type_ids]


def assert_same(table, expected):
    assert table.frames == expected.frames
    assert table.offsets.tolist() == expected.offsets.tolist()
    assert names_of(table) == names_of(expected)
    np.testing.assert_array_equal(table.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(table.occlusion, expected.occlusion)
    np.testing.assert_array_equal(table.truncation, expected.truncation)
    np.testing.assert_array_equal(table.scores, expected.scores)


numbers = st.one_of(
    st.floats(0, 2000).map(lambda value: f'{value:.2f}'), st.floats(0, 1).map(repr),
    st.integers(0, 10 ** 18).map(str), st.decimals(0, 10 ** 6, places=20).map('{:f}'.format),
    st.sampled_from(['0', '-0', '.5', '5e-7', '1E3', '+2.5', '000012.5', '0.000000000000000000000000001',
                     '123456789012345678', '0.1234567890123456']))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(['Car', 'Pedestrian', 'a-b', 'x2', '7']), numbers, numbers,
                                   numbers, numbers, numbers), max_size=3), min_size=1, max_size=4),
       st.sampled_from(['\n', '\r\n', '\n\n']), st.booleans())
def test_the_fast_path_reads_every_number_as_the_line_parser_does(files, line_end, last_end):
    texts = []
    for lines in files:
        rows = []
        for name, a, b, c, d, score in lines:
            left, right = sorted((a, b), key=float)
            top, bottom = sorted((c, d), key=float)
            rows.append(f'{name} -1 -1 -10 {left} {top} {right} {bottom} '
                        f'-1 -1 -1 -1000 -1000 -1000 -10 {score}')
        texts.append(line_end.join(rows) + (line_end if last_end and rows else ''))
    names = [str(i) for i in range(len(texts))]
    table = _parse_batch(names, [text.encode() for text in texts], True)
    expected = by_line(texts, True)
    np.testing.assert_array_equal(table.scores, expected.scores)
    np.testing.assert_array_equal(table.boxes_xyxy, expected.boxes_xyxy)
    assert table.offsets.tolist() == expected.offsets.tolist()
    assert names_of(table) == names_of(expected)


def test_labels_come_back_as_from_the_line_parser():
    texts = [f'{LABEL}\n{DONT_CARE}\n', '', DONT_CARE, f'\n{LABEL.replace("Car", "Fußgänger")}\n']
    for chosen in (texts[:3], texts):  # the last file goes through the line parser, and takes the batch along
        table = parse_label_files([str(i) for i in range(len(chosen))], chosen,
                                  [text.encode() for text in chosen], False)
        assert_same(table, by_line(chosen, False))


@pytest.mark.parametrize('bad', [
    'Car 0.0', f'{LABEL} 0.5', LABEL.replace('402.31', '4.0.2'), LABEL.replace('402.31', '4-02'),
    LABEL.replace('402.31', '-'), LABEL.replace('402.31', '.'), LABEL.replace('402.31', 'nan'),
    LABEL.replace('402.31', 'inf'), LABEL.replace('402.31', '0x10'), LABEL.replace('402.31', '1_0'),
    LABEL.replace('1.57', 'e'), LABEL.replace('0.00', '500'), LABEL.replace(' 3 ', ' 2.5 '),
    LABEL.replace('402.31', '--4'), f'{LABEL}\r{LABEL}',
    LABEL.replace('1.57', '1e400'), LABEL.replace('402.31', '4\x002')])
def test_every_malformed_line_is_an_error_with_file_and_line(tmp_path, bad):
    (tmp_path / '000000.txt').write_text(f'{LABEL}\n')
    (tmp_path / '000001.txt').write_text(f'{LABEL}\n{bad}\n')
    with pytest.raises(LabelError, match='000001.txt:2: '):
        read_label_folder(tmp_path, scores=False)


def test_a_folder_is_read_in_name_order_and_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr('kd_perception.labels.label_folder._BATCH_BYTES', 150)
    texts = {f'{i:06d}': f'{LABEL}\n' * (i % 3) for i in range(7)}
    for name, text in reversed(list(texts.items())):
        (tmp_path / f'{name}.txt').write_text(text)
    (tmp_path / 'readme.md').write_text('not a label')
    table = read_label_folder(tmp_path, scores=False)
    assert table.frames == tuple(texts)
    assert np.diff(table.offsets).tolist() == [0, 1, 2, 0, 1, 2, 0]
    some = read_label_folder(tmp_path, False, ['000005', '000001'])
    assert np.diff(some.offsets).tolist() == [2, 1]
    with pytest.raises(LabelError, match='000009.txt: no such file'):
        read_label_folder(tmp_path, False, ['000009'])


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(LabelError, match='not a readable folder'):
        list_frames(tmp_path / 'missing')
    assert list_frames(tmp_path) == {}
    (tmp_path / '7.txt').write_text('')
    (tmp_path / '000007.txt').write_text('')
    with pytest.raises(LabelError, match='000007.txt and 7.txt name the same frame'):
        list_frames(tmp_path)
