# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`review`: what counts as disagreement, the page, the records, the export, inputs without hard frames."""

import base64
import json
import re

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from bag_helpers import write_bag
from hard_frames import hard_frame, START_NS
from kd_perception.bags.writer import BagWriter
from kd_perception.boxes.overlap import box_iou
from kd_perception.cli.main import main
from kd_perception.cli.review import DEFAULT_STUDENT_SCORE, DEFAULT_TEACHER_SCORE
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.labels.kitti_text import read_label_file
from kd_perception.recording.disagreement import match_boxes
from kd_perception.recording.recorded import Boxes

CAR, NEAR, FAR = (5, 5, 35, 30), (6, 5, 36, 30), (45, 10, 70, 50)


def write(path, frames, delay_ns=0):
    """Write frames as the recorder does; with a delay, the log times differ as in a session's bag."""
    with BagWriter(path) as bag:
        for frame in frames:
            for index, (topic, kind, raw) in enumerate(frame.messages()):
                bag.write_raw(topic, kind, raw, frame.stamp_ns + index * delay_ns)
    return path


def drive():
    """0: both agree; 1: the teacher sees two more; 2: named differently; 3: no answer; 4: weak boxes only."""
    return [
        hard_frame(0, student=[(0, .9, CAR)], teacher=[(0, .8, NEAR)], ambiguity=.9, reason='audit'),
        hard_frame(1, student=[(0, .2, CAR)], teacher=[(0, .8, CAR), (1, .6, FAR)], ambiguity=.5),
        hard_frame(2, student=[(2, .9, FAR)], teacher=[(1, .7, FAR)], ambiguity=.1, compressed=True),
        hard_frame(3, student=[(0, .9, CAR)], teacher=None, ambiguity=.7, source='student-late-teacher'),
        hard_frame(4, student=[(0, .3, CAR)], teacher=[(0, .3, FAR)], ambiguity='unknown')]


def review(source, out, *more):
    return main(['review', '--input', str(source), '--out', str(out), '--quiet', *map(str, more)])


def document(out):
    return json.loads((out / 'review.json').read_text())


def order(out):
    return [(frame['stamp_ns'] - START_NS) // 10 ** 8 for frame in document(out)['frames']]


@pytest.mark.parametrize('delay_ns', [0, 30_000_000])
def test_page_and_records(tmp_path, capsys, delay_ns):
    bag = write(tmp_path / 'bag', drive(), delay_ns)
    assert review(bag, tmp_path / 'out') == 0
    assert '5 of 5 frames' in capsys.readouterr().out
    found = document(tmp_path / 'out')
    assert found['counts'] == {
        'frames': 5, 'shown': 5, 'with_disagreement': 2, 'without_teacher': 1, 'without_picture': 0}
    assert order(tmp_path / 'out') == [1, 2, 0, 4, 3]
    assert [frame['disagreement'] for frame in found['frames']] == [2, 1, 0, 0, None]
    first, second, third = found['frames'][:3]
    assert [box['class'] for box in first['only_teacher']] == ['Car', 'Pedestrian']
    assert first['only_teacher'][1]['box_xyxy'] == list(FAR) and first['only_student'] == []
    assert (first['reason'], first['source'], first['waited_ms']) == ('rejected', 'teacher', 41.5)
    assert [(pair['student']['class'], pair['teacher']['class']) for pair in second['renamed']] == [
        ('Cyclist', 'Pedestrian')]
    assert third['agreed'] == 1 and found['frames'][3]['ambiguity'] is None
    page = (tmp_path / 'out' / 'review.html').read_text()
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 5 and 'http' not in page and '<script' not in page
    for words in ('2 only the teacher', '1 named differently', 'both agree', 'no answer of the teacher',
                  'waited 41.5 ms', 'student-late-teacher', 'audit'):
        assert words in page
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (60, 80, 3)


def test_orders_and_the_first_frames(tmp_path):
    bag = write(tmp_path / 'bag', drive())
    assert review(bag, tmp_path / 'a', '--sort', 'ambiguity') == 0
    assert order(tmp_path / 'a') == [0, 3, 1, 2, 4]
    assert review(bag, tmp_path / 'b', '--sort', 'time', '--max-frames', 2) == 0
    assert order(tmp_path / 'b') == [0, 1] and document(tmp_path / 'b')['counts']['frames'] == 5
    assert review(bag, tmp_path / 'c', '--student-score', .1, '--teacher-score', .25) == 0
    assert {key: frame['disagreement'] for key, frame in zip(order(tmp_path / 'c'), document(
        tmp_path / 'c')['frames'])} == {0: 0, 1: 1, 2: 1, 3: None, 4: 2}


def test_both_models_are_drawn_each_in_its_way(tmp_path):
    image = np.full((600, 1600, 3), 255, np.uint8)
    bag = write(tmp_path / 'bag', [hard_frame(0, image=image, student=[(0, .9, (100, 100, 600, 400))],
                                              teacher=[(0, .9, (900, 100, 1400, 400))])])
    assert review(bag, tmp_path / 'out') == 0
    data = re.search(r'base64,([^"]+)"', (tmp_path / 'out' / 'review.html').read_text()).group(1)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).astype(int)
    assert picture.shape == (180, 480, 3), 'thumbnails have a bounded size'
    solid = picture[50:100, 28:33].min(axis=1)
    dashed = picture[50:100, 268:273].min(axis=1)
    assert (solid[:, 0] < 120).all(), 'orange: little blue, without a gap'
    assert 0.3 < (dashed[:, 2] < 120).mean() < 0.8, 'blue: little red, with gaps'


def test_a_folder_of_recordings_and_what_is_damaged_in_it(tmp_path, capsys):
    frames = drive()
    write(tmp_path / 'hard' / 'hard_1', frames[:2])
    cut = write(tmp_path / 'hard' / 'hard_2', [hard_frame(n, hw=(300, 400)) for n in range(10, 20)])
    file = cut / 'hard_2.mcap'
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    (cut / 'metadata.yaml').unlink()
    write_bag(tmp_path / 'hard' / 'hard_3', 2)
    (tmp_path / 'hard' / 'hard_4.mcap').write_bytes(b'no recording')
    (tmp_path / 'hard' / '.hard_5.abcd1234').mkdir()
    assert review(tmp_path / 'hard', tmp_path / 'out', '--sort', 'time') == 0
    found = document(tmp_path / 'out')
    assert {frame['bag'] for frame in found['frames']} == {'hard_1', 'hard_2'}
    assert 2 + 3 <= found['counts']['frames'] <= 2 + 6 and found['counts']['without_picture'] == 0
    assert any('hard_4.mcap' in problem for problem in found['problems'])
    assert 'metadata.yaml is missing' in capsys.readouterr().err


def test_export_writes_images_as_they_are_and_the_teachers_labels(tmp_path, capsys):
    rear = hard_frame(5, 'robot/rear', teacher=[(1, .9, FAR), (0, .3, CAR)])
    bag = write(tmp_path / 'bag', [*drive(), rear])
    out, data = tmp_path / 'out', tmp_path / 'data' / 'site'
    assert review(bag, out, '--export-kitti', data) == 0
    assert document(out)['export'] == {'folder': str(data), 'labels_from': 'teacher', 'images': 5,
                                       'labels': 5, 'dont_care': 2, 'left_out': 1}
    stem = f'front_{START_NS}'
    assert read_label_file(data / 'label_2' / f'{stem}.txt', scores=False).types == ('Car',)
    rear = read_label_file(data / 'label_2' / f'robot_rear_{START_NS + 5 * 10 ** 8}.txt', scores=False)
    assert rear.types == ('Pedestrian', 'DontCare')
    np.testing.assert_allclose(rear.boxes_xyxy, [FAR, CAR])
    names = sorted(path.stem for path in (data / 'images').iterdir())
    assert names == sorted(path.stem for path in (data / 'label_2').iterdir()) and len(names) == 5
    raw = cv2.imread(str(data / 'images' / f'{stem}.png'))
    assert np.array_equal(raw, np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    jpeg = (data / 'images' / f'front_{START_NS + 2 * 10 ** 8}.jpg').read_bytes()
    assert jpeg in drive()[2].image, 'the file as it is, not encoded again'
    capsys.readouterr()
    assert review(bag, tmp_path / 'again', '--export-kitti', data) == 2
    assert re.fullmatch(r'kd_perception review: error: .*not empty.*\n', capsys.readouterr().err)
    more = ('--export-kitti', tmp_path / 's', '--labels-from', 'student')
    assert review(bag, tmp_path / 'student', *more) == 0
    assert document(tmp_path / 'student')['export']['images'] == 6


def test_inputs_without_hard_frames_are_refused_in_one_line(tmp_path, capsys):
    empty = tmp_path / 'empty'
    empty.mkdir()
    for source, words in ((tmp_path / 'none', 'no such recording'), (empty, 'holds no recording'),
                          (write_bag(tmp_path / 'alien', 3), 'holds no hard frames'),
                          (write(tmp_path / 'nothing', []), 'nothing in this recording can be read')):
        assert review(source, tmp_path / 'out') == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and words in error and error.startswith('kd_perception review: error: ')
    assert not (tmp_path / 'out').exists()


def test_the_default_scores_are_those_of_the_shipped_models():
    for name, score in (('student', DEFAULT_STUDENT_SCORE), ('teacher', DEFAULT_TEACHER_SCORE)):
        assert OnnxDetector.named(name).spec.thresholds.score == pytest.approx(score)


def test_usage(tmp_path, capsys):
    bag = write(tmp_path / 'bag', drive()[:1])
    assert review(bag, tmp_path / 'out', '--labels-from', 'student') == 2
    assert review(bag, tmp_path / 'out', '--max-frames', -1) == 2
    assert review(bag, tmp_path / 'out') == 0 and review(bag, tmp_path / 'out', '--overwrite') == 0
    capsys.readouterr()
    assert review(bag, tmp_path / 'out') == 2 and '--overwrite' in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(['review', '--help'])
    assert done.value.code == 0 and 'examples:' in capsys.readouterr().out


def test_a_hostile_recording_is_text_on_the_page_and_costs_no_other_frame(tmp_path):
    bad = hard_frame(1, student=[(0, .9, CAR)], teacher=[(0, .9, (-1e30, -1e30, 1e30, 1e30))],
                     reason='<script>alert(1)</script>')
    cut = hard_frame(2)
    cut = type(cut)(**{**vars(cut), 'student': cut.student[:20], 'image': cut.image[:100]})
    broken = hard_frame(3)
    broken = type(broken)(**{**vars(broken), 'image': broken.image[:100]})
    bag = write(tmp_path / 'bag', [hard_frame(0), bad, cut, broken])
    assert review(bag, tmp_path / 'out', '--sort', 'time') == 0
    assert order(tmp_path / 'out') == [0, 1, 3]
    assert document(tmp_path / 'out')['counts']['without_picture'] == 1
    assert '<script' not in (tmp_path / 'out' / 'review.html').read_text()


def boxes(items):
    array = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in items], float).reshape(-1, 4)
    return Boxes(array, np.ones(len(items)), tuple(name for *_, name in items))


BOX = st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 8)] * 2, st.sampled_from('ab'))


@settings(max_examples=150, deadline=None)
@given(first=st.lists(BOX, max_size=6), second=st.lists(BOX, max_size=6))
def test_matching_is_one_to_one_stable_and_maximal(first, second):
    a, b = boxes(first), boxes(second)
    pairs = match_boxes(a, b)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    iou = box_iou(a.boxes_xyxy, b.boxes_xyxy)
    rank = {pair: (a.names[pair[0]] != b.names[pair[1]], -iou[pair]) for pair in np.ndindex(iou.shape)}
    assert all(iou[pair] >= 0.5 for pair in pairs)
    with_first, with_second = dict(pairs), {j: i for i, j in pairs}
    for i, j in rank:
        if iou[i, j] >= 0.5 and (i, j) not in pairs:
            taken = [rank[i, with_first[i]]] if i in with_first else []
            taken += [rank[with_second[j], j]] if j in with_second else []
            assert taken and min(taken) <= rank[i, j], 'a pair gives way to a better one only'
    assert len(match_boxes(b, a)) == len(pairs)
