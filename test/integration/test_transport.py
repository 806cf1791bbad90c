# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Images of 1.4 MB over what launch files, demo and benchmarks set: whole, all of them, in time."""

import array
import os
import re

import numpy as np
import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kd_perception.transport import image_transport_environment, profiles_file, transports_in_use
from ros_harness import BEST_EFFORT, Probe, RELIABLE

HW = (375, 1242)
SIZE = 3 * HW[0] * HW[1]
# Prints what it receives: the name and the sum over the bytes, each by its place.
SUBSCRIBER = """
import sys
import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
kind = ReliabilityPolicy.RELIABLE if sys.argv[1] == 'reliable' else ReliabilityPolicy.BEST_EFFORT

def show(message):
    data = np.frombuffer(message.data, np.uint8)
    place = np.arange(len(data), dtype=np.uint64)
    print(message.header.frame_id, len(data), int(data.astype(np.uint64) @ place))

rclpy.init()
node = rclpy.create_node('viewer')
node.create_subscription(Image, 'front/image_raw', show, QoSProfile(depth=5, reliability=kind))
rclpy.spin(node)
"""


def contents():
    """Images by rule; a message of one piece loses those whose last 60 bytes are 127, and the like."""
    zero = np.zeros(SIZE, np.uint8)
    for value in (0, 1, 127, 128, 255):
        yield f'all-{value}', np.full(SIZE, value, np.uint8)
        for tail in (60, 64):
            image = zero.copy()
            image[-tail:] = value
            yield f'tail-{tail}-{value}', image
    yield 'noise', np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    # A camera's image that was lost: greys around 127 at its lower right.
    yield 'greys', (np.arange(SIZE, dtype=np.uint32) * 2654435761 % 21 + 112).astype(np.uint8)


def expected(image):
    place = np.arange(len(image), dtype=np.uint64)
    return f'{len(image)} {int(np.asarray(image).astype(np.uint64) @ place)}'


@pytest.fixture
def camera(domain, monkeypatch, tmp_path, start):
    """Return what starts a viewer and publishes to it, both with the shipped profile."""
    for name, value in image_transport_environment(profiles_file(), {}).items():
        monkeypatch.setenv(name, value)
    assert transports_in_use() == 'profiles of fastdds.xml'
    (tmp_path / 'viewer.py').write_text(SUBSCRIBER)
    probe = Probe(domain)

    def view(kind, qos):
        process = start('viewer', kind, environment={'PYTHONPATH': os.pathsep.join(
            filter(None, (str(tmp_path), os.environ.get('PYTHONPATH'))))})
        publisher = probe.publisher(Image, 'front/image_raw', qos)
        probe.wait_matched(publisher)
        return process, publisher

    yield probe, view
    probe.close()


def message(name, image):
    return Image(header=Header(frame_id=name), height=HW[0], width=HW[1], encoding='bgr8', step=3 * HW[1],
                 data=array.array('B', image.tobytes()))


def test_no_image_is_lost_or_changed_whatever_it_shows(camera):
    probe, view = camera
    process, publisher = view('reliable', RELIABLE)
    for name, image in contents():
        # One at a time, as in lockstep.
        publisher.publish(message(name, image))
        # The whole line: a print may be seen half.
        probe.wait_for(lambda: re.search(rf'^{name} \d+ \d+\n', process.log, re.MULTILINE),
                       lambda: f'{name}:\n{process.log}')
        assert f'{name} {expected(image)}\n' in process.log


def test_best_effort_images_arrive_too(camera):
    """Each is sent again until it is there; how many are lost depends on the computer's load."""
    probe, view = camera
    process, publisher = view('best_effort', BEST_EFFORT)
    for number in range(5):
        image = message(f'number{number}', np.full(SIZE, number, np.uint8))
        probe.wait_for(lambda: f'number{number} {expected(image.data)}' in process.log,
                       lambda: process.log, every=lambda: publisher.publish(image), period_s=1.0)
    # What keeps the losses low: room for whole images in shared memory. Fast DDS' own 0.5 MB is none.
    assert max(shared_memory_bytes(process.process.pid)) > 2 * SIZE


def shared_memory_bytes(pid):
    """Sizes of the segments of Fast DDS that a process has mapped."""
    with open(f'/proc/{pid}/maps', encoding='utf-8') as maps:
        spans = [line.split()[0] for line in maps if '/dev/shm/fastrtps_' in line]
    return [int(end, 16) - int(begin, 16) for begin, end in (span.split('-') for span in spans)]
