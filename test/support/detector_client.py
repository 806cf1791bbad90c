# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The other side of detector_node in tests: a camera and its listener, diagnostics, parameters, lifecycle."""

import array
import itertools

from builtin_interfaces.msg import Time
import cv2
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter as RclpyParameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ros_harness import LATCHED, RELIABLE, TIMEOUT_S, WaitTimeout
from vision_msgs.msg import Detection2DArray, LabelInfo

_stamps = itertools.count(1_700_000_000)


def next_header(frame_id='camera_optical'):
    """Return a header that no other message of this process has."""
    return Header(stamp=Time(sec=next(_stamps), nanosec=123456789), frame_id=frame_id)


def image_message(image, encoding='bgr8', step=None, header=None):
    """Make a raw image message; `step` larger than a row pads each row with 255."""
    rows = image.reshape(image.shape[0], -1).view('u1')
    step = rows.shape[1] if step is None else step
    data = b''.join(row.tobytes() + b'\xff' * (step - rows.shape[1]) for row in rows)
    message = Image(header=header or next_header(), height=image.shape[0], width=image.shape[1],
                    encoding=encoding, step=step)
    message.data = array.array('B', data)
    return message


def compressed_message(image, extension='.png', header=None):
    """Make a compressed image message."""
    data = cv2.imencode(extension, image)[1].tobytes()
    message = CompressedImage(header=header or next_header(), format=extension.strip('.'))
    message.data = array.array('B', data)
    return message


def boxes(result):
    """Return (class name, x0, y0, x1, y1) for each detection of a message."""
    return [(d.results[0].hypothesis.class_id,
             d.bbox.center.position.x - d.bbox.size_x / 2, d.bbox.center.position.y - d.bbox.size_y / 2,
             d.bbox.center.position.x + d.bbox.size_x / 2, d.bbox.center.position.y + d.bbox.size_y / 2)
            for d in result.detections]


class CameraClient:
    """Publishes images on one camera and collects what comes back."""

    def __init__(self, probe, camera='camera', compressed=False, qos=RELIABLE, image_topic=None):
        self.probe, self.camera = probe, camera
        message_type, topic = (
            (CompressedImage, 'image_raw/compressed') if compressed else (Image, 'image_raw'))
        self.publisher = probe.publisher(message_type, image_topic or f'{camera}/{topic}', qos)
        self.results = probe.collect(Detection2DArray, f'{camera}/detections')
        self.label_info = probe.collect(LabelInfo, f'{camera}/label_info', LATCHED)

    def wait_ready(self, timeout_s=TIMEOUT_S):
        """Wait until the detector listens and is heard."""
        self.probe.wait_matched(self.publisher, timeout_s=timeout_s)
        self.probe.wait_for(lambda: self.label_info, f'{self.camera}/label_info', timeout_s)
        topic = f'{self.camera}/detections'
        self.probe.wait_for(
            lambda: self.probe.node.count_publishers(topic), f'a publisher of {topic}', timeout_s)

    def answers(self, message):
        """Return the results that carry this message's stamp."""
        return [r for r in self.results if r.header.stamp == message.header.stamp]

    def ask(self, message, timeout_s=TIMEOUT_S, repeat=False):
        """
        Publish an image and return its result.

        :param repeat: publish it again until the result is there, for best-effort subscriptions.
        """
        if not repeat:
            self.publisher.publish(message)
        return self.probe.wait_for(
            lambda: self.answers(message), f'a result on {self.camera}/detections', timeout_s,
            every=(lambda: self.publisher.publish(message)) if repeat else None)[0]


class DetectorClient:
    """Diagnostics, parameters and lifecycle of one detector node."""

    def __init__(self, probe, node='/detector'):
        self.probe, self.node = probe, node
        self.diagnostics = probe.collect(DiagnosticArray, '/diagnostics')

    def status(self, component):
        """Return the newest status of `model` or `camera NAME`, None where there is none yet."""
        name = f'{self.node.lstrip("/")}: {component}'
        for message in reversed(self.diagnostics):
            for status in message.status:
                if status.name == name:
                    return status
        return None

    def values(self, component):
        """Return the newest values of a component as a dict of text."""
        status = self.status(component)
        return {pair.key: pair.value for pair in status.values} if status else {}

    def wait_status(self, component, condition, what, timeout_s=TIMEOUT_S, every=None):
        """Wait for a status with `condition(status, values)`; return it."""
        def check():
            status = self.status(component)
            return status if status and condition(status, self.values(component)) else None

        def seen():
            status = self.status(component)
            return f'{what}; last status: {status.level if status else None} ' \
                   f'{status.message if status else None} {self.values(component)}'
        return self.probe.wait_for(check, seen, timeout_s, every)

    def set_parameters(self, **values):
        """Set parameters one by one; return {name: (successful, reason)}."""
        request = SetParameters.Request(parameters=[
            Parameter(name=name, value=RclpyParameter(name, value=value).get_parameter_value())
            for name, value in values.items()])
        response = self.probe.call(SetParameters, f'{self.node}/set_parameters', request)
        return {name: (r.successful, r.reason) for name, r in zip(values, response.results)}

    def state(self):
        """Return the lifecycle state's label."""
        return self.probe.call(GetState, f'{self.node}/get_state', GetState.Request()).current_state.label

    def change_state(self, label):
        """Request a transition by its label; return whether it succeeded."""
        transition, goal = {'configure': (Transition.TRANSITION_CONFIGURE, 'inactive'),
                            'cleanup': (Transition.TRANSITION_CLEANUP, 'unconfigured'),
                            'activate': (Transition.TRANSITION_ACTIVATE, 'active'),
                            'deactivate': (Transition.TRANSITION_DEACTIVATE, 'inactive'),
                            'shutdown': (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, 'finalized')}[label]
        request, before = ChangeState.Request(transition=Transition(id=transition)), self.state()
        try:
            return self.probe.call(ChangeState, f'{self.node}/change_state', request, repeat_s=None).success
        except WaitTimeout:     # its answer may be lost (see Probe.call); a second request would be another
            return before != self.state() == goal
