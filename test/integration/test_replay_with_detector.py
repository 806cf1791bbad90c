# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""replay_node and detector_node together: byte-identical lockstep, loops under sim time."""

import json

import numpy as np
import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from bag_helpers import stamp_of
from detector_client import CameraClient, DetectorClient, image_message
from detector_scenarios import EMPTY_IMAGE
from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import canonical, DETECTION_ARRAY
from kd_perception.nodes.shared.wire_tap import Recorder
from vision_msgs.msg import Detection2DArray

COUNT = 25
CAMERAS = ('front', 'rear')


@pytest.fixture
def drive(tmp_path):
    """A recording in which every image of each camera has other boxes."""
    random = np.random.default_rng(7)
    with BagWriter(tmp_path / 'drive.mcap') as writer:
        for number in range(COUNT):
            for index, camera in enumerate(CAMERAS):
                x, y = (int(v) for v in random.integers(0, 60, 2))
                image = draw_rectangles((96, 128), (int(random.integers(0, 3)), (x, y, x + 30, y + 25),
                                                    int(random.integers(120, 256))))
                stamp_ns = stamp_of(number) + index
                writer.write(f'/{camera}/image_raw', messages.raw_image(image, stamp_ns, camera), stamp_ns)
    return tmp_path / 'drive.mcap'


def report_of(child, code=0):
    """Wait for the end and return the report."""
    assert child.wait(90) == code, child.log
    return json.loads(next(line for line in child.log.splitlines() if line.startswith('{"input"')))


def record(probe, start, start_detector, drive, out, **parameters):
    """Run detector and replay once in lockstep; write the answers to `out`."""
    detector = start_detector(cameras=list(CAMERAS), **parameters)
    clients = [CameraClient(probe, camera) for camera in CAMERAS]
    recorder = Recorder(probe.node, {f'/{camera}/detections': Detection2DArray for camera in CAMERAS})
    for client in clients:
        client.wait_ready()
        # An answer has come through: from now on none is missed.
        client.ask(image_message(EMPTY_IMAGE), repeat=True)
        probe.wait_for(lambda: recorder.of(f'/{client.camera}/detections'), 'the first recorded message')
    child = start('kd_perception.nodes.replay_node', '--ros-args', '-p', f'input:={drive}', '-p',
                  'lockstep:=detections')
    probe.wait_for(lambda: not child.alive, lambda: f'the end of the replay:\n{child.log}', 90)
    report = report_of(child)
    probe.wait_for(lambda: len(recorder.messages) >= 2 * COUNT + 2, 'the last messages')
    with BagWriter(out) as writer:
        # By stamp: how the topics interleave on their way to this process is no promise of lockstep.
        for message in sorted(recorder.messages, key=lambda item: messages.parse_header(item.raw)[0]):
            stamp_ns, frame_id = messages.parse_header(message.raw)
            if frame_id in CAMERAS:  # not an answer to the test's own image
                raw = canonical(message.raw, DETECTION_ARRAY)
                writer.write_raw(message.topic, DETECTION_ARRAY, raw, stamp_ns)
    assert detector.stop() == 0
    for client in clients:
        probe.node.destroy_publisher(client.publisher)
    return report


def test_lockstep_is_byte_identical_from_run_to_run(probe, start, start_detector, drive, tmp_path):
    """With a model far too slow for the pace of the recording: in real time most frames would be dropped."""
    model = write_rectangle_model(tmp_path / 'slow.onnx', load_steps=100)
    for run in ('first', 'second'):
        report = record(probe, start, start_detector, drive, tmp_path / run / 'answers.mcap', model=model)
        assert (report['frames'], report['answers'], report['timeouts']) == (2 * COUNT, 2 * COUNT, 0)
    # The same file name, since a recording holds its own.
    first, second = (tmp_path / run / 'answers.mcap' for run in ('first', 'second'))
    with BagReader(first) as bag:
        records = list(bag.messages())
        assert [record.log_ns for record in records] == [
            stamp_of(i) + c for i in range(COUNT) for c in range(len(CAMERAS))]
        boxes = [messages.parse_detection_array(record.raw)[2] for record in records]
    assert all(len(found) == 1 for found in boxes) and len({found.tobytes() for found in boxes}) > COUNT
    assert first.read_bytes() == second.read_bytes()


def test_a_loop_under_sim_time_does_no_harm(probe, start, start_detector, drive):
    """The clock jumps back at each begin; results go on, ages stay sane, no level rises."""
    start_detector(cameras=list(CAMERAS), use_sim_time=True)
    detector = DetectorClient(probe)
    recorder = Recorder(probe.node, {'/front/detections': Detection2DArray})
    child = start('kd_perception.nodes.replay_node', '--ros-args', '-p', f'input:={drive}', '-p',
                  'loop:=true', '-p', 'rate:=5.0', '-p', 'publish_clock:=true')

    def stamps():
        return [messages.parse_header(message.raw)[0] for message in recorder.messages]

    def jumps():
        found = stamps()
        return sum(b < a for a, b in zip(found, found[1:]))
    probe.wait_for(lambda: jumps() >= 3, lambda: f'three loops, saw {jumps()} of {len(stamps())} results', 60)
    known = {stamp_of(i) for i in range(COUNT)}
    assert set(stamps()) <= known
    status = detector.wait_status(
        'camera front', lambda status, values: float(values.get('age.max_ms', -1)) >= 0, 'ages')
    values = {pair.key: pair.value for pair in status.values}
    assert status.level == b'\x00', status.message
    # From stamp to /clock, which runs five times as fast: never negative, never a loop long.
    assert 0 <= float(values['age.p50_ms']) < 1000 * COUNT * 0.1 and values['state'] == 'active'
    assert child.stop() == 0
    assert report_of(child)['passes'] >= 3
