# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""detector_node as a process: lifecycle, bad models, parameters, start and end."""

import re
import signal

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

import onnx
from rcl_interfaces.srv import DescribeParameters

from detector_client import CameraClient, DetectorClient, image_message
from detector_scenarios import IMAGE, result_is_exact
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.models.manifest import write_entry
from kd_perception.nodes.detector.parameters import DETECTOR_PARAMETERS

OK, ERROR = b'\0', b'\2'


def test_lifecycle_by_services(probe, start_detector):
    process = start_detector(autostart=False)
    detector, camera = DetectorClient(probe), CameraClient(probe)
    assert detector.state() == 'unconfigured'
    assert detector.change_state('configure') and detector.state() == 'inactive'
    probe.wait_for(lambda: probe.node.count_publishers('camera/detections'), 'the publisher of detections')
    assert probe.node.count_subscribers('camera/image_raw') == 0 and not camera.label_info
    for _ in range(2):      # active twice: everything is given back and taken again
        assert detector.change_state('activate') and detector.state() == 'active'
        camera.wait_ready()
        result_is_exact(camera)
        assert detector.change_state('deactivate') and detector.state() == 'inactive'
        probe.wait_for(lambda: camera.publisher.get_subscription_count() == 0, 'the subscription to end')
    assert detector.change_state('cleanup') and detector.state() == 'unconfigured'
    probe.wait_for(lambda: probe.node.count_publishers('camera/detections') == 0, 'the topics to end')
    assert detector.change_state('shutdown') and detector.state() == 'finalized'
    assert process.stop() == 0
    assert 'Traceback' not in process.log and 'ERROR' not in process.log


def test_an_impossible_transition_is_refused(probe, start_detector):
    process = start_detector(autostart=False)
    detector = DetectorClient(probe)
    assert not detector.change_state('activate')
    assert not detector.change_state('deactivate')
    assert detector.state() == 'unconfigured' and process.alive
    assert detector.change_state('configure') and not detector.change_state('configure')
    assert detector.state() == 'inactive' and process.alive
    assert 'Traceback' not in process.log


def test_deactivation_finishes_the_frame_in_work(probe, start_detector, tmp_path):
    start_detector(model=write_rectangle_model(tmp_path / 'slow.onnx', load_steps=2000))
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    camera.ask(image_message(IMAGE))
    message = image_message(IMAGE)
    camera.publisher.publish(message)
    detector.wait_status('camera camera', lambda s, v: v['received'] == '2', 'the second image')
    assert detector.change_state('deactivate')
    counts = detector.wait_status(
        'camera camera', lambda s, v: v['state'] == 'inactive', 'an inactive camera')
    counts = {pair.key: pair.value for pair in counts.values}
    assert int(counts['received']) == int(counts['processed']) + int(counts['dropped'])
    assert len(camera.results) == int(counts['processed'])


def _not_onnx(path):
    path.write_bytes(b'this is no protobuf' * 10)


def _contradicting_labels(path):
    write_rectangle_model(path)
    model = onnx.load(str(path))
    spec = OnnxDetector.load(path).spec
    metadata = spec.__class__(**{**vars(spec), 'labels': ('Car', 'Pedestrian')}).to_metadata()
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(path))


def _contradicting_manifest(path):
    write_rectangle_model(path)
    write_entry(path.parent, 'bad', path.name, OnnxDetector.load(path).spec)
    path.write_bytes(path.read_bytes() + b'\0')


@pytest.mark.parametrize('make,parameters,message', [
    (lambda path: None, {}, 'no such model file'),
    (_not_onnx, {}, 'is not a model that onnxruntime can load'),
    (write_rectangle_model, dict(expected_sha256='f' * 64), 'sha256 is [0-9a-f]{64}, expected f{64}'),
    (_contradicting_manifest, {}, 'sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}'),
    (_contradicting_labels, {}, "output 'scores' has shape .* for 2 labels"),
    (write_rectangle_model, dict(provider='tensorrt'), "provider 'tensorrt' is not available"),
], ids=['missing', 'not-onnx', 'sha256', 'manifest', 'labels', 'provider'])
def test_a_bad_model_fails_configure_with_one_line(
        probe, start_detector, model, tmp_path, make, parameters, message):
    folder = tmp_path / 'bad'
    folder.mkdir()
    bad = folder / 'bad.onnx'
    make(bad)
    process = start_detector(model=bad, **parameters)
    detector, camera = DetectorClient(probe), CameraClient(probe)
    status = detector.wait_status('model', lambda s, v: s.level == ERROR, 'why the model is bad')
    assert re.search(message, status.message) and 'bad.onnx' in status.message and '\n' not in status.message
    assert detector.values('model')['model'] == str(bad)
    assert process.alive and detector.state() == 'unconfigured'
    errors = [line for line in process.log.splitlines() if 'ERROR' in line]
    assert len(errors) == 1 and re.search(f'configure failed: .*{message}', errors[0])
    assert 'Traceback' not in process.log
    assert not detector.change_state('configure')
    # Corrected, the same process works.
    corrected = detector.set_parameters(model=str(model), expected_sha256='', provider='cpu')
    assert all(successful for successful, _ in corrected.values())
    assert detector.change_state('configure') and detector.change_state('activate')
    camera.wait_ready()
    result_is_exact(camera)
    detector.wait_status(
        'model', lambda s, v: s.level == OK and v.get('name') == 'rectangles', 'a good model')


def test_expected_sha256_that_fits(probe, start_detector, model):
    detector = OnnxDetector.load(model)
    start_detector(expected_sha256=detector.sha256.upper())
    CameraClient(probe).wait_ready()
    client = DetectorClient(probe)
    client.wait_status('model', lambda s, v: v.get('sha256') == detector.sha256, 'the digest')


def test_thresholds_change_live(probe, start_detector):
    start_detector()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    assert len(camera.ask(image_message(IMAGE)).detections) == 2
    # An integer where a float stands, as `ros2 param set` makes of 1.
    assert detector.set_parameters(score_threshold=1) == {'score_threshold': (True, '')}
    assert detector.set_parameters(score_threshold=0.9) == {'score_threshold': (True, '')}
    assert len(camera.ask(image_message(IMAGE)).detections) == 1
    probe.wait_for(
        lambda: abs(camera.label_info[-1].threshold - 0.9) < 1e-6, 'the new threshold in label_info')
    detector.set_parameters(score_threshold=-1.0)
    assert len(camera.ask(image_message(IMAGE)).detections) == 2
    detector.set_parameters(max_detections=1)
    assert len(camera.ask(image_message(IMAGE)).detections) == 1
    detector.set_parameters(max_detections=-1, enabled=False)
    camera.publisher.publish(image_message(IMAGE))
    detector.wait_status(
        'camera camera', lambda s, v: v.get('dropped.disabled') == '1' and v['state'] == 'disabled',
        'the drop of a disabled camera')
    assert len(camera.results) == 4
    detector.set_parameters(enabled=True)
    result_is_exact(camera)


# One process for all: each refusal must leave the node as it was anyway.
REFUSED = [
    ('score_threshold', 1.5, 'out of range'),
    ('score_threshold', 0.0, 'score_threshold: 0 is out of bounds, expected 0.001 to 1 or -1'),
    ('score_threshold', float('nan'), '(not a finite number|out of range)'),
    ('score_threshold', 'high', '(type|expected)'),
    ('nms_iou', -0.5, 'nms_iou: -0.5 is out of bounds'),
    ('max_detections', 0, 'max_detections: 0 is out of bounds'),
    ('max_detections', 1.0, '(type|expected)'),
    ('silence_warn_s', 10.0, 'silence_warn_s: 10 is above silence_error_s'),
    ('cameras', ['front'], 'cameras: changes only while the node is unconfigured'),
    ('model', '', 'model: is empty'),
    ('expected_sha256', 'abc', 'is not a sha256'),
    ('threads', 2, 'threads: changes only while the node is unconfigured'),
    ('autostart', False, '(?i)read-only'),
]


def test_bad_parameter_values_are_refused_with_a_reason(probe, start_detector):
    start_detector()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    for name, value, reason in REFUSED:
        (successful, why), = detector.set_parameters(**{name: value}).values()
        assert not successful and re.search(reason, why), (name, value, why)
    result_is_exact(camera)


def test_parameters_describe_themselves(probe, start_detector):
    start_detector(autostart=False)
    request = DescribeParameters.Request(names=[spec.name for spec in DETECTOR_PARAMETERS])
    answer = probe.call(DescribeParameters, '/detector/describe_parameters', request)
    for spec, descriptor in zip(DETECTOR_PARAMETERS, answer.descriptors):
        assert descriptor.name == spec.name and descriptor.description == spec.description
        assert descriptor.read_only == (spec.changes == 'start')


@pytest.mark.parametrize('arguments,message', [
    (['-p', 'score_threshold:=7.0'], 'score_threshold.*out of range'),
    (['-p', 'nms_iou:=0.0'], 'nms_iou: 0 is out of bounds'),
    (['-p', 'cameras:=front'], 'cameras.*STRING_ARRAY'),
    (['-p', "cameras:=['front', 'front']"], 'names a camera twice'),
    (['-p', "cameras:=['front camera']"], 'is not a topic namespace'),
    (['-p', 'image_transport:=theora'], "'theora' is unknown, expected one of 'raw', 'compressed'"),
])
def test_bad_parameters_at_start_end_the_process_with_one_line(domain, start, arguments, message):
    process = start('kd_perception.nodes.detector_node', '--ros-args', *arguments)
    assert process.wait() == 2
    lines = process.log.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), lines


def test_a_missing_provider_may_give_way_to_the_cpu(probe, start_detector):
    process = start_detector(provider='tensorrt', provider_fallback=True)
    camera = CameraClient(probe)
    camera.wait_ready()
    result_is_exact(camera)
    assert 'provider tensorrt is missing in this onnxruntime: CPUExecutionProvider runs' in process.log
    DetectorClient(probe).wait_status(
        'model', lambda s, v: s.level == OK and v.get('provider') == 'CPUExecutionProvider', 'the provider')


def test_unknown_parameters_are_pointed_out(probe, start_detector):
    process = start_detector(scor_threshold=0.5)
    CameraClient(probe).wait_ready()
    assert 'parameter scor_threshold is unknown' in process.log


@pytest.mark.parametrize('by', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('busy', [False, True])
def test_signals_end_the_process_cleanly(probe, start_detector, tmp_path, by, busy):
    parameters = {}
    if busy:    # a frame in work and one that waits
        parameters['model'] = write_rectangle_model(tmp_path / 'slow.onnx', load_steps=3000)
    process = start_detector(**parameters)
    camera = CameraClient(probe)
    camera.wait_ready()
    for _ in range(3 * busy):
        camera.publisher.publish(image_message(IMAGE))
    probe.spin(0.2)
    assert process.stop(by) == 0
    assert 'Traceback' not in process.log and 'ERROR' not in process.log, process.log


def test_signal_while_unconfigured(probe, start_detector):
    process = start_detector(autostart=False)
    DetectorClient(probe).state()
    assert process.stop(signal.SIGTERM) == 0
    assert 'Traceback' not in process.log


@pytest.mark.parametrize('by', [signal.SIGINT, signal.SIGTERM])
def test_signal_while_the_model_loads(probe, start_detector, tmp_path, by):
    process = start_detector(model=write_rectangle_model(tmp_path / 'slow.onnx', load_steps=5000))
    probe.wait_for(lambda: 'loading model' in process.log, 'the load to begin')
    assert process.stop(by) == 0
    assert 'Traceback' not in process.log, process.log
