# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""replay_node as a process: what goes out, when, and when it ends."""

import json
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from bag_helpers import numbered_image, PERIOD_NS, stamp_of, START_NS, write_bag
from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import message_class
from kd_perception.nodes.replay.topics import ReplayTopics, SETTLE_NS
from ros_harness import BEST_EFFORT, LATCHED, RELIABLE
from vision_msgs.msg import Detection2DArray

IMAGES = 'a folder with an image'


def stamp_ns(message):
    """Return a message's stamp in ns."""
    return message.header.stamp.sec * 10 ** 9 + message.header.stamp.nanosec


@pytest.fixture
def replay(start):
    """Start replay_node with parameters; values as Python values."""
    def start_replay(*extra, **parameters):
        arguments = []
        for key, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ['-p', f'{key}:={text}']
        return start('kd_perception.nodes.replay_node', '--ros-args', *arguments, *extra)
    return start_replay


def report_of(child, code=0):
    """Wait for the end and return the report."""
    assert child.wait(60) == code, child.log
    assert 'Traceback' not in child.log, child.log
    return json.loads(next(line for line in child.log.splitlines() if line.startswith('{"input"')))


@pytest.mark.parametrize('name,storage', [('b.mcap', None), ('b', 'sqlite3')])
def test_a_recording_goes_out_byte_for_byte_to_both_kinds_of_readers(probe, replay, tmp_path, name, storage):
    path = write_bag(tmp_path / name, 8, ('front', 'robot/rear'), storage=storage)
    reliable = []
    probe.node.create_subscription(Image, 'front/image_raw', reliable.append, RELIABLE, raw=True)
    # Deep, so that a reader on a busy machine overwrites nothing.
    lossy = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
    best_effort = probe.collect(Image, 'robot/rear/image_raw', lossy)
    report = replay(input=path, rate=2.0)
    # Reliable is complete; of best effort only order and content are promised.
    probe.wait_for(lambda: len(reliable) == 8 and best_effort,
                   lambda: f'8 images and at least one, got {len(reliable)}, {len(best_effort)}')
    with BagReader(path) as bag:
        assert [bytes(raw) for raw in reliable] == [r.raw for r in bag.messages(['/front/image_raw'])]
    report = report_of(report)
    lossy_stamps, sent = [stamp_ns(m) for m in best_effort], [stamp_of(i) + 1 for i in range(8)]
    assert lossy_stamps == [stamp for stamp in sent if stamp in lossy_stamps] and lossy_stamps
    assert (report['frames'], report['passes'], report['ended']) == (16, 1, 'end of input')
    assert report['frames_per_camera'] == {'front': 8, 'robot/rear': 8} and report['lost_in_input'] == 0


def test_a_folder_as_compressed_images_in_a_namespace(probe, replay, tmp_path):
    for i in range(4):
        cv2.imwrite(str(tmp_path / f'{i}.png'), numbered_image(i))
    received = probe.collect(CompressedImage, '/robot/front/image_raw/compressed')
    child = replay('-r', '__ns:=/robot', input=tmp_path, cameras=['front'], image_transport='compressed',
                   frame_rate=20.0)
    report_of(child)
    probe.wait_for(lambda: len(received) == 4, '4 images')
    assert [bytes(m.data) for m in received] == [(tmp_path / f'{i}.png').read_bytes() for i in range(4)]
    assert [stamp_ns(m) for m in received] == [10 ** 9 + i * 50_000_000 for i in range(4)]


def test_pace_and_clock(probe, replay, tmp_path):
    """20 images, 0.1 s apart, ten times as fast: 0.19 s; /clock rises and stands at each image's time."""
    path = write_bag(tmp_path / 'b.mcap', 20, log_delay_ns=3_000_000)
    images = probe.collect(Image, 'front/image_raw')
    clocks = probe.collect(Clock, '/clock', BEST_EFFORT)
    report = report_of(replay(input=path, rate=10.0, publish_clock=True, clock_rate_hz=1000.0))
    probe.wait_for(lambda: len(images) == 20, '20 images')
    assert 0.15 <= report['wall_s']
    # Only the last of a burst is kept by this reader of depth 1, so that the clock is checked as a whole.
    times = [c.clock.sec * 10 ** 9 + c.clock.nanosec for c in clocks]
    assert times and times == sorted(times)
    assert all(START_NS + 3_000_000 <= t <= stamp_of(19) + 3_000_000 for t in times)


def test_a_part_of_a_recording(probe, replay, tmp_path):
    path = write_bag(tmp_path / 'b.mcap', 30)
    images = probe.collect(Image, 'front/image_raw')
    report = report_of(replay(input=path, rate=0.0, start_offset_s=1.0, duration_s=0.5))
    assert report['frames'] == 5
    probe.wait_for(lambda: len(images) == 5, '5 images')
    assert [stamp_ns(m) for m in images] == [stamp_of(i) for i in range(10, 15)]
    assert report_of(replay(input=path, rate=0.0, max_frames=3))['frames'] == 3


def test_stamps_of_now(probe, replay, tmp_path):
    path = write_bag(tmp_path / 'b.mcap', 3)
    images = probe.collect(Image, 'front/image_raw')
    before = probe.node.get_clock().now().nanoseconds
    report_of(replay(input=path, rate=0.0, stamps='now'))
    probe.wait_for(lambda: len(images) == 3, '3 images')
    after = probe.node.get_clock().now().nanoseconds
    assert all(before < stamp_ns(m) < after for m in images)
    assert {m.header.frame_id for m in images} == {'front_optical'}


def test_other_topics_go_with_it_but_never_what_detectors_publish(probe, replay, tmp_path):
    info = message_class('sensor_msgs/msg/CameraInfo')
    region = message_class('sensor_msgs/msg/RegionOfInterest')(
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    text = message_class('std_msgs/msg/String')
    with BagWriter(tmp_path / 'b.mcap') as writer:
        writer.add_topic('/map_name', 'std_msgs/msg/String', latched=True)
        writer.write('/map_name', text(data='town'), START_NS)
        writer.write('/front/detections', messages.header(1, 'stale'), START_NS)
        writer.write('/noise', text(data='x'), START_NS)
        writer.write('/odd', message_class('foxglove_msgs/msg/Point2')(x=1.0, y=2.0), START_NS)
        for i in range(3):
            writer.write('/front/camera_info', info(
                header=messages.header(stamp_of(i), 'f'), height=24, width=32, distortion_model='plumb_bob',
                d=np.zeros(5), k=np.zeros(9), r=np.zeros(9), p=np.zeros(12), binning_x=0, binning_y=0,
                roi=region), stamp_of(i))
            image = messages.raw_image(numbered_image(i), stamp_of(i), 'f')
            writer.write('/front/image_raw', image, stamp_of(i))
    images = probe.collect(Image, 'front/image_raw')
    infos = probe.collect(CameraInfo, 'front/camera_info')
    stale, noise = probe.collect(Header, 'front/detections'), probe.collect(String, 'noise')
    child = replay(input=tmp_path / 'b.mcap', loop=True, other_topics=['/front/*', '/map*', '/odd'])
    late = probe.collect(String, 'map_name', LATCHED)
    probe.wait_for(lambda: len(images) >= 3 and len(infos) >= 3 and late, 'images, camera info and the map')
    assert late[0].data == 'town' and infos[0].distortion_model == 'plumb_bob'
    child.process.send_signal(signal.SIGINT)
    report = report_of(child)
    assert stale == [] and noise == [] and report['ended'] == 'interrupted'
    assert report['skipped_topics'] == {'/odd': 'message type foxglove_msgs/msg/Point2 is not installed'}


def test_a_damaged_recording_plays_its_rest_and_says_so(replay, tmp_path):
    path = write_bag(tmp_path / 'b', 20, hw=(200, 320))
    storage = next(path.glob('*.mcap'))
    storage.write_bytes(storage.read_bytes()[:2_000_000])
    report = report_of(replay(input=path, rate=0.0, wait_for_subscribers_s=0.0))
    assert 0 < report['frames'] < 20 and report['lost_in_input'] == 20 - report['frames']
    assert any('recorded messages cannot be read' in problem for problem in report['input_problems'])


def test_images_that_cannot_be_decoded_are_left_out_and_counted(replay, tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'{i}.png'), numbered_image(i))
    (tmp_path / '1.png').write_bytes((tmp_path / '1.png').read_bytes()[:-20])
    child = replay(input=tmp_path, rate=0.0, wait_for_subscribers_s=0.0)
    report = report_of(child)
    assert report['frames'] == 2 and report['undecodable'] == {'corrupt_compressed': 1}
    assert 'image 1 is left out: corrupt_compressed' in child.log


@pytest.mark.parametrize('parameters,told', [
    ({}, 'parameter input: is empty'),
    ({'input': '/nowhere'}, '/nowhere: no such folder, video or recording'),
    ({'input': '/', 'rate': -1.0}, 'rate'),
    ({'input': IMAGES, 'cameras': ['1st']}, "camera '1st' cannot be a topic"),
    ({'input': IMAGES, 'cameras': ['a', 'b']}, 'holds one camera, 2 were asked for (a, b)'),
    ({'input': '/', 'lockstep': 'sometimes'}, "'sometimes' is unknown, expected one of 'none', 'det")])
def test_wrong_parameters_end_with_one_line(replay, parameters, told, tmp_path):
    if parameters.get('input') == IMAGES:
        cv2.imwrite(str(tmp_path / '0.png'), numbered_image(0))
        parameters = {**parameters, 'input': tmp_path}
    child = replay(**parameters)
    assert child.wait() == 2
    lines = [line for line in child.log.splitlines() if line.startswith('kd_perception: error: ')]
    assert len(lines) == 1 and told in lines[0] and 'Traceback' not in child.log


def test_without_readers_it_plays_after_the_wait_and_says_so(replay, tmp_path):
    child = replay(input=write_bag(tmp_path / 'b.mcap', 2), rate=0.0, wait_for_subscribers_s=0.5)
    assert report_of(child)['frames'] == 2
    assert 'nobody at the other end of /front/image_raw after 0.5 s; playing all the same' in child.log


class TestLockstep:
    def test_without_a_detector_it_gives_up(self, replay, tmp_path):
        path = write_bag(tmp_path / 'b.mcap', 2)
        child = replay(input=path, lockstep='detections', wait_for_subscribers_s=0.5)
        assert child.wait() == 2
        assert 'lockstep: nobody at the other end of /front/image_raw, /front/detections' in child.log

    @pytest.mark.parametrize('lockstep,spins', [(True, [0, 1, 2, 3, 4, 5, 6]), (False, [0, 1])])
    def test_the_first_image_gives_the_other_side_time_to_see_the_reader_of_answers(self, lockstep, spins):
        """Peers are complete after two spins of 0.1 s; in lockstep five more follow."""
        clock = []
        topics = SimpleNamespace(
            _steady=lambda: len(clock) * SETTLE_NS // 5,
            _settings=SimpleNamespace(wait_for_subscribers_s=10.0, min_subscribers=1),
            _node=SimpleNamespace(context=SimpleNamespace(ok=lambda: True)),
            _images={'front': SimpleNamespace(
                topic_name='/front/image_raw', get_subscription_count=lambda: int(len(clock) >= 2))})
        answers = SimpleNamespace(topics_without_publisher=lambda: [])
        ReplayTopics.wait_for_peers(
            topics, answers if lockstep else None, lambda: clock.append(len(clock)))
        assert clock == spins

    @pytest.mark.parametrize('topic', ['detections', 'verified_detections'])
    def test_the_next_image_waits_for_the_answer_or_the_time_out(self, probe, replay, tmp_path, topic):
        """Answers to even images only, after some lure: wrong stamp, and the stamp of the image before."""
        path = write_bag(tmp_path / 'b.mcap', 6)
        answers = probe.publisher(Detection2DArray, f'front/{topic}')
        images = []

        def answer(image):
            images.append(image)
            number = (stamp_ns(image) - START_NS) // PERIOD_NS
            lure = Detection2DArray(header=Header(frame_id='lure'))
            lure.header.stamp.sec = 77
            answers.publish(lure)
            if number % 2 == 0:
                answers.publish(Detection2DArray(header=image.header))
        child = replay(input=path, lockstep=topic, lockstep_timeout_s=0.4)
        # No image comes without a subscriber, so that even the first answer finds its reader.
        probe.wait_matched(answers)
        probe.node.create_subscription(Image, 'front/image_raw', answer, RELIABLE)
        probe.wait_for(lambda: not child.alive, 'the end of the replay')
        report = report_of(child, code=1)
        assert (report['frames'], report['answers'], report['timeouts']) == (6, 3, 3)
        assert [stamp_ns(m) for m in images] == [stamp_of(i) for i in range(6)]
        assert report['wall_s'] >= 3 * 0.4 and 'no answer to image 000001 within 0.4 s' in child.log
