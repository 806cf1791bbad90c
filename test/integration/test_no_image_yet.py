# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""No image yet: diagnostics and log say what there is on the graph."""

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from sensor_msgs.msg import CompressedImage, Image

from detector_client import CameraClient, DetectorClient, image_message
from detector_scenarios import IMAGE
from ros_harness import BEST_EFFORT, RELIABLE


def test_the_reason_follows_what_the_graph_shows(probe, start, start_detector, model):
    """The detector and the fallback say the same, from nobody at all to a camera that is heard."""
    process = start_detector()
    start('kd_perception.nodes.fallback_node', '--ros-args', '-p', f'student_model:={model}', '-p',
          'image_reliability:=reliable')
    nodes = DetectorClient(probe), DetectorClient(probe, '/fallback')

    def wait_reason(text):
        for node in nodes:
            node.wait_status('camera camera', lambda status, _: text in status.message, text)

    wait_reason('nobody publishes /camera/image_raw, and no images on any topic')
    elsewhere = probe.publisher(Image, '/driver/camera/image', RELIABLE)
    wait_reason('nobody publishes /camera/image_raw; images are on /driver/camera/image')
    compressed = probe.publisher(CompressedImage, 'camera/image_raw/compressed', RELIABLE)
    wait_reason('but /camera/image_raw/compressed: set image_transport: compressed')
    best_effort = probe.publisher(Image, 'camera/image_raw', BEST_EFFORT)
    wait_reason('/probe publishes /camera/image_raw best effort: set image_reliability: best_effort')
    for node in nodes:
        node.wait_status('camera camera', lambda _, values: values.get('qos_mismatches') == '1', 'a mismatch')
    assert 'that image_reliability does not match' in process.log
    for publisher in (elsewhere, compressed, best_effort):
        probe.node.destroy_publisher(publisher)
    camera = CameraClient(probe)
    wait_reason('/camera/image_raw is published by /probe (reliable')
    camera.wait_ready()
    nodes[0].wait_status(
        'camera camera', lambda status, values: values.get('state') == 'active'
        and values.get('publishers') == '1' and 'published' not in status.message,
        'a camera that is heard', every=lambda: camera.publisher.publish(image_message(IMAGE)))
