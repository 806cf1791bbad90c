# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""detector_node as a process: what it answers to images."""

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

import numpy as np
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import Image

from detector_client import boxes, CameraClient, compressed_message, image_message, next_header
from detector_scenarios import (
    EMPTY_IMAGE,
    IMAGE,
    IMAGE_BOXES,
    label_info_is_latched,
    result_is_exact,
    result_of_nothing_is_empty,
)
from kd_perception.benchmark.rectangle_model import draw_rectangles, LABELS, write_rectangle_model
from ros_harness import BEST_EFFORT
from vision_msgs.msg import Detection2DArray


@pytest.mark.parametrize('decoder', ['boxes_scores', 'gfl'])
def test_boxes_classes_and_headers_are_exact(probe, start_detector, tmp_path, decoder):
    start_detector(model=write_rectangle_model(tmp_path / 'm.onnx', decoder=decoder))
    camera = CameraClient(probe)
    camera.wait_ready()
    result_is_exact(camera)
    result_of_nothing_is_empty(camera)


def test_class_ids_may_be_the_numbers_of_label_info(probe, start_detector):
    start_detector(class_ids='numbers')
    camera = CameraClient(probe)
    camera.wait_ready()
    names = {str(entry.class_id): entry.class_name for entry in camera.label_info[-1].class_map}
    found = boxes(camera.ask(image_message(IMAGE)))
    assert [names[number] for number, *_ in found] == [name for name, *_ in IMAGE_BOXES]


def test_boxes_are_in_source_pixels_of_each_frame(probe, start_detector):
    """Frames of other sizes than the model's input, one after another, padded rows included."""
    start_detector()
    camera = CameraClient(probe)
    camera.wait_ready()
    for scale, step_padding in ((1, 0), (2, 0), (4, 64), (1, 5)):
        hw, box = (96 * scale, 128 * scale), tuple(v * scale for v in (16, 24, 48, 64))
        image = draw_rectangles(hw, (2, box, 255))
        result = camera.ask(image_message(image, step=3 * hw[1] + step_padding))
        assert boxes(result) == [('Cyclist', *box)]
    # Twice as high as wide: letterboxed at the sides.
    image = draw_rectangles((192, 96), (0, (20, 40, 60, 120), 255))
    assert boxes(camera.ask(image_message(image))) == [('Car', 20, 40, 60, 120)]


def test_every_frame_gives_exactly_one_message_in_order(probe, start_detector):
    start_detector()
    camera = CameraClient(probe)
    camera.wait_ready()
    sent = [image_message(image) for image in [IMAGE, EMPTY_IMAGE] * 10]
    for message in sent:
        camera.ask(message)
    probe.spin(0.5)
    assert [r.header for r in camera.results] == [m.header for m in sent]
    assert [len(r.detections) for r in camera.results] == [len(IMAGE_BOXES), 0] * 10


def test_encodings(probe, start_detector):
    start_detector()
    camera = CameraClient(probe)
    camera.wait_ready()
    alpha = np.full((*IMAGE.shape[:2], 1), 255, np.uint8)
    for encoding, pixels in (('rgb8', IMAGE[..., ::-1]), ('bgra8', np.concatenate([IMAGE, alpha], axis=2)),
                             ('32FC3', IMAGE.astype(np.float32) / 255)):
        result = camera.ask(image_message(np.ascontiguousarray(pixels), encoding))
        assert sorted(boxes(result)) == sorted(IMAGE_BOXES), encoding
    grey = camera.ask(image_message(np.full((96, 128), 200, np.uint8), 'mono8'))
    assert grey.detections == []


@pytest.mark.parametrize('extension,tolerance_px', [('.png', 0), ('.jpg', 2)])
def test_compressed_images(probe, start_detector, extension, tolerance_px):
    start_detector(image_transport='compressed')
    camera = CameraClient(probe, compressed=True)
    camera.wait_ready()
    message = compressed_message(IMAGE, extension)
    result = camera.ask(message)
    assert result.header == message.header
    found, expected = sorted(boxes(result)), sorted(IMAGE_BOXES)
    assert [b[0] for b in found] == [b[0] for b in expected]
    assert np.abs(np.array([b[1:] for b in found]) - [b[1:] for b in expected]).max() <= tolerance_px


def test_many_cameras_share_one_model(probe, start_detector):
    names = ['front', 'rear', 'robot1/left']
    start_detector(cameras=names)
    cameras = [CameraClient(probe, name) for name in names]
    for camera in cameras:
        camera.wait_ready()
    messages = []
    for i, camera in enumerate(cameras):
        image = draw_rectangles((96, 128), (i, (10 + i, 20, 50, 60), 255))
        messages.append(image_message(image, header=next_header(f'frame_{i}')))
        camera.publisher.publish(messages[-1])
    for i, (camera, message) in enumerate(zip(cameras, messages)):
        result = probe.wait_for(lambda: camera.answers(message), f'a result of {camera.camera}')[0]
        assert result.header == message.header
        assert boxes(result) == [(LABELS[i], 10 + i, 20, 50, 60)]
    probe.spin(0.3)
    assert [len(camera.results) for camera in cameras] == [1, 1, 1]


def test_namespace_name_and_remapping(probe, start_detector):
    start_detector('-r', '__ns:=/vehicle', '-r', 'camera/image_raw:=/driver/image',
                   '-r', 'camera/detections:=found', name='eye')
    camera = CameraClient(probe, '/vehicle/camera', image_topic='/driver/image')
    camera.results = probe.collect(Detection2DArray, '/vehicle/found')
    probe.wait_matched(camera.publisher)
    message = image_message(IMAGE)
    assert camera.ask(message, repeat=True).header == message.header
    probe.wait_for(lambda: ('eye', '/vehicle') in probe.node.get_node_names_and_namespaces(), 'the node')


def test_two_detectors_side_by_side(probe, start_detector):
    """Student and teacher: same class, other cameras, names of their own."""
    start_detector(name='student', cameras=['front'])
    start_detector(name='teacher', cameras=['front/teacher'])
    for name in ('front', 'front/teacher'):
        camera = CameraClient(probe, name)
        camera.wait_ready()
        result_is_exact(camera)
    nodes = probe.node.get_node_names_and_namespaces
    probe.wait_for(lambda: sorted(nodes()) == [('probe', '/'), ('student', '/'), ('teacher', '/')], nodes)


def test_default_input_takes_best_effort_and_reliable_cameras(probe, start_detector):
    start_detector(image_reliability='best_effort')
    for qos in (BEST_EFFORT, 10):
        camera = CameraClient(probe, qos=qos)
        camera.wait_ready()
        result_is_exact(camera, repeat=True)
        probe.node.destroy_publisher(camera.publisher)


@pytest.mark.parametrize('parameters,expected', [
    (dict(image_reliability='best_effort'), (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)),
    (dict(image_reliability='reliable', image_depth=7),
     (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE))])
def test_quality_of_service(probe, start_detector, parameters, expected):
    start_detector(**parameters)
    CameraClient(probe).wait_ready()
    node = probe.node
    image, = node.get_subscriptions_info_by_topic('/camera/image_raw')
    assert (image.qos_profile.reliability, image.qos_profile.durability) == expected
    detections, = node.get_publishers_info_by_topic('/camera/detections')
    assert detections.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    label_info, = node.get_publishers_info_by_topic('/camera/label_info')
    assert label_info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    debug_image, = node.get_publishers_info_by_topic('/camera/debug_image')
    assert debug_image.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_label_info_reaches_late_subscribers(probe, start_detector):
    start_detector(score_threshold=0.25)
    camera = CameraClient(probe)
    camera.wait_ready()
    label_info_is_latched(probe, 'camera', threshold=0.25)


def test_debug_image_for_whoever_looks(probe, start_detector):
    start_detector()
    camera = CameraClient(probe)
    camera.wait_ready()
    camera.ask(image_message(IMAGE))
    pictures = probe.collect(Image, 'camera/debug_image')
    probe.wait_for(lambda: probe.node.count_subscribers('camera/debug_image'), 'our own subscription')
    message = image_message(IMAGE)

    def again():
        camera.publisher.publish(message)

    def of_message():
        # The picture of the image before may still be under way.
        return [picture for picture in pictures if picture.header == message.header]
    probe.wait_for(of_message, 'the debug image with the header of its image', every=again)
    picture = of_message()[0]
    assert (picture.encoding, picture.height, picture.width, picture.step) == ('bgr8', 96, 128, 384)
    drawn = np.frombuffer(picture.data, np.uint8).reshape(96, 128, 3)
    assert (drawn != IMAGE).any() and (drawn == IMAGE).mean() > 0.5
