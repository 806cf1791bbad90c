# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""detector_node as a process: bad frames, overload, dead cameras, clocks that jump."""

import re
import time

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from builtin_interfaces.msg import Time
import numpy as np
from rosgraph_msgs.msg import Clock

from detector_client import CameraClient, compressed_message, DetectorClient, image_message, next_header
from detector_scenarios import diagnostics_are_well, IMAGE, result_is_exact
from kd_perception.benchmark.rectangle_model import steps_for, write_rectangle_model

OK, WARN, ERROR = b'\0', b'\1', b'\2'


def _changed(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def _bad_raw_images():
    """(message, reason): what cameras and broken drivers really send."""
    floats = np.full((96, 128), 0.5, np.float32)
    floats[3, 4] = np.nan
    good = lambda: image_message(IMAGE)  # noqa: E731
    return [
        (_changed(good(), encoding='notype9'), 'unsupported_encoding'),
        (_changed(good(), encoding=''), 'unsupported_encoding'),
        (_changed(good(), data=good().data[:-1]), 'short_data'),
        (_changed(good(), data=type(good().data)('B')), 'short_data'),
        (_changed(good(), width=0), 'zero_size'),
        (_changed(good(), height=0), 'zero_size'),
        (_changed(good(), step=100), 'bad_step'),
        (_changed(good(), step=0), 'bad_step'),
        (_changed(good(), width=2**32 - 1, height=2**32 - 1, step=2**32 - 1), 'too_large'),
        (_changed(good(), width=2**16, height=2**16), 'too_large'),
        (image_message(floats, '32FC1'), 'non_finite'),
        (image_message(np.full((96, 128), 300, np.float32), '32FC1'), 'value_range'),
    ]


def test_bad_frames_are_dropped_counted_and_never_fatal(probe, start_detector):
    process = start_detector()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    expected = {}
    for message, reason in _bad_raw_images():
        camera.publisher.publish(message)
        expected[reason] = expected.get(reason, 0) + 1
        key, count = f'dropped.{reason}', str(expected[reason])
        detector.wait_status('camera camera', lambda s, v: v.get(key) == count,
                             f'the count of {reason} to be {expected[reason]}')
    status = detector.status('camera camera')
    assert status.level in (WARN, ERROR) and 'frames dropped' in status.message
    assert camera.results == []
    result_is_exact(camera)
    values = detector.wait_status('camera camera', lambda s, v: v['processed'] == '1', 'the good frame')
    values = {pair.key: pair.value for pair in values.values}
    assert {k[8:]: int(v) for k, v in values.items() if k.startswith('dropped.')} == expected
    assert process.alive and 'Traceback' not in process.log
    assert "'notype9' is not decoded here and cv_bridge is not installed" in process.log \
        or "cv_bridge refuses 'notype9'" in process.log


def test_bad_compressed_frames(probe, start_detector):
    start_detector(image_transport='compressed')
    detector, camera = DetectorClient(probe), CameraClient(probe, compressed=True)
    camera.wait_ready()
    jpeg, noise = compressed_message(IMAGE, '.jpg'), compressed_message(IMAGE, '.jpg')
    truncated = _changed(compressed_message(IMAGE, '.jpg'), data=jpeg.data[:len(jpeg.data) // 2])
    # The frame header stays, the rest is noise: libjpeg refuses it or the end marker is missing.
    noise.data[200:] = type(noise.data)('B', np.random.default_rng(0).bytes(len(noise.data) - 200))
    empty = _changed(compressed_message(IMAGE), data=type(jpeg.data)('B'))
    text = _changed(compressed_message(IMAGE), data=type(jpeg.data)('B', b'GIF89a' + bytes(100)))
    for count, (message, reason) in enumerate([
            (truncated, 'corrupt_compressed'), (noise, 'corrupt_compressed'), (empty, 'short_data'),
            (text, 'unsupported_encoding')], start=1):
        camera.publisher.publish(message)
        values = detector.wait_status('camera camera', lambda s, v: v.get('dropped') == str(count), reason)
        assert f'dropped.{reason}' in {pair.key for pair in values.values}
    message = compressed_message(IMAGE)
    assert len(camera.ask(message).detections) == 2


def test_a_flood_of_bad_frames_is_logged_once_a_second(probe, start_detector):
    process = start_detector()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < 3:
        camera.publisher.publish(_changed(image_message(IMAGE), encoding='odd'))
        count += 1
        probe.spin(0.01)
    detector.wait_status('camera camera', lambda s, v: int(v['received']) > 50, 'the flood')
    lines = [line for line in process.log.splitlines() if 'frame dropped' in line]
    assert 2 <= len(lines) <= (time.monotonic() - begin) + 1
    assert re.search(r'; \d+ more like it since the last such line', lines[-1])
    status = detector.wait_status('camera camera', lambda s, v: s.level == WARN, 'a warning')
    assert 'unsupported_encoding' in status.message


def test_bytes_that_are_no_image_message(probe, start_detector):
    """A peer with a broken serialiser: the payload cannot be deserialised at all."""
    process = start_detector()
    camera = CameraClient(probe)
    camera.wait_ready()
    for payload in (b'\x00\x01\x00\x00' + b'\xff' * 64, b'\x00\x01\x00\x00' + b'\x07' * 13):
        camera.publisher.publish(payload)
    probe.spin(0.5)
    assert process.alive, process.log
    result_is_exact(camera)
    assert 'Traceback' not in process.log


def test_a_slow_model_drops_stale_frames_and_answers_the_newest(probe, start_detector, tmp_path):
    """Every image is either answered or counted, and what is answered is never old."""
    inference_ms = 120
    model = write_rectangle_model(tmp_path / 'slow.onnx', load_steps=steps_for(inference_ms, tmp_path))
    # depth 1 as in the field, reliable so that no image is lost before the node
    start_detector(model=model)
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    camera.ask(image_message(IMAGE))
    sent, period_s = [], 0.02
    ages_s = []
    end = time.monotonic() + 3
    while time.monotonic() < end:
        message = image_message(IMAGE)
        camera.publisher.publish(message)
        sent.append((message.header.stamp.sec, time.monotonic()))
        before = len(camera.results)
        probe.spin(period_s)
        for result in camera.results[before:]:
            published = dict(sent).get(result.header.stamp.sec)
            ages_s.append(time.monotonic() - published)
    status = detector.wait_status(
        'camera camera', lambda s, v: int(v['received']) == int(v['processed']) + int(v['dropped'])
        and int(v['received']) > 30, 'every image to be answered or counted')
    values = {pair.key: pair.value for pair in status.values}
    assert int(values['dropped.superseded']) > int(values['processed']) > 5
    assert int(values['dropped']) == int(values['dropped.superseded'])
    stamps = [r.header.stamp.sec for r in camera.results]
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)
    # One image waits while one is in work: with a queue the age would grow with every frame.
    inference_s = float(values['inference.max_ms']) / 1e3
    assert max(ages_s) < 2 * inference_s + 0.2, (max(ages_s), inference_s)
    assert max(ages_s[-3:]) < max(ages_s[:3]) + inference_s


def test_cameras_are_served_in_turn_under_overload(probe, start_detector, tmp_path):
    model = write_rectangle_model(tmp_path / 'slow.onnx', load_steps=steps_for(60, tmp_path))
    start_detector(model=model, cameras=['fast', 'slow'])
    fast, slow = CameraClient(probe, 'fast'), CameraClient(probe, 'slow')
    for camera in (fast, slow):
        camera.wait_ready()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for _ in range(5):
            fast.publisher.publish(image_message(IMAGE))
            probe.spin(0.01)
        slow.publisher.publish(image_message(IMAGE))
    probe.spin(0.5)
    assert min(len(fast.results), len(slow.results)) >= 0.5 * max(len(fast.results), len(slow.results)) >= 3


def test_diagnostics_once_a_second_from_start_to_dead_camera(probe, start_detector):
    start_detector(silence_warn_s=1.0, silence_error_s=2.0)
    detector, camera = DetectorClient(probe), CameraClient(probe)
    detector.wait_status('camera camera', lambda s, v: v['state'] == 'waiting', 'a waiting camera')
    detector.wait_status('camera camera', lambda s, v: s.level == ERROR and 'no image yet' in s.message,
                         'an error about a camera that never came')
    camera.wait_ready()
    diagnostics_are_well(detector, camera)
    silent = time.monotonic()
    status = detector.wait_status('camera camera', lambda s, v: s.level == ERROR and v['state'] == 'stale',
                                  'an error about a dead camera')
    assert time.monotonic() - silent < 5 and 'no image for' in status.message
    assert detector.status('model').level == OK
    count = len(detector.diagnostics)
    begin = time.monotonic()
    probe.wait_for(lambda: len(detector.diagnostics) >= count + 3, 'three more reports of a dead camera')
    assert 2 < time.monotonic() - begin < 4.5
    diagnostics_are_well(detector, camera)


def test_diagnostics_in_every_state(probe, start_detector):
    start_detector(autostart=False)
    detector = DetectorClient(probe)
    for transition, state in (
            (None, 'unconfigured'), ('configure', 'inactive'), ('activate', 'active'),
            ('deactivate', 'inactive'), ('cleanup', 'unconfigured'), ('shutdown', 'finalized')):
        if transition:
            assert detector.change_state(transition)
        status = detector.wait_status(
            'model', lambda s, v: v['lifecycle'] == state, f'a report while {state}')
        assert status.level == OK
    names = {status.name for message in detector.diagnostics for status in message.status}
    assert names == {'detector: model', 'detector: camera camera', 'detector: camera camera drift'}


def test_sim_time_that_jumps_and_loops_does_no_harm(probe, start_detector):
    process = start_detector('-p', 'use_sim_time:=true')
    detector, camera = DetectorClient(probe), CameraClient(probe)
    clock = probe.publisher(Clock, '/clock', 10)
    # No /clock yet: the diagnostics come all the same.
    detector.wait_status('model', lambda s, v: s.level == OK, 'a report without a clock')
    camera.wait_ready()
    probe.wait_matched(clock)
    for seconds in (100, 101, 5000, 100, 101, 0, 3):      # forward, a loop of the bag, the clock's start
        clock.publish(Clock(clock=Time(sec=seconds)))
        probe.spin(0.05)
        message = image_message(IMAGE, header=_changed(next_header(), stamp=Time(sec=seconds, nanosec=7)))
        camera.results.clear()
        assert camera.ask(message).header == message.header
    count = len(detector.diagnostics)
    begin = time.monotonic()
    probe.wait_for(lambda: len(detector.diagnostics) >= count + 2, 'reports while the clock stands still')
    assert time.monotonic() - begin < 4
    values = detector.values('camera camera')
    assert float(values['image_age_ms']) >= 0 and float(values['age.p50_ms']) >= 0
    assert values['processed'] == '7' and process.alive and 'Traceback' not in process.log
    stamp = detector.diagnostics[-1].header.stamp
    assert stamp.sec == 3, 'reports carry the node clock'


def test_images_older_than_the_limit_are_a_warning(probe, start_detector):
    """The usual cause: a bag is played and the node does not run on sim time."""
    start_detector()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    status = detector.wait_status(
        'camera camera', lambda s, v: s.level == WARN and 'after their stamp' in s.message, 'a warning',
        every=lambda: camera.publisher.publish(image_message(IMAGE)))
    assert float({pair.key: pair.value for pair in status.values}['image_age_ms']) > 1e6
