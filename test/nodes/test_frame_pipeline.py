# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What one frame becomes, with a session and publishers that fail on request."""

import array
from types import SimpleNamespace

import pytest

pytest.importorskip('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from builtin_interfaces.msg import Time
import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.health.camera_monitor import CameraLimits, CameraMonitor
from kd_perception.health.model_monitor import ModelMonitor
from kd_perception.levels import Level
from kd_perception.messages.wire import read_result
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, ThresholdSpec
from kd_perception.nodes.detector.camera_channel import CameraChannel, Frame
from kd_perception.nodes.detector.frame_pipeline import FramePipeline
from kd_perception.nodes.detector.parameters import Thresholds
from kd_perception.nodes.shared.diagnostics import diagnostics_message
from kd_perception.nodes.shared.runtime import RCLError
from kd_perception.nodes.shared.throttle import Throttle
from vision_msgs.msg import Detection2DArray

HW = (32, 64)
SPEC = ModelSpec('fixed', ('a', 'b'), InputSpec(*HW), DecoderSpec('boxes_scores'), ThresholdSpec(0.5))


class Publisher:
    """Keeps what is published, or fails."""

    def __init__(self, subscribers=0):
        self.messages, self.subscribers, self.error = [], subscribers, None

    def publish(self, message):
        if self.error:
            raise self.error
        self.messages.append(message)

    def get_subscription_count(self):
        return self.subscribers


class Results(Publisher):
    """Keeps results as their readers see them."""

    def publish(self, message):
        raw = isinstance(message, bytes)
        super().publish(deserialize_message(message, Detection2DArray) if raw else message)


class Session:
    """One box of class `a` with score 0.9 and one of class `b` with 0.3, or an error."""

    error = None

    def run(self, names, feeds):
        if self.error:
            raise self.error
        return [np.array([[[8, 8, 24, 24], [40, 4, 60, 28]]], np.float32),
                np.array([[[0.9, 0], [0, 0.3]]], np.float32)]


class Drift:
    """Keeps what a drift monitor is shown, or fails."""

    error = None

    def __init__(self):
        self.shown = []

    def update(self, spec, image, detections):
        if self.error:
            raise self.error
        self.shown.append((spec, image.shape, None if detections is None else len(detections)))


class Channel(CameraChannel):
    """A camera's channel without topics."""

    def __init__(self, clock):
        self.name, self.lines = 'front', []
        self.monitor = CameraMonitor('front', '/front', CameraLimits(max_age_ns=0), clock)
        self.monitor.set_active(True)
        self.drift = Drift()
        self.detections, self.candidates, self.debug_image = Results(), Publisher(), Publisher()
        self.class_numbers = False
        self._throttle = Throttle(10**9, clock)
        self._node = SimpleNamespace(get_logger=lambda: SimpleNamespace(warning=self.lines.append))

    def age_ns(self, message):
        return 70_000_000 if message.header.stamp.sec else None


class Bench:
    def __init__(self):
        self.now_ns = 10**12
        self.session, self.channel = Session(), Channel(self.clock)
        self.model_monitor = ModelMonitor(self.clock)
        self.model_monitor.loaded((), '')
        self.pipeline = FramePipeline(
            OnnxDetector(self.session, SPEC), {'front': self.channel}, self.model_monitor, Thresholds(),
            self.clock)

    def clock(self):
        self.now_ns += 1000
        return self.now_ns

    def process(self, **fields):
        message = Image(height=32, width=64, step=192, encoding='bgr8')
        message.header.stamp.sec = 5
        message.data = array.array('B', bytes(32 * 192))
        for name, value in fields.items():
            setattr(message, name, value)
        self.pipeline.process('front', Frame(message, self.clock()))
        return message

    @property
    def values(self):
        return dict(self.channel.monitor.report().values)


@pytest.fixture
def bench():
    return Bench()


def test_a_good_frame(bench):
    message = bench.process()
    result, = bench.channel.detections.messages
    assert result.header == message.header
    assert [d.results[0].hypothesis.class_id for d in result.detections] == ['a']
    values = bench.values
    assert values['processed'] == '1' and values['dropped'] == '0' and values['detections'] == '1'
    assert values['age.p50_ms'] == '70.000'
    assert 60 < float(values['staleness.p50_ms']) < 70
    for stage in ('wait', 'decode', 'preprocess', 'inference', 'postprocess', 'publish', 'total', 'overhead'):
        assert float(values[f'{stage}.max_ms']) >= 0
    assert bench.channel.lines == [] and bench.channel.debug_image.messages == []


def test_thresholds_count_from_the_next_frame_on(bench):
    bench.pipeline.thresholds = Thresholds(score=0.2)
    bench.process()
    bench.pipeline.thresholds = Thresholds(score=0.2, max_detections=1)
    bench.process()
    assert [len(m.detections) for m in bench.channel.detections.messages] == [2, 1]


def test_disabled_frames_are_dropped_without_a_line(bench):
    bench.pipeline.thresholds = Thresholds(enabled=False)
    bench.process()
    assert bench.values['dropped.disabled'] == '1' and bench.channel.lines == []
    assert bench.channel.detections.messages == []


def test_a_bad_image_is_counted_and_named(bench):
    bench.process(encoding='odd')
    bench.process(encoding='odd')
    assert bench.values['dropped.unsupported_encoding'] == '2' and bench.values['processed'] == '0'
    line, = bench.channel.lines
    assert line.startswith('camera front: frame dropped (unsupported_encoding:') and "'odd'" in line


@pytest.mark.parametrize('thresholds, compared', [
    (Thresholds(), 1), (Thresholds(score=0.5), 1), (Thresholds(score=0.2), 2), (Thresholds(score=0.95), None),
    (Thresholds(nms_iou=0.5), None), (Thresholds(max_detections=9), None)])
def test_drift_is_watched_where_answers_compare_with_the_reference(bench, thresholds, compared):
    bench.pipeline.thresholds = thresholds
    bench.process()
    assert bench.channel.drift.shown == [(SPEC, (32, 64, 3), compared)]


def test_a_drift_monitor_that_fails_costs_a_line(bench):
    bench.channel.drift.error = ValueError('shape')
    bench.process()
    assert bench.values['processed'] == '1' and bench.values['dropped'] == '0'
    line, = bench.channel.lines
    assert 'drift monitor failed (ValueError: shape)' in line


def test_an_inference_error_costs_one_frame(bench):
    bench.session.error = RuntimeError('out of memory\nstack')
    bench.process()
    bench.session.error = None
    bench.process()
    assert bench.values['dropped.inference_error'] == '1' and bench.values['processed'] == '1'
    report = bench.model_monitor.report()
    assert report.level == Level.WARN and 'out of memory' in report.message
    assert len(bench.channel.lines) == 1 and '\n' not in bench.channel.lines[0]


def test_a_publish_error_costs_one_frame(bench):
    bench.channel.detections.error = RCLError('context is invalid')
    bench.process()
    bench.channel.detections.error = None
    bench.process()
    assert bench.values['dropped.publish_error'] == '1' and bench.values['processed'] == '1'
    assert 'context is invalid' in bench.channel.lines[0]


def test_an_unforeseen_error_is_counted(bench):
    bench.pipeline.fail('front', KeyError('x'))
    assert bench.values['dropped.internal_error'] == '1' and 'KeyError' in bench.channel.lines[0]


def test_candidates_reach_down_to_the_low_threshold_and_change_no_result(bench):
    bench.process()
    bench.channel.candidates.subscribers = 1
    message = bench.process()
    before, after = bench.channel.detections.messages
    assert [d.results[0].hypothesis.class_id for d in after.detections] == ['a']
    assert after == before
    raw, = bench.channel.candidates.messages
    result = read_result(raw, SPEC.labels, 10)
    assert (result.stamp_ns, result.frame_id) == (5_000_000_000, message.header.frame_id)
    assert result.detections.class_ids.tolist() == [0, 1], 'the box of score 0.3, too'
    assert bench.values['detections'] == '2', 'candidates are not counted as detections'
    bench.pipeline.thresholds = Thresholds(score=0.95)
    bench.process()
    assert not bench.channel.detections.messages[-1].detections
    assert len(read_result(bench.channel.candidates.messages[-1], SPEC.labels, 10).detections) == 2


def test_candidates_are_not_published_to_nobody(bench):
    bench.process()
    assert bench.channel.candidates.messages == []


def test_debug_image_only_while_somebody_looks(bench):
    bench.channel.debug_image.subscribers = 1
    message = bench.process()
    picture, = bench.channel.debug_image.messages
    assert picture.header == message.header and (picture.height, picture.width) == HW
    assert any(picture.data), 'boxes are drawn on the black image'
    assert not any(message.data), 'and not into the message that came in'


def test_a_lost_debug_image_is_a_line_not_a_drop(bench):
    bench.channel.debug_image.subscribers = 1
    bench.channel.debug_image.error = RCLError('too large')
    bench.process()
    assert bench.values['processed'] == '1' and bench.values['dropped'] == '0'
    assert 'debug image lost (too large)' in bench.channel.lines[0]


def test_an_abandoned_pipeline_publishes_nothing(bench):
    bench.pipeline.abandoned = True
    bench.process()
    assert bench.channel.detections.messages == []


def test_an_unstamped_image_has_no_age(bench):
    bench.process(header=Image().header)
    assert 'age.p50_ms' not in bench.values and bench.values['processed'] == '1'


def test_diagnostics_message(bench):
    bench.process(encoding='odd')
    report = bench.channel.monitor.report()
    message = diagnostics_message([report], '/robot/detector', Image().header.stamp)
    status, = message.status
    assert status.name == 'robot/detector: camera front' and status.hardware_id == '/front'
    assert status.level == b'\1' and 'unsupported_encoding' in status.message
    assert {pair.key: pair.value for pair in status.values}['dropped.unsupported_encoding'] == '1'


def test_the_header_is_the_images_whatever_it_says(bench):
    for sec, nanosec in ((0, 0), (2**31 - 1, 999_999_999), (-5, 7), (3, 2**32 - 1)):
        message = bench.process(header=Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id='wörld'))
        result = bench.channel.detections.messages[-1]
        assert result.header == message.header == result.detections[0].header
