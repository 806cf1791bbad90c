# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0

import cv2
import numpy as np
import pytest

from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import run_command
from kd_perception.errors import BagError, ConfigError, LabelError
from kd_perception.labels.kitti_bag import ground_truth_array, parse_objects, read_bag_labels
from kd_perception.labels.kitti_folder import open_kitti_folder, read_projection, read_tracking_labels
from kd_perception.labels.kitti_text import format_objects, KittiObjects, parse_label_text
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.sources.any_source import open_source

pytest.importorskip('onnx', reason="onnx, which the rectangle model's drawing comes with, is not installed")
from kitti_drive import FRAMES, HW, PROJECTION, TEXTS, write_object, write_raw, write_tracking

TOPIC = '/kitti/camera_color_left'


def convert(*words):
    return run_command('convert', ['kitti-to-bag', *[str(word) for word in words]])


def messages_of(bag, topic):
    with BagReader(bag) as reader:
        return [(record.log_ns, ts.deserialize(record.raw, record.msgtype))
                for record in reader.messages([topic])]


@pytest.mark.parametrize('storage, name', [
    ('mcap', 'bag'), ('sqlite3', 'bag'), (None, 'bag.mcap'), (None, 'bag.db3')])
def test_an_object_folder_s_labels_come_back_byte_for_byte(tmp_path, storage, name, capsys):
    out = tmp_path / name
    options = ['--storage', storage] if storage else []
    assert convert('--input', write_object(tmp_path / 'kitti'), '--out', out, *options) == 0
    out_text = capsys.readouterr().out
    assert '4 images of /kitti/camera_color_left (object layout), 4 with ground truth' in out_text
    labels = read_bag_labels(out, f'{TOPIC}/ground_truth')
    assert [format_objects(labels.objects[stamp]) for stamp in sorted(labels.objects)] == list(TEXTS)
    assert [labels.names[stamp] for stamp in sorted(labels.names)] == [f'{i:06d}' for i in range(4)]
    with open_source(out) as source:
        assert [camera.name for camera in source.cameras] == ['kitti/camera_color_left']
        frames = list(source)
        assert [frame.frame_id for frame in frames] == ['camera_color_left'] * 4
        assert [frame.stamp_ns for frame in frames] == sorted(labels.objects)
        original = cv2.imread(str(tmp_path / 'kitti' / 'training' / 'image_2' / '000001.png'))
        np.testing.assert_array_equal(frames[1].decode(), original)


def test_camera_info_is_that_of_the_rectified_camera(tmp_path):
    convert('--input', write_object(tmp_path / 'kitti'), '--out', tmp_path / 'bag')
    found = messages_of(tmp_path / 'bag', f'{TOPIC}/camera_info')
    assert len(found) == 4
    stamp, info = found[0]
    assert (info.height, info.width, info.distortion_model) == (*HW, 'plumb_bob')
    assert info.p.tolist() == [float(item) for item in PROJECTION.split()]
    assert info.k.tolist() == [100, 0, 64, 0, 100, 48, 0, 0, 1]
    assert info.r.tolist() == np.eye(3).reshape(-1).tolist() and info.d.tolist() == [0] * 5
    assert info.header.frame_id == 'camera_color_left'
    assert info.header.stamp.sec * 10 ** 9 + info.header.stamp.nanosec == stamp


def test_ground_truth_topic_alone_holds_boxes_and_names(tmp_path):
    convert('--input', write_object(tmp_path / 'kitti'), '--out', tmp_path / 'bag', '--camera', '/front/')
    found = messages_of(tmp_path / 'bag', '/front/ground_truth')
    items = found[1][1].detections
    assert [item.results[0].hypothesis.class_id for item in items] == ['Car', 'Cyclist', 'DontCare']
    assert [item.results[0].hypothesis.score for item in items] == [1, 1, 1]
    assert (items[1].bbox.center.position.x, items[1].bbox.size_y) == (95, 50)
    assert items[0].header == found[1][1].header


@pytest.mark.parametrize('image, msgtype, suffix, exact', [
    ('keep', ts.COMPRESSED_IMAGE, '.png', True), ('keep', ts.COMPRESSED_IMAGE, '.jpg', True),
    ('jpeg', ts.COMPRESSED_IMAGE, '.png', False), ('jpeg', ts.COMPRESSED_IMAGE, '.jpg', True),
    ('raw', ts.IMAGE, '.png', True)])
def test_images_are_kept_compressed_or_raw(tmp_path, image, msgtype, suffix, exact):
    write_object(tmp_path / 'kitti', suffix)
    convert('--input', tmp_path / 'kitti', '--out', tmp_path / 'bag', '--image', image)
    with open_source(tmp_path / 'bag') as source:
        frame = next(iter(source))
        assert frame.msgtype == msgtype
        path = tmp_path / 'kitti' / 'training' / 'image_2' / f'000000{suffix}'
        difference = np.abs(frame.decode().astype(int) - cv2.imread(str(path)).astype(int))
        assert difference.max() == 0 if exact else 0 < difference.mean() < 3
        if image != 'raw' and exact:
            assert frame.encoded()[0] == path.read_bytes()


def test_raw_drive_keeps_its_time_stamps_and_has_no_labels(tmp_path, capsys):
    assert convert('--input', write_raw(tmp_path), '--out', tmp_path / 'bag') == 0
    assert '(raw layout), 0 with ground truth, 4 with CameraInfo' in capsys.readouterr().out
    with open_source(tmp_path / 'bag') as source:
        stamps = [frame.stamp_ns for frame in source]
    assert np.diff(stamps).tolist() == [100_000] * 3
    assert stamps[0] % 10 ** 9 == 950_000_000
    with BagReader(tmp_path / 'bag') as reader:
        assert not any('ground_truth' in topic for topic in reader.topics)


def test_tracking_sequence_keeps_track_ids_and_frames_without_objects(tmp_path):
    root = write_tracking(tmp_path / 'tracking')
    assert convert('--input', root, '--out', tmp_path / 'bag') == 0
    found = messages_of(tmp_path / 'bag', f'{TOPIC}/ground_truth')
    assert [len(message.detections) for _, message in found] == [1, 3, 1, 0]
    assert [item.id for item in found[1][1].detections] == ['0', '1', '2']
    labels = read_bag_labels(tmp_path / 'bag', f'{TOPIC}/ground_truth')
    assert [len(labels.objects[stamp]) for stamp in sorted(labels.objects)] == [1, 3, 1, 0]
    second = labels.objects[sorted(labels.objects)[1]]
    assert second.truncation.tolist() == [0.3, 0.0, -1.0]
    assert second.occlusion.tolist() == [1, 0, -1]
    text = messages_of(tmp_path / 'bag', f'{TOPIC}/ground_truth/label_2')[1][1].status[0]
    lines = (root / 'label_02' / '0007.txt').read_text().splitlines()
    assert {item.key: item.value for item in text.values}['label_02'].splitlines() == lines[1:4]


def test_frames_without_a_label_file_have_no_ground_truth(tmp_path, capsys):
    root = write_object(tmp_path / 'kitti')
    (root / 'training' / 'label_2' / '000002.txt').unlink()
    assert convert('--input', root, '--out', tmp_path / 'bag') == 0
    assert '4 images' in (text := capsys.readouterr().out) and '3 with ground truth' in text
    assert len(read_bag_labels(tmp_path / 'bag', f'{TOPIC}/ground_truth').objects) == 3


def test_a_broken_image_is_counted_and_left_out(tmp_path, capsys):
    root = write_object(tmp_path / 'kitti')
    (root / 'training' / 'image_2' / '000001.png').write_bytes(b'\x89PNG\r\n\x1a\nbroken')
    assert convert('--input', root, '--out', tmp_path / 'bag') == 0
    captured = capsys.readouterr()
    assert '3 images' in captured.out and '1 images left out: corrupt_compressed' in captured.err


def test_an_error_leaves_no_recording_behind(tmp_path, capsys):
    root = write_object(tmp_path / 'kitti')
    (root / 'training' / 'label_2' / '000003.txt').write_text('Car 1 2\n')
    assert convert('--input', root, '--out', tmp_path / 'bag') == 2
    assert '000003 (labels):1: 3 columns, 15 expected' in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()
    (root / 'training' / 'label_2' / '000003.txt').write_text('')
    assert convert('--input', root, '--out', tmp_path / 'bag') == 0
    assert convert('--input', root, '--out', tmp_path / 'bag') == 2
    assert 'exists already' in capsys.readouterr().err
    assert convert('--input', root, '--out', tmp_path / 'bag', '--force') == 0


@pytest.mark.parametrize('words, message', [
    (['--input', 'nosuch'], 'nosuch: no such folder'),
    (['--input', 'EMPTY'], 'a KITTI object, raw or tracking folder expected'),
    (['--input', 'KITTI', '--layout', 'raw'], 'no images of camera 2 in the raw layout'),
    (['--input', 'KITTI', '--kitti-camera', '3'], 'no image_3'),
    (['--input', 'KITTI', '--calib', 'nosuch'], 'nosuch: no such file or folder'),
    (['--input', 'KITTI', '--camera', '/'], '--camera: a name expected'),
    (['--input', 'KITTI', '--fps', '0'], 'frame rate 0.0 is out of range'),
])
def test_bad_input_is_one_line(tmp_path, capsys, words, message):
    (tmp_path / 'empty').mkdir()
    places = {'EMPTY': tmp_path / 'empty', 'KITTI': write_object(tmp_path / 'kitti')}
    assert convert(*[places.get(word, word) for word in words], '--out', tmp_path / 'bag') == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


@pytest.mark.parametrize('text, message', [
    ('P0: 1\n', 'no line P2: or P_rect_02:'), ('P2: 1 2 3\n', 'x.txt:1: P2 is no projection matrix'),
    (f'\nP2: {PROJECTION.replace("64.0", "nan")}\n', 'x.txt:2: P2'), (f'P2: {"0 " * 12}', 'x.txt:1: P2'),
    (f'P2: {PROJECTION} 1', 'x.txt:1: P2')])
def test_a_wrong_calibration_names_file_and_line(tmp_path, text, message):
    (tmp_path / 'x.txt').write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_projection(tmp_path / 'x.txt', 2)
    with pytest.raises(ConfigError, match='missing.txt: cannot be read'):
        read_projection(tmp_path / 'missing.txt', 2)


@pytest.mark.parametrize('text, message', [
    ('0 0 Car 0\n', 'x.txt:1: 4 columns, 17 expected'),
    ('\n' + 'x' + ' 0' * 16 + '\n', "x.txt:2: frame is 'x', a number expected")])
def test_a_wrong_tracking_file_names_file_and_line(tmp_path, text, message):
    (tmp_path / 'x.txt').write_text(text)
    with pytest.raises(LabelError, match=message):
        read_tracking_labels(tmp_path / 'x.txt')


def test_several_sequences_need_a_name(tmp_path):
    root = write_tracking(tmp_path / 'tracking')
    (root / 'image_02' / '0008').mkdir()
    with pytest.raises(ConfigError, match='2 sequences, name one of 0007, 0008'):
        open_kitti_folder(root)
    assert open_kitti_folder(root, sequence='0007').images.name == '0007'


class TestReading:
    def bag(self, path, *written):
        with BagWriter(path) as bag:
            for i, (topic, message) in enumerate(written):
                bag.write(topic, message, 10 ** 9 + i)
        return path

    def test_other_peoples_ground_truth_has_no_label_texts(self, tmp_path):
        objects = KittiObjects.from_boxes(['Car'], np.array([[1, 2, 3, 4.5]]))
        bag = self.bag(tmp_path / 'bag', ('/cam/gt', ground_truth_array(objects, 5, 'cam')),
                       ('/cam/gt', ground_truth_array(objects, 5, 'cam')))
        labels = read_bag_labels(bag, 'cam/gt')
        assert labels.objects[5].boxes_xyxy.tolist() == [[1, 2, 3, 4.5]]
        assert labels.objects[5].occlusion.tolist() == [-1]
        assert labels.left_out == {'duplicate_stamp': 1}

    def test_missing_topics_and_other_types_are_named(self, tmp_path):
        image = messages.raw_image(np.zeros((2, 2, 3), np.uint8), 5, 'cam')
        empty = ground_truth_array(KittiObjects.empty(), 5, 'cam')
        bag = self.bag(tmp_path / 'bag', ('/cam/image_raw', image), ('/cam/gt', empty))
        with pytest.raises(BagError, match='no topic /cam/labels; topics of type .*: /cam/gt'):
            read_bag_labels(bag, '/cam/labels')
        with pytest.raises(BagError, match='/cam/image_raw is sensor_msgs/msg/Image, vision_msgs'):
            read_bag_labels(bag, '/cam/image_raw')

    def test_bad_messages_are_counted(self, tmp_path):
        good = ground_truth_array(KittiObjects.from_boxes(['Car'], np.array([[1, 2, 3, 4]])), 5, 'cam')
        bad = ground_truth_array(KittiObjects.from_boxes(['Car'], np.array([[1, 2, 3, 4]])), 6, 'cam')
        bad.detections[0].bbox.size_x = float('nan')
        bag = self.bag(tmp_path / 'bag', ('/cam/gt', good), ('/cam/gt', bad))
        labels = read_bag_labels(bag, '/cam/gt')
        assert list(labels.objects) == [5] and labels.left_out == {'bad_message': 1}
        with pytest.raises(BagError, match='not a vision_msgs'):
            parse_objects(b'\x00\x01\x00\x00\xff', True)

    def test_the_texts_are_what_is_read(self, tmp_path):
        assert parse_label_text(TEXTS[1], 'f').types == ('Car', 'Cyclist', 'DontCare')
        assert len(FRAMES) == len(TEXTS)
