# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""DetectorNode inside the test's process, where the model can be made to hang, crash or raise anything."""

import threading

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from detector_client import CameraClient, DetectorClient, image_message
from detector_scenarios import IMAGE, result_is_exact
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.nodes import detector_node

OK, WARN, ERROR = b'\0', b'\1', b'\2'


class MoodyDetector:
    """A real detector that hangs or raises on request, warm-up excepted."""

    def __init__(self, detector):
        self._detector, self.error = detector, None
        self.free, self.begun = threading.Event(), threading.Event()
        self.free.set()

    def __getattr__(self, name):
        return getattr(self._detector, name)

    def detect(self, *args):
        self.begun.set()
        assert self.free.wait(60)
        if self.error:
            raise self.error
        return self._detector.detect(*args)


@pytest.fixture
def detectors():
    """The detectors that the node has loaded, newest last."""
    return []


@pytest.fixture
def node(probe, model, detectors):
    def load(*args):
        detectors.append(MoodyDetector(OnnxDetector.load(*args)))
        return detectors[-1]

    node = detector_node.DetectorNode(load=load, context=probe.context, parameter_overrides=[
        Parameter('model', value=str(model)), Parameter('image_reliability', value='reliable')])
    probe.executor.add_node(node)
    yield node
    for detector in detectors:
        detector.free.set()
    node.close()
    node.destroy_node()


def test_a_model_that_hangs_is_given_up_and_can_be_replaced(probe, node, detectors, monkeypatch):
    monkeypatch.setattr(detector_node, 'STOP_TIMEOUT_S', 0.2)
    node.start()
    client, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    detectors[0].free.clear()
    for _ in range(2):
        camera.publisher.publish(image_message(IMAGE))
    probe.wait_for(detectors[0].begun.is_set, 'the inference to begin')
    client.wait_status('model', lambda s, v: v['lifecycle'] == 'active', 'reports while the model hangs')
    assert node.trigger_deactivate() == TransitionCallbackReturn.ERROR
    assert node.state == 'unconfigured'
    client.wait_status(
        'model', lambda s, v: s.level == ERROR and 'has not answered' in s.message, 'the reason')
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    camera.results.clear()
    detectors[0].free.set()     # the old model answers at last: nobody hears it
    camera.wait_ready()
    result_is_exact(camera)
    assert len(camera.results) == 1 and len(detectors) == 2


def test_a_stuck_model_is_an_error_of_its_camera(probe, node, detectors):
    node.start()
    client, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    assert node.set_parameters([Parameter('silence_error_s', value=1.0)])[0].successful
    detectors[0].free.clear()
    client.wait_status(
        'camera camera', lambda s, v: s.level == ERROR and 'images arrive, but no result' in s.message,
        'a stuck worker', every=lambda: camera.publisher.publish(image_message(IMAGE)))


@pytest.mark.parametrize('error', [RuntimeError('CUDA error 700'), MemoryError(), ValueError('shape')])
def test_inference_errors_are_counted_and_pass(probe, node, detectors, error):
    node.start()
    client, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    detectors[0].error = error
    camera.publisher.publish(image_message(IMAGE))
    client.wait_status('camera camera', lambda s, v: v.get('dropped.inference_error') == '1', 'the count')
    assert client.status('model').level == WARN and client.values('model')['inference_errors'] == '1'
    detectors[0].error = None
    result_is_exact(camera)


@pytest.mark.parametrize('error', [RuntimeError('driver\nnot found'), MemoryError()])
def test_whatever_loading_raises_fails_configure_only(probe, node, error, monkeypatch):
    def load(*args):
        raise error
    monkeypatch.setattr(node, '_load', load)
    node.start()
    assert node.state == 'unconfigured'
    client = DetectorClient(probe)
    status = client.wait_status('model', lambda s, v: s.level == ERROR, 'the reason')
    assert status.message.startswith(type(error).__name__) and '\n' not in status.message


def test_a_failed_activation_ends_unconfigured_with_a_reason(probe, node, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError('no threads left')
    monkeypatch.setattr(detector_node, 'FrameService', refuse)
    node.start()
    assert node.state == 'unconfigured'
    DetectorClient(probe).wait_status(
        'model', lambda s, v: s.level == ERROR and 'failed in state' in s.message, 'the reason')
    monkeypatch.undo()
    node.start()
    assert node.state == 'active'
