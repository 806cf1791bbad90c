# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a camera sees, and what only looks like it; nothing is left out without a word."""

import cv2
from mcap.writer import Writer as McapWriter
import numpy as np
import pytest

from bag_helpers import stamp_of
from kd_perception.bags.reader import BagTopic
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import BagError
from kd_perception.messages import build
from kd_perception.messages import typestore as ts
from kd_perception.sources.any_source import open_source
from kd_perception.sources.image_topics import not_a_camera

# As RealSense, ZED, Gazebo, CARLA, Isaac ROS, depth_image_proc and image_transport name and encode them.
CAMERAS = [
    ('/camera/color/image_raw', 'rgb8'), ('/camera/infra1/image_rect_raw', 'mono8'),
    ('/thermal/image', 'mono16'), ('/depth_camera/image_raw', 'rgb8'), ('/front/image', 'bayer_rggb8'),
    ('/zed/left/image_rect_color', 'bgra8'), ('/front/image_raw/compressed', 'bgr8; jpeg compressed bgr8'),
    ('/depth_camera/compressed', 'jpeg'), ('/masked_man/image_raw', 'rgb8'), ('/front/image_raw', '8UC1'),
    ('/cam', 'nv12'), ('/c/image_raw', '32FC3')]
OTHERS = [
    ('/camera/depth/image_rect_raw', '16UC1'), ('/camera/aligned_depth_to_color/image_raw', '16UC1'),
    ('/zed/depth/depth_registered', '32FC1'), ('/front/image_raw', '16UC1'), ('/stereo/disparity', 'mono8'),
    ('/camera/depth/image', 'mono16'), ('/d/image_raw/compressedDepth', '16UC1; compressedDepth png'),
    ('/camera/depth/image_raw/compressed', '16UC1; png compressed '), ('/front/optical_flow', '32FC2'),
    ('/carla/ego/semantic_segmentation_front/image', 'bgra8'), ('/front/mask', 'mono8'),
    ('/unet/colored_segmentation_mask', 'rgb8'), ('/front/instance/image_raw', 'mono16'),
    ('/front/debug_image', 'bgr8'), ('/front/annotated', 'rgb8'), ('/zed/confidence/map', '32FC1'),
    ('/front/teacher/image_raw', 'bgr8')]


@pytest.mark.parametrize('expected,topics', [(True, CAMERAS), (False, OTHERS)])
def test_by_encoding_and_name(expected, topics):
    for name, encoding in topics:
        compressed = 'ompressed' in name
        topic = BagTopic(name, ts.COMPRESSED_IMAGE if compressed else ts.IMAGE, 1)
        assert (not_a_camera(topic, encoding) == '') is expected, (name, encoding)


def image(encoding, itemsize):
    message = build.raw_image(np.zeros((8, 12, 3), np.uint8), stamp_of(0), 'c')
    message.encoding, message.step = encoding, 12 * itemsize
    message.data = np.zeros(8 * 12 * itemsize, np.uint8)
    return message


def test_a_recording_names_what_it_leaves_out(tmp_path):
    png = cv2.imencode('.png', np.zeros((8, 12), np.uint16))[1].tobytes()
    with BagWriter(tmp_path / 'b.mcap') as writer:
        for topic, encoding, itemsize in (('/rgb/image_raw', 'rgb8', 3), ('/d/image_raw', '16UC1', 2),
                                          ('/d/registered', '32FC1', 4), ('/front/mask', 'mono8', 1)):
            writer.write(topic, image(encoding, itemsize), stamp_of(0))
        for topic, kind in (('/d/image_raw/compressedDepth', '16UC1; compressedDepth png'),
                            ('/p/image_raw/compressed', '16UC1; png compressed ')):
            writer.write(topic, build.compressed_image(png, kind, stamp_of(0), 'c'), stamp_of(0))
    path = tmp_path / 'b.mcap'
    with open_source(path) as source:
        assert [camera.topic for camera in source.cameras] == ['/rgb/image_raw']
        line, = [line for line in source.problems if 'left out' in line]
        for topic in ('/d/image_raw (depth or the like, 16UC1)', '/d/registered (',
                      '/front/mask (named mask)', '/d/image_raw/compressedDepth (',
                      '/p/image_raw/compressed ('):
            assert topic in line
    with open_source(path, ['/front/mask']) as source:
        assert [frame.decode().shape for frame in source] == [(8, 12, 3)], 'asked for by name'
        assert not any('left out' in line for line in source.problems)


def test_a_recording_of_depth_alone_says_so(tmp_path):
    with BagWriter(tmp_path / 'b.mcap') as writer:
        writer.write('/d/image_raw', image('16UC1', 2), stamp_of(0))
    with pytest.raises(BagError, match=r'no camera topic.*left out: /d/image_raw \(depth.*, 16UC1\)'):
        open_source(tmp_path / 'b.mcap')


def test_ros1_bags_in_a_folder_are_named_as_such(tmp_path):
    (tmp_path / 'drive_1.bag').write_bytes(b'#ROSBAG V2.0\n' + bytes(100))
    with pytest.raises(BagError, match=r'holds ROS 1 bags \(drive_1.bag\); convert them first'):
        open_source(tmp_path)


def test_compressed_video_is_named_as_such(tmp_path):
    """A topic of a type that nobody here knows is written with a definition of its own."""
    with (tmp_path / 'v.mcap').open('wb') as file:
        writer = McapWriter(file)
        writer.start(profile='ros2')
        schema = writer.register_schema('foxglove_msgs/msg/CompressedVideo', 'ros2msg', b'string format')
        channel = writer.register_channel('/front/video', 'cdr', schema)
        writer.add_message(channel, 1, bytes(12), 1)
        writer.finish()
    with pytest.raises(BagError, match=r'left out: /front/video \(compressed video, foxglove_msgs/msg/Comp'):
        open_source(tmp_path / 'v.mcap')
