# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
What a running detector with the rectangle model must do, whoever started it.

Shared by the subprocess tests and by those of launch_testing: each scenario takes clients only.
"""

from std_msgs.msg import Header

from detector_client import boxes, CameraClient, DetectorClient, image_message, next_header
from kd_perception.benchmark.rectangle_model import draw_rectangles, LABELS
from ros_harness import LATCHED
from vision_msgs.msg import LabelInfo

IMAGE = draw_rectangles((96, 128), (0, (10, 20, 41, 50), 255), (2, (70, 3, 100, 90), 204))
IMAGE_BOXES = [('Car', 10, 20, 41, 50), ('Cyclist', 70, 3, 100, 90)]
EMPTY_IMAGE = draw_rectangles((96, 128))


def result_is_exact(camera: CameraClient, repeat=False):
    """Boxes to the pixel, class names, scores, and the image's header at both levels."""
    message = image_message(IMAGE, header=next_header(f'{camera.camera}_optical'))
    result = camera.ask(message, repeat=repeat)
    assert result.header == message.header
    assert all(d.header == message.header for d in result.detections)
    assert all(d.id == '' and len(d.results) == 1 for d in result.detections)
    found = boxes(result)
    assert [b[0] for b in found] == [b[0] for b in IMAGE_BOXES]
    for have, want in zip(found, IMAGE_BOXES):
        assert all(abs(a - b) < 1e-3 for a, b in zip(have[1:], want[1:])), (have, want)
    scores = [d.results[0].hypothesis.score for d in result.detections]
    assert abs(scores[0] - 1) < 1e-3 and abs(scores[1] - 0.8) < 1e-3


def result_of_nothing_is_empty(camera: CameraClient, repeat=False):
    """A frame without objects gives a message without detections, with its header."""
    message = image_message(EMPTY_IMAGE)
    result = camera.ask(message, repeat=repeat)
    assert result.header == message.header and result.detections == []


def label_info_is_latched(probe, camera, threshold=0.4):
    """Who subscribes late gets the class map, once."""
    received = probe.collect(LabelInfo, f'{camera}/label_info', LATCHED)
    probe.wait_for(lambda: received, f'{camera}/label_info')
    probe.spin(0.2)
    assert len(received) == 1
    assert {entry.class_id: entry.class_name for entry in received[0].class_map} == dict(enumerate(LABELS))
    assert abs(received[0].threshold - threshold) < 1e-6


def diagnostics_are_well(detector: DetectorClient, camera: CameraClient):
    """Model and camera report OK while images flow, with the figures that an operator reads."""
    now = camera.probe.node.get_clock().now
    status = detector.wait_status(
        f'camera {camera.camera}', lambda s, v: s.level == b'\0' and v.get('state') == 'active',
        'an active camera',
        every=lambda: camera.publisher.publish(image_message(IMAGE, header=Header(stamp=now().to_msg()))))
    values = {pair.key: pair.value for pair in status.values}
    assert int(values['processed']) >= 1 and float(values['inference.p50_ms']) > 0
    model = detector.values('model')
    assert model['name'] == 'rectangles' and len(model['sha256']) == 64 and model['threads'] == '1'
    assert detector.status('model').level == b'\0' and detector.status('model').hardware_id
