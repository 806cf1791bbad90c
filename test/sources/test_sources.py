# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Frames out of folders, videos and recordings: order, names, stamps; what is said when something is off."""

import cv2
import numpy as np
import pytest

from bag_helpers import numbered_image, PERIOD_NS, stamp_of, write_bag
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import BagError, ImageError
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.sources.any_source import camera_of_topic, open_source
from kd_perception.sources.folders import read_timestamps
from kd_perception.sources.frames import folder_names

SECOND_NS = 1_000_000_000
# The time stamps of a drive of KITTI raw: local time of the recording car, nine decimals.
KITTI_TIMES = '2011-09-26 13:02:25.964389445\n2011-09-26 13:02:26.067985120\n2011-09-26 13:02:26.171710491\n'


def write_images(folder, names, hw=(8, 12)):
    """Write an image for each name, numbered in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), numbered_image(number, hw))
    return folder


def numbers(source):
    """Return the number that each frame's pixels hold."""
    return [int(frame.decode()[0, 0, 0]) for frame in source]


class TestFolder:
    def test_images_come_in_natural_order_with_made_up_stamps(self, tmp_path):
        names = ['img_1.png', 'img_2.png', 'img_9.PNG', 'img_10.png', 'img_100.bmp']
        write_images(tmp_path, names)
        (tmp_path / 'notes.txt').write_text('x')
        (tmp_path / '.hidden.png').write_bytes(b'')
        with open_source(tmp_path) as source:
            frames = list(source)
            assert numbers(source) == [0, 1, 2, 3, 4]
            assert [frame.name for frame in frames] == ['img_1', 'img_2', 'img_9', 'img_10', 'img_100']
            assert [frame.stamp_ns for frame in frames] == [SECOND_NS + i * SECOND_NS // 10 for i in range(5)]
            assert {(frame.camera, frame.frame_id) for frame in frames} == {('camera', 'camera')}
            assert (source.kind, source.frame_count, source.lost) == ('folder', 5, 0)
            assert 'no time stamps, 10 frames a second' in source.problems[0]

    def test_frame_rate_and_camera_name(self, tmp_path):
        write_images(tmp_path, ['a.png', 'b.png'])
        with open_source(tmp_path, ['/front/'], fps=3) as source:
            assert [(frame.camera, frame.stamp_ns) for frame in source] == [
                ('front', SECOND_NS), ('front', SECOND_NS + 333_333_333)]

    def test_kitti_raw_layout(self, tmp_path):
        write_images(tmp_path / 'image_02' / 'data', ['0000000000.png', '0000000001.png', '0000000002.png'])
        (tmp_path / 'image_02' / 'timestamps.txt').write_text(KITTI_TIMES)
        for path in (tmp_path / 'image_02', tmp_path / 'image_02' / 'data'):
            with open_source(path) as source:
                assert [frame.stamp_ns for frame in source] == [
                    1317042145964389445, 1317042146067985120, 1317042146171710491]
                assert source.problems == []

    def test_a_drive_with_missing_images_pairs_by_number(self, tmp_path):
        write_images(tmp_path, ['0000000000.png', '0000000002.png'])
        (tmp_path / 'timestamps.txt').write_text(KITTI_TIMES)
        with open_source(tmp_path) as source:
            assert [frame.stamp_ns for frame in source] == [1317042145964389445, 1317042146171710491]

    def test_stamps_that_do_not_fit_are_an_error(self, tmp_path):
        write_images(tmp_path, ['a.png', 'b.png'])
        stamps = tmp_path / 'stamps.txt'
        stamps.write_text('1.5\n2.5\n3.5\n')
        with pytest.raises(BagError, match='holds 3 stamps for 2 images'):
            open_source(tmp_path, timestamps=stamps)
        with pytest.raises(BagError, match='no such file of time stamps'):
            open_source(tmp_path, timestamps=tmp_path / 'none.txt')

    def test_a_sub_folder_is_a_camera(self, tmp_path):
        for camera in ('front', 'rear'):
            write_images(tmp_path / camera, ['0.png', '1.png'])
            (tmp_path / camera / 'timestamps.txt').write_text(
                '1700000000.0\n1700000000.2\n' if camera == 'front' else '1700000000.1\n1700000000.3\n')
        with open_source(tmp_path) as source:
            assert [(frame.camera, frame.index) for frame in source] == [
                ('front', 0), ('rear', 0), ('front', 1), ('rear', 1)]
        with open_source(tmp_path, ['rear']) as source:
            assert {frame.camera for frame in source} == {'rear'}
        with pytest.raises(BagError, match='no camera left; there is front, rear'):
            open_source(tmp_path, ['left'])

    def test_names_that_differ_only_in_the_suffix_stay_apart(self, tmp_path):
        write_images(tmp_path, ['a.png', 'a.bmp'])
        with open_source(tmp_path) as source:
            assert sorted(frame.name for frame in source) == ['a.bmp', 'a.png']

    @pytest.mark.parametrize('name,content,reason', [
        ('a.png', b'', 'short_data'), ('a.png', b'nonsense', 'corrupt_compressed'),
        ('a.bmp', b'nonsense', 'corrupt_compressed'), ('a.jpg', None, 'corrupt_compressed')])
    def test_a_broken_image_is_an_image_error(self, tmp_path, name, content, reason):
        write_images(tmp_path, ['z.png'])
        if content is None:  # a JPEG that was cut
            content = cv2.imencode('.jpg', numbered_image(0, (64, 64)))[1].tobytes()[:-200] + bytes(99)
        (tmp_path / name).write_bytes(content)
        with open_source(tmp_path) as source:
            broken, whole = list(source)
            with pytest.raises(ImageError) as caught:
                broken.decode()
            assert caught.value.reason == reason
            assert whole.decode().shape == (8, 12, 3)

    def test_an_image_that_vanishes_is_an_image_error(self, tmp_path):
        write_images(tmp_path, ['a.png'])
        with open_source(tmp_path) as source:
            (tmp_path / 'a.png').unlink()
            with pytest.raises(ImageError, match='cannot be read'):
                next(iter(source)).decode()

    def test_files_are_passed_on_encoded(self, tmp_path):
        write_images(tmp_path, ['a.png', 'b.bmp'])
        with open_source(tmp_path) as source:
            first, second = list(source)
            assert first.encoded() == ((tmp_path / 'a.png').read_bytes(), 'png') and second.encoded() is None

    def test_a_single_image(self, tmp_path):
        write_images(tmp_path, ['a.png', 'b.png'])
        with open_source(tmp_path / 'b.png') as source:
            assert numbers(source) == [1]


class TestTimestamps:
    @pytest.mark.parametrize('text,stamps', [
        (KITTI_TIMES.splitlines()[0], [1317042145964389445]),
        ('1970-01-01T00:00:05', [5 * SECOND_NS]),
        ('1700000000.123456789\n\n1700000001.0\n', [1700000000123456789, 1700000001 * SECOND_NS]),
        ('1403636579763555584\n1403636579813555456', [1403636579763555584, 1403636579813555456]),
        # KITTI odometry counts from 0, which ROS takes for "not set".
        ('0.000000e+00\n1.036224e-01', [SECOND_NS, SECOND_NS + 103_622_400]),
        ('', []),
    ])
    def test_formats(self, tmp_path, text, stamps):
        (tmp_path / 't.txt').write_text(text)
        assert read_timestamps(tmp_path / 't.txt') == stamps

    @pytest.mark.parametrize('text,told', [
        ('1.0\nsoon\n', "t.txt:2: expected a date with time, seconds or integer nanoseconds, got 'soon'"),
        ('2.0\n1.0\n', 't.txt:2: the stamp is earlier'),
        *((text, 't.txt:1: expected') for text in (
            '-1', 'nan', 'inf', '9' * 30, '1e999999', '2011-13-26 13:02:25', '1.5 2.5'))])
    def test_errors_name_the_line(self, tmp_path, text, told):
        (tmp_path / 't.txt').write_text(text)
        with pytest.raises(BagError, match=told):
            read_timestamps(tmp_path / 't.txt')


class TestVideo:
    @staticmethod
    def write(path, count=12, fps=25.0, hw=(64, 96)):
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), fps, hw[::-1])
        if not writer.isOpened():
            pytest.skip('this OpenCV cannot write Motion JPEG')
        for number in range(count):
            writer.write(np.full((*hw, 3), 5 * number, np.uint8))
        writer.release()
        return path

    def test_frames_and_presentation_times(self, tmp_path):
        with open_source(self.write(tmp_path / 'a.avi'), ['front']) as source:
            frames = list(source)
            assert [frame.stamp_ns for frame in frames] == [SECOND_NS + i * 40_000_000 for i in range(12)]
            assert [round(float(frame.decode().mean()) / 5) for frame in frames] == list(range(12))
            assert (source.kind, source.lost, source.problems) == ('video', 0, [])
            assert (frames[3].name, frames[3].camera) == ('000003', 'front')
            assert len(list(source)) == 12, 'it can be played again'

    def test_frame_rate_in_place_of_its_own(self, tmp_path):
        with open_source(self.write(tmp_path / 'a.avi', 3), fps=2) as source:
            assert [frame.stamp_ns for frame in source] == [SECOND_NS + i * SECOND_NS // 2 for i in range(3)]

    def test_a_cut_video_counts_what_is_missing(self, tmp_path):
        path = self.write(tmp_path / 'a.avi', 40)
        data = path.read_bytes()
        path.write_bytes(data[:len(data) // 2])
        with open_source(path) as source:
            served = len(list(source))
            assert 5 < served < 35
            # The index lies at the end of an AVI file; without it OpenCV may not know the count.
            assert source.lost in (None, source.cameras[0].count - served, 0)

    def test_damage_inside_motion_jpeg_is_an_image_error(self, tmp_path):
        """FFmpeg would conceal it: the frames are JPEG images and are decoded as such."""
        writer = cv2.VideoWriter(str(tmp_path / 'a.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 25, (320, 240))
        if not writer.isOpened():
            pytest.skip('this OpenCV cannot write Motion JPEG')
        noise = np.random.default_rng(0)
        for _ in range(5):
            writer.write(noise.integers(0, 256, (240, 320, 3), np.uint8))
        writer.release()
        data = bytearray((tmp_path / 'a.avi').read_bytes())
        starts = [i for i in range(len(data)) if data[i:i + 3] == b'\xff\xd8\xff']
        middle = (starts[2] + starts[3]) // 2
        data[middle:middle + 2000] = bytes(2000)
        (tmp_path / 'a.avi').write_bytes(data)
        with open_source(tmp_path / 'a.avi') as source:
            frames = list(source)
            with pytest.raises(ImageError, match='corrupt_compressed'):
                frames[2].decode()
            assert [frames[i].decode().shape for i in (0, 1, 3, 4)] == [(240, 320, 3)] * 4
            data, kind = frames[0].encoded()
            assert kind == 'jpeg' and data.startswith(b'\xff\xd8') and source.lost == 0

    @pytest.mark.parametrize('content', [b'', b'nonsense' * 100])
    def test_what_is_no_video_is_an_error(self, tmp_path, content):
        (tmp_path / 'a.mp4').write_bytes(content)
        with pytest.raises(BagError, match='a.mp4: not a video'):
            open_source(tmp_path / 'a.mp4')


class TestBag:
    @pytest.mark.parametrize('name,storage,compressed', [
        ('b.mcap', None, False), ('b', 'sqlite3', False), ('b.db3', None, True), ('b', 'mcap', True)])
    def test_header_stamps_are_kept_and_log_times_told_apart(self, tmp_path, name, storage, compressed):
        path = write_bag(tmp_path / name, 4, storage=storage, compressed=compressed, log_delay_ns=7)
        with open_source(path) as source:
            frames = list(source)
            assert [frame.stamp_ns for frame in frames] == [stamp_of(i) for i in range(4)]
            assert [frame.log_ns for frame in frames] == [stamp_of(i) + 7 for i in range(4)]
            assert {(frame.camera, frame.frame_id) for frame in frames} == {('front', 'front_optical')}
            for i, frame in enumerate(frames):
                np.testing.assert_array_equal(frame.decode(), numbered_image(i))
            assert source.frame_count == 4 and frames[2].name == '000002'
            assert (frames[0].encoded() is not None) == compressed

    def test_the_raw_topic_of_a_camera_goes_before_the_compressed_one(self, tmp_path):
        with BagWriter(tmp_path / 'b.mcap') as writer:
            image = numbered_image(1)
            data = cv2.imencode('.png', image)[1].tobytes()
            for topic in ('/front/image_raw', '/cam1/rgb', '/front/debug_image', '/front/teacher/image_raw'):
                writer.write(topic, messages.raw_image(image, 5, 'f'), 5)
            for topic in ('/front/image_raw/compressed', '/rear/image_raw/compressed',
                          '/d/image/compressedDepth'):
                writer.write(topic, messages.compressed_image(data, 'png', 5, 'f'), 5)
        with open_source(tmp_path / 'b.mcap') as source:
            assert {camera.name: camera.topic for camera in source.cameras} == {
                'front': '/front/image_raw', 'rear': '/rear/image_raw/compressed', 'cam1/rgb': '/cam1/rgb'}
        with open_source(tmp_path / 'b.mcap', ['front/image_raw/compressed', '/cam1/rgb']) as source:
            assert [camera.topic for camera in source.cameras] == ['/front/image_raw/compressed', '/cam1/rgb']
        with open_source(tmp_path / 'b.mcap', ['front/debug_image']) as source:
            assert source.cameras[0].topic == '/front/debug_image', 'asked for by name'
        with pytest.raises(BagError, match=r"no camera 'left'; image topics: .*/front/image_raw \(1\)"):
            open_source(tmp_path / 'b.mcap', ['left'])

    def test_a_recording_without_images_says_what_it_holds(self, tmp_path):
        with BagWriter(tmp_path / 'b.mcap') as writer:
            header = ts.message_class('std_msgs/msg/Header')
            writer.write('/h', header(stamp=messages.time(1), frame_id='x'), 1)
        with pytest.raises(BagError, match='no camera topic with messages; image topics: none; other.*: 1'):
            open_source(tmp_path / 'b.mcap')

    def test_images_without_a_stamp_get_their_log_time(self, tmp_path):
        with BagWriter(tmp_path / 'b.mcap') as writer:
            writer.write('/c/image_raw', messages.raw_image(numbered_image(0), 0, 'c'), 77)
        with open_source(tmp_path / 'b.mcap') as source:
            assert [frame.stamp_ns for frame in source] == [77]
            assert source.problems == ['1 images had no stamp and got their log time']

    def test_an_unreadable_header_is_left_out_and_counted(self, tmp_path):
        with BagWriter(tmp_path / 'b.mcap') as writer:
            writer.write_raw('/c/image_raw', ts.IMAGE, b'\0\1\0\0xx', 5)
            writer.write('/c/image_raw', messages.raw_image(numbered_image(3), 6, 'c'), 6)
        with open_source(tmp_path / 'b.mcap') as source:
            assert numbers(source) == [3]
            assert source.lost == 1 and 'unreadable header' in source.problems[0]

    def test_a_message_that_is_cut_short_is_an_image_error(self, tmp_path):
        raw = ts.serialize(messages.raw_image(numbered_image(0), 5, 'c'))
        with BagWriter(tmp_path / 'b.mcap') as writer:
            writer.write_raw('/c/image_raw', ts.IMAGE, raw[:len(raw) // 2], 5)
        with open_source(tmp_path / 'b.mcap') as source, pytest.raises(ImageError, match='short_data'):
            next(iter(source)).decode()

    def test_other_topics_come_as_they_are_stored(self, tmp_path):
        with BagWriter(tmp_path / 'b.mcap') as writer:
            header = ts.message_class('std_msgs/msg/Header')
            for i in range(3):
                writer.write('/h', header(stamp=messages.time(i), frame_id='x'), stamp_of(i) - 1)
                image = messages.raw_image(numbered_image(i), stamp_of(i), 'c')
                writer.write('/c/image_raw', image, stamp_of(i))
        with open_source(tmp_path / 'b.mcap') as source:
            kinds = [type(item).__name__ for item in source.items(lambda topic: True)]
            assert kinds == ['Record', 'Frame'] * 3
            assert [type(item).__name__ for item in source.items()] == ['Frame'] * 3
            late = list(source.items(lambda topic: topic == '/h', stamp_of(1)))
            assert len(late) == 3 and late[0].stamp_ns == stamp_of(1)
            assert source.start_ns == stamp_of(0) - 1

    def test_a_frame_rate_does_not_apply(self, tmp_path):
        write_bag(tmp_path / 'b.mcap', 1)
        with pytest.raises(BagError, match='stamps of its own'):
            open_source(tmp_path / 'b.mcap', fps=5)


@pytest.mark.parametrize('topic,camera', [
    ('/front/image_raw', 'front'), ('/front/image_raw/compressed', 'front'), ('/a/b/image_raw', 'a/b'),
    ('/cam0/rgb', 'cam0/rgb'), ('/cam0/rgb/compressed', 'cam0/rgb'), ('/image_raw', 'image_raw')])
def test_camera_of_topic(topic, camera):
    assert camera_of_topic(topic) == camera


def test_nothing_usable_is_one_clear_line(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'a.bag').write_bytes(b'#ROSBAG V2.0')
    for name, told in (('none', 'no such folder, video or recording'), ('empty', 'holds no image'),
                       ('a.bag', 'ROS 1 bag')):
        with pytest.raises(BagError, match=told):
            open_source(tmp_path / name)
    assert PERIOD_NS == 100_000_000


def test_topics_that_would_make_one_camera_are_told_apart(tmp_path):
    path = tmp_path / 'bag'
    topics = ('/cam/image_raw', '/cam', '/left/color/image_raw', '/left_color/image_raw')
    with BagWriter(path) as bag:
        for camera, topic in enumerate(topics):
            image, stamp = numbered_image(7, camera=camera), stamp_of(0)
            png = cv2.imencode('.png', image)[1].tobytes()
            bag.write(topic, messages.raw_image(image, stamp, 'f'), stamp)
            bag.write(f'{topic}/compressed', messages.compressed_image(png, 'png', stamp, 'f'), stamp)
    with open_source(path) as source:
        assert {camera.name: camera.topic for camera in source.cameras} == {
            'cam': '/cam/image_raw', 'cam_2': '/cam', 'left/color': topics[2], 'left_color': topics[3]}
        assert sorted(int(frame.decode()[0, 0, 1]) for frame in source) == [0, 1, 2, 3]
        assert source.problems == ["topic /cam is camera cam_2 here: cam is another topic's"]
    for wanted, topic in (('cam', '/cam/image_raw'), ('cam_2', '/cam'), ('/cam', '/cam')):
        with open_source(path, [wanted]) as source:
            assert [camera.topic for camera in source.cameras] == [topic]


def test_folders_of_cameras_differ():
    names = folder_names(['left/color', 'left_color', 'front', 'Front', 'annotated', '..', 'rear/wide'],
                         ['annotated'])
    assert len({name.casefold() for name in names.values()} - {'annotated', '..'}) == 7
    assert names['rear/wide'] == 'rear_wide' and names['left_color'].startswith('left_color_')
    assert folder_names(['front'])['front'] == 'front'
