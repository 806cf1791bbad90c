# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`detect` with a model that finds bright rectangles to the pixel: formats, broken images, who owns OUT."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from bag_helpers import stamp_of, write_bag
from kd_perception.bags.reader import BagReader
from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from kd_perception.cli.main import main
from kd_perception.labels.kitti_text import read_label_file
from kd_perception.messages import build as messages

HW = (96, 128)
# (class, box, brightness): 200 / 255 is a score of 0.784; 100 / 255 is 0.392, below the working threshold.
CAR, CYCLIST = (0, (16, 24, 48, 64), 200), (2, (80, 10, 110, 30), 100)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_rectangle_model(tmp_path_factory.mktemp('model') / 'rectangles.onnx')


@pytest.fixture
def images(tmp_path):
    """Two images with something, one with nothing."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for number, shapes in enumerate(([CAR, CYCLIST], [], [CAR])):
        cv2.imwrite(str(folder / f'{number:06d}.png'), draw_rectangles(HW, *shapes))
    return folder


def detect(model, source, out, *more):
    return main(['detect', '--model', str(model), '--input', str(source), '--out', str(out), '--quiet',
                 *map(str, more)])


def test_kitti_text(model, images, tmp_path, capsys):
    assert detect(model, images, tmp_path / 'out') == 0
    objects = read_label_file(tmp_path / 'out' / '000000.txt', scores=True)
    assert objects.types == ('Car', 'Cyclist')
    np.testing.assert_allclose(objects.boxes_xyxy, [CAR[1], CYCLIST[1]], atol=1e-3)
    np.testing.assert_allclose(objects.scores, [200 / 255, 100 / 255], atol=1e-3)
    assert len((tmp_path / 'out' / '000000.txt').read_text().splitlines()[0].split()) == 16
    assert (tmp_path / 'out' / '000001.txt').read_text() == ''
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        '000000.txt', '000001.txt', '000002.txt', 'summary.json']
    assert '3 frames' in capsys.readouterr().out


def test_files_hold_all_from_the_lowest_score_and_pictures_the_working_ones(model, images, tmp_path):
    cv2.imwrite(str(images / '000001.png'), draw_rectangles(HW, (1, (16, 24, 48, 64), 80)))
    assert detect(model, images, tmp_path / 'out', '--annotated') == 0
    assert len(read_label_file(tmp_path / 'out' / '000001.txt')) == 1
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['detections_per_class']['Pedestrian'] == 0
    assert summary['score_threshold'] < 80 / 255 < summary['working_threshold']
    drawn = [cv2.imread(str(tmp_path / 'out' / 'annotated' / f'00000{i}.jpg')) for i in range(3)]
    plain = [cv2.imread(str(images / f'00000{i}.png')) for i in range(3)]
    differs = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(drawn, plain)]
    assert differs[0] > 1 and differs[2] > 1 and differs[1] < 1
    assert detect(model, images, tmp_path / 'high', '--score-threshold', 0.5) == 0
    assert [len(read_label_file(tmp_path / 'high' / f'00000{i}.txt')) for i in range(3)] == [1, 0, 1]


@pytest.mark.parametrize('out', ['out', 'deep/result.json'])
def test_json(model, images, tmp_path, out):
    assert detect(model, images, tmp_path / out, '--format', 'json') == 0
    path = tmp_path / out if out.endswith('.json') else tmp_path / out / 'detections.json'
    document = json.loads(path.read_text())
    assert document['version'] == 1 and document['model']['labels'] == ['Car', 'Pedestrian', 'Cyclist']
    assert [(f['name'], f['camera'], f['stamp_ns'], f['width'], f['height'], len(f['detections']))
            for f in document['frames']] == [
        ('000000', 'camera', 10 ** 9, 128, 96, 2), ('000001', 'camera', 11 * 10 ** 8, 128, 96, 0),
        ('000002', 'camera', 12 * 10 ** 8, 128, 96, 1)]
    first = document['frames'][0]['detections'][0]
    assert first['class'] == 'Car' and first['box_xyxy'] == pytest.approx(CAR[1], abs=1e-3)


def test_mcap(model, images, tmp_path):
    assert detect(model, images, tmp_path / 'out', '--format', 'mcap', '--images') == 0
    with BagReader(tmp_path / 'out' / 'detections.mcap') as bag:
        assert {name: topic.count for name, topic in bag.topics.items()} == {
            '/camera/detections': 3, '/camera/annotations': 3, '/camera/image_raw/compressed': 3,
            '/camera/label_info': 1}
        assert bag.topics['/camera/label_info'].latched
        parsed = [messages.parse_detection_array(r.raw) for r in bag.messages(['/camera/detections'])]
        assert [names for *_, names in parsed] == [('Car', 'Cyclist'), (), ('Car',)]
        log_times = [record.log_ns for record in bag.messages(['/camera/detections'])]
        assert [stamp_ns for stamp_ns, *_ in parsed] == log_times
        np.testing.assert_allclose(parsed[0][2], [CAR[1], CYCLIST[1]], atol=1e-3)
        picture = next(bag.messages(['/camera/image_raw/compressed'])).raw
        assert (images / '000000.png').read_bytes() in picture, 'the file as it is, not encoded again'


def test_a_recording_of_two_cameras(model, tmp_path):
    bag = write_bag(tmp_path / 'drive', 3, ('front', 'robot/rear'), hw=HW)
    assert detect(model, bag, tmp_path / 'out', '--annotated') == 0
    for camera in ('front', 'robot_rear'):
        assert sorted(path.name for path in (tmp_path / 'out' / camera).iterdir()) == [
            '000000.txt', '000001.txt', '000002.txt']
        assert len(list((tmp_path / 'out' / 'annotated' / camera).iterdir())) == 3
    assert detect(
        model, bag, tmp_path / 'one', '--camera', 'front', '--format', 'json', '--max-frames', 2) == 0
    frames = json.loads((tmp_path / 'one' / 'detections.json').read_text())['frames']
    assert [(f['camera'], f['stamp_ns']) for f in frames] == [('front', stamp_of(0)), ('front', stamp_of(1))]


def test_a_broken_image_is_skipped_counted_and_named(model, images, tmp_path, capsys):
    (images / '000001.png').write_bytes((images / '000001.png').read_bytes()[:-30])
    assert detect(model, images, tmp_path / 'out') == 0
    captured = capsys.readouterr()
    assert '000001: corrupt_compressed' in captured.err
    assert '1 of 3 frames were skipped: 1 corrupt_compressed' in captured.err
    assert not (tmp_path / 'out' / '000001.txt').exists()
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert (summary['frames_processed'], summary['frames_skipped']) == (2, 1)
    assert summary['skipped'][0]['name'] == '000001'


def test_nothing_but_broken_images_is_a_failure(model, tmp_path, capsys):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'a.png').write_bytes(b'nonsense')
    assert detect(model, tmp_path / 'images', tmp_path / 'out') == 2
    assert 'not a single frame could be processed' in capsys.readouterr().err


def test_somebody_elses_files_are_safe(model, images, tmp_path, capsys):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'thesis.txt').write_text('precious')
    assert detect(model, images, out) == 2
    assert 'is not empty' in capsys.readouterr().err
    assert detect(model, images, out, '--overwrite') == 0
    assert (out / 'thesis.txt').read_text() == 'precious'


@pytest.mark.parametrize('kind', ['kitti', 'json', 'mcap'])
def test_a_second_run_replaces_the_first_one_only_when_told(model, images, tmp_path, kind):
    out = tmp_path / 'out'
    assert detect(model, images, out, '--format', kind, '--annotated') == 0
    assert detect(model, images, out, '--format', kind) == 2
    (images / '000002.png').unlink()
    assert detect(model, images, out, '--format', kind, '--annotated', '--overwrite') == 0
    assert len(list((out / 'annotated').iterdir())) == 2, 'no frame of the first run is left'
    assert not (out / '000002.txt').exists()
    assert json.loads((out / 'summary.json').read_text())['frames_processed'] == 2


@pytest.mark.parametrize('name,kind', [('a.json', 'json'), ('a.mcap', 'mcap')])
def test_an_existing_file_is_refused(model, images, tmp_path, capsys, name, kind):
    (tmp_path / name).write_text('precious')
    assert detect(model, images, tmp_path / name, '--format', kind) == 2
    assert 'exists already' in capsys.readouterr().err and (tmp_path / name).read_text() == 'precious'
    assert detect(model, images, tmp_path / name, '--format', kind, '--overwrite') == 0
    assert (tmp_path / name).read_bytes()[:8] != b'precious'


@pytest.mark.parametrize('more,told', [
    (['--images'], '--images applies to --format mcap'), (['--max-frames', '0'], 'expected at least 1'),
    (['--threads', '-1'], 'threads must be in 0..256'),
    (['--camera', 'a', '--camera', 'b'], 'holds one camera'),
    (['--timestamps', 'none.txt'], 'no such file of time stamps')])
def test_wrong_usage_is_one_line_and_leaves_nothing(model, images, tmp_path, capsys, more, told):
    assert detect(model, images, tmp_path / 'out', *more) == 2
    error = capsys.readouterr().err
    assert told in error and error.count('\n') == 1 and error.startswith('kd_perception detect: error: ')
    assert not (tmp_path / 'out').exists()


def test_a_missing_input_or_model(model, images, tmp_path, capsys):
    assert detect(model, tmp_path / 'none', tmp_path / 'out') == 2
    assert 'no such folder, video or recording' in capsys.readouterr().err
    assert detect(tmp_path / 'none.onnx', images, tmp_path / 'out') == 2
    assert 'none.onnx' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_an_interrupted_recording_leaves_no_half_file(model, images, tmp_path, monkeypatch):
    from kd_perception.detection.onnx_detector import OnnxDetector
    whole = OnnxDetector.detect
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)
    monkeypatch.setattr(OnnxDetector, 'detect', interrupted)
    assert detect(model, images, tmp_path / 'out', '--format', 'mcap') == 130
    assert list((tmp_path / 'out').iterdir()) == []
