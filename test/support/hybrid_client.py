# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The other side of fallback_node in tests: camera, student and teacher played by one node, and the listener.

Where a test plays them all, it knows each answer that must come; where real detectors play student and
teacher, the student's results are read off their topic. Either way `check_promise` holds the node to it.
"""

import collections
import contextlib
import copy
import dataclasses
import functools
import struct
import time

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from detector_client import boxes, compressed_message, image_message, next_header
from kd_perception.benchmark.rectangle_model import draw_rectangles
from kd_perception.boxes.detections import Detections
from kd_perception.messages.wire import write_result
from ros_harness import TIMEOUT_S, WaitTimeout
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

# How much later than its deadline an output may leave. The node aims at 0 and is late by as much as the
# system wakes it late: below 1 ms on an idle computer, tens of ms where two trainings share its two cores.
MARGIN_MS = 100.0
# What a listener of this test's sees later than it left, at the worst. What gets lost on the way (a process
# was stopped, its buffers ran over) is asked for again with the writer's next heartbeat: 3 s later, or 6.
ARRIVAL_MARGIN_S = 10.0
# The node's reader of the student's results keeps ten of them: more at once is not what is tested.
MAX_UNANSWERED = 8
DEEP = QoSProfile(depth=300, reliability=ReliabilityPolicy.RELIABLE)

# With scorer:=band a score inside 0.24..0.6 makes a frame ambiguous, with leave_frames:=1 no other one.
CLEAR = (('Car', 0.95, 10.0, 20.0, 41.0, 50.0),)
AMBIGUOUS = (('Car', 0.45, 10.0, 20.0, 41.0, 50.0), ('Cyclist', 0.1, 60.0, 60.0, 80.0, 90.0))
ANSWER = (('Pedestrian', 0.9, 12.0, 22.0, 43.0, 52.0), ('Car', 0.5, 70.0, 3.0, 100.0, 90.0))
# The same for real detectors with the rectangle model, by brightness.
IMAGE = draw_rectangles((96, 128), (0, (10, 20, 41, 50), 255))
CLEAR_IMAGE, AMBIGUOUS_IMAGE = IMAGE, draw_rectangles((96, 128), (0, (10, 20, 41, 50), 128))
STUDENT_LABELS = ('Car', 'Pedestrian', 'Cyclist')
# A teacher with these finds the blue rectangle too, and calls it by another name: its answers tell.
TEACHER_LABELS = ('Pedestrian', 'Car', 'Cyclist')
WRONG_LABELS = ('cat', 'dog', 'cow')
PARAMETERS = {
    'image_reliability': 'reliable', 'scorer': 'band', 'enter_threshold': 0.5, 'leave_frames': 1,
    'share': 1.0, 'audit_share': 0.0, 'refresh': False, 'max_in_flight': 100, 'teacher_pace': False,
    'deadline_ms': 300.0, 'teacher_misses': 3, 'teacher_timeout_s': 1.0, 'probe_interval_s': 0.1,
    'camera_silence_s': 1.0, 'student_silence_s': 1.0, 'hold_s': 0.2}


def ros_arguments(**parameters):
    """Return `--ros-args -p NAME:=VALUE ...`."""
    arguments = ['--ros-args']
    for key, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments += ['-p', f'{key}:={text}']
    return arguments


def start_fallback(start, model, *extra, **parameters):
    """Start fallback_node by the fixture `start`, with what makes these tests quick and exact."""
    return start('kd_perception.nodes.fallback_node',
                 *ros_arguments(student_model=model, **{**PARAMETERS, **parameters}), *extra)


def result_message(header, found):
    """Make a result of (class name, score, x0, y0, x1, y1) tuples, field by field."""
    message = Detection2DArray(header=header)
    for name, score, x0, y0, x1, y1 in found:
        item = Detection2D(header=header)
        item.bbox.center.position.x, item.bbox.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
        item.bbox.size_x, item.bbox.size_y = x1 - x0, y1 - y0
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = name, score
        item.results = [hypothesis]
        message.detections.append(item)
    return message


def _changed_header(header, stamp_s=0, frame_id=None):
    stamp = Time(sec=header.stamp.sec + stamp_s, nanosec=header.stamp.nanosec)
    return Header(stamp=stamp, frame_id=header.frame_id if frame_id is None else frame_id)


def _header_bytes(header):
    """A serialised result without detections, up to its count."""
    return bytes(serialize_message(Detection2DArray(header=header)))[:-4]


@functools.lru_cache(maxsize=1)
def _hundred_thousand():
    boxes_xyxy = np.tile(np.float32([[10, 20, 30, 40]]), (100_000, 1))
    found = Detections(boxes_xyxy, np.full(100_000, 0.9), np.zeros(100_000))
    return write_result(found, STUDENT_LABELS, 0, 'camera_optical')


def hundred_thousand(header):
    """A result of 100,000 detections, some 40 MB, with this stamp in front."""
    return b''.join((b'\0\1\0\0', struct.pack('<iI', header.stamp.sec, header.stamp.nanosec),
                     memoryview(_hundred_thousand())[12:]))


def _nan(header):
    message = result_message(header, ANSWER)
    message.detections[1].bbox.size_x = float('nan')
    return message


def _rotated(header):
    message = result_message(header, ANSWER)
    message.detections[0].bbox.center.theta = 0.5
    return message


# What a teacher or a student may say of an image with this header: messages, or raw bytes.
BEHAVIOURS = {
    'answer': lambda header: [result_message(header, ANSWER)],
    'silent': lambda header: [],
    'twice': lambda header: [result_message(header, ANSWER)] * 2,
    'wrong_stamp': lambda header: [result_message(_changed_header(header, stamp_s=7), ANSWER)],
    'wrong_frame_id': lambda header: [result_message(_changed_header(header, frame_id='elsewhere'), ANSWER)],
    'unknown_class': lambda header: [result_message(header, [('cat', *ANSWER[0][1:])])],
    'nan': lambda header: [_nan(header)],
    'infinite_score': lambda header: [result_message(header, [('Car', float('inf'), 1., 1., 2., 2.)])],
    'negative_size': lambda header: [result_message(header, [('Car', 0.9, 9.0, 9.0, 2.0, 2.0)])],
    'rotated': lambda header: [_rotated(header)],
    'huge_count': lambda header: [_header_bytes(header) + b'\xff\xff\xff\xff' + b'\7' * 500],
    'too_large': lambda header: [hundred_thousand(header)],
    'noise': lambda header: [_header_bytes(header) + bytes((7 * i) % 251 for i in range(900))],
    'no_header': lambda header: [b'\0\1\0\0' + b'\xff' * 50],
}


class TeacherPlayer:
    """
    Answers what is sent to the teacher of one camera while its node spins.

    :param behaviour: a key of `BEHAVIOURS`; may change at any time, as may `delay_s`.
    """

    def __init__(self, probe, camera, message_type, image_topic):
        self.behaviour, self.delay_s = 'answer', 0.0
        self.requests = []          # (header, raw bytes)
        self._type, self._due = message_type, collections.deque()
        self.publisher = probe.publisher(Detection2DArray, f'{camera}/teacher/detections', DEEP)
        self.topic = f'{camera}/teacher/{image_topic}'
        probe.node.create_subscription(message_type, self.topic, self._on_image, DEEP, raw=True)
        probe.node.create_timer(0.01, self._answer)

    def _on_image(self, raw):
        header = deserialize_message(raw, self._type).header
        self.requests.append((header, raw))
        self._due += [(time.monotonic() + self.delay_s, answer)
                      for answer in BEHAVIOURS[self.behaviour](header)]
        self._answer()

    def _answer(self):
        while self._due and self._due[0][0] <= time.monotonic():
            self.publisher.publish(self._due.popleft()[1])


@dataclasses.dataclass
class Answer:
    """One verified message, and what its provenance says as a dict of text."""

    result: Detection2DArray
    facts: dict
    provenance: DiagnosticArray


class HybridClient:
    """
    Camera, student and teacher of one camera, and whoever reads its verified detections.

    :param student: play the student; else a real one is listened to.
    :param teacher: play the teacher; else a real one is, or none.
    """

    def __init__(self, probe, camera='camera', compressed=False, student=True, teacher=True):
        self.probe, self.camera, self._compressed = probe, camera, compressed
        message_type, topic = (
            (CompressedImage, 'image_raw/compressed') if compressed else (Image, 'image_raw'))
        self.images = probe.publisher(message_type, f'{camera}/{topic}', DEEP)
        self.sent = []              # (header, monotonic time) of each result of the student
        self.verified, self.provenance = [], []     # (monotonic time of arrival, message)
        self.student = probe.publisher(Detection2DArray, f'{camera}/candidates', DEEP) if student else None
        if not student:
            probe.node.create_subscription(
                Detection2DArray, f'{camera}/candidates',
                lambda message: self.sent.append((message.header, time.monotonic())), DEEP)
        self.teacher = TeacherPlayer(probe, camera, message_type, topic) if teacher else None
        for message_type, topic, received in (
                (Detection2DArray, 'verified_detections', self.verified),
                (DiagnosticArray, 'provenance', self.provenance)):
            probe.node.create_subscription(
                message_type, f'{camera}/{topic}',
                lambda message, received=received: received.append((time.monotonic(), message)), DEEP)

    # --- matching ---

    def wait_ready(self, timeout_s=40.0):
        """Wait until all endpoints have matched, on both sides; what was sent for that is forgotten."""
        probe, node = self.probe, self.probe.node
        matched = [self.images] + ([self.student] if self.student else [])
        matched += [self.teacher.publisher] if self.teacher else []
        for publisher in matched:
            probe.wait_matched(publisher, timeout_s=timeout_s)
        topics = [f'{self.camera}/verified_detections', f'{self.camera}/provenance']
        topics += [self.teacher.topic] if self.teacher else []
        for topic in topics:
            probe.wait_for(lambda: node.count_publishers(topic), f'a publisher of {topic}', timeout_s)
        # The remote writers must have found our readers, too: only a message proves it.
        self._settle(timeout_s)

    def _settle(self, timeout_s=40.0):
        """Send frames until one has come all the way; forget them."""
        end = time.monotonic() + timeout_s
        while True:
            header = next_header()
            before = len(self.teacher.requests) if self.teacher else 0
            if self.student:
                self.say(AMBIGUOUS if self.teacher else CLEAR, header=header)
            else:
                self.publish_image(AMBIGUOUS_IMAGE, header)
            try:
                self.probe.wait_for(lambda: self.answers(header) and any(
                    sent == header for sent, _ in self.sent) and (
                    not self.teacher or len(self.teacher.requests) > before),
                    f'a frame of {self.camera} to come all the way', 1.5)
                break
            except WaitTimeout:
                if time.monotonic() > end:
                    raise
        self.forget()

    def forget(self):
        """Forget what came so far, of which nothing was doubled; a new account begins."""
        for received in (self.verified, self.provenance):
            stamps = [_key(message.header) for _, message in received]
            assert len(set(stamps)) == len(stamps), f'doubled: {_many(stamps)}'
            received.clear()
        self.sent.clear()

    # --- camera and student ---

    def publish_image(self, image=IMAGE, header=None):
        """Publish an image; return its header."""
        header = header or next_header()
        make = compressed_message if self._compressed else image_message
        self.images.publish(make(image, header=header))
        return header

    def say(self, found=CLEAR, header=None, image=True):
        """
        Publish an image and the student's result of it; return the header.

        :param found: detections for `result_message`, a message, or bytes with the header in front.
        :param image: False: the image is missing.
        """
        header = header or next_header()
        if image:
            self.publish_image(header=header)
        message = found if isinstance(found, (bytes, Detection2DArray)) else result_message(header, found)
        self.sent.append((header, time.monotonic()))
        self.student.publish(message)
        return header

    def ask(self, found=CLEAR, timeout_s=TIMEOUT_S, **kwargs):
        """Play camera and student for one frame; return the `Answer`."""
        return self.answer_to(self.say(found, **kwargs), timeout_s)

    def answers(self, header):
        """Return the (verified, provenance) pairs of a header, as far as both have come."""
        return list(zip(*([m for _, m in received if m.header == header]
                          for received in (self.verified, self.provenance))))

    def answer_to(self, header, timeout_s=TIMEOUT_S):
        """Wait for the answer to a frame."""
        verified, provenance = self.probe.wait_for(
            lambda: self.answers(header), lambda: f'the answer to {header}', timeout_s)[-1]
        return Answer(verified, facts_of(provenance), provenance)

    def wait_answered(self, timeout_s=TIMEOUT_S, leave=0):
        """Wait until at most `leave` results of the student are unanswered."""
        self.probe.wait_for(
            lambda: min(len(self.verified), len(self.provenance)) >= len(self.sent) - leave,
            lambda: f'{len(self.sent)} answers, got {len(self.verified)}, {len(self.provenance)}', timeout_s)

    def say_many(self, results, period_s=0.01):
        """Play camera and student at a pace, for each of `results`; wait for all the answers."""
        headers = []
        for found in results:
            headers.append(self.say(found))
            self.probe.spin(period_s)
            self.wait_answered(leave=MAX_UNANSWERED)
        self.wait_answered()
        return [self.answer_to(header) for header in headers]

    # --- with a real student ---

    def show(self, image=CLEAR_IMAGE, timeout_s=TIMEOUT_S):
        """Play the camera for one frame; return the `Answer`."""
        return self.answer_to(self.publish_image(image), timeout_s)

    def keep_showing(self, condition, what, image=AMBIGUOUS_IMAGE, timeout_s=TIMEOUT_S, period_s=0.1):
        """
        Play the camera until a condition holds, a frame after the last one's answer; return its value.

        Where no answer comes (no student), the next frame follows in three periods.
        """
        end, shown_at, header = time.monotonic() + timeout_s, 0.0, None
        while True:
            value = condition()
            if value:
                return value
            now = time.monotonic()
            if now > end:
                raise WaitTimeout(f'waited {timeout_s} s for {what() if callable(what) else what}')
            answered = header is None or self.answers(header)
            if now - shown_at >= (period_s if answered else 3 * period_s):
                if self.student:
                    found = AMBIGUOUS if image is AMBIGUOUS_IMAGE else CLEAR
                    header = self.say(found) if self._room() else header
                else:
                    header = self.publish_image(image)
                shown_at = now
            self.probe.executor.spin_once(timeout_sec=0.02)

    def _room(self):
        return len(self.sent) - len(self.verified) < MAX_UNANSWERED


def facts_of(provenance):
    """Return the values of a provenance message as a dict of text."""
    return {pair.key: pair.value for pair in provenance.status[0].values}


def found_in(result):
    """Return (class name, score, x0, y0, x1, y1) of each detection, rounded."""
    return [(box[0], round(item.results[0].hypothesis.score, 3), *(round(v, 2) for v in box[1:]))
            for box, item in zip(boxes(result), result.detections)]


def rounded(found):
    """Return detections as `found_in` gives them."""
    return [(name, round(score, 3), *(round(v, 2) for v in box)) for name, score, *box in found]


def _key(header):
    return header.stamp.sec, header.stamp.nanosec, header.frame_id


def _many(items, limit=8):
    return f'{len(items)}: {items[:limit]}'


def check_promise(client, deadline_ms, margin_ms=MARGIN_MS):
    """
    Hold the node to what it promises, for all that the client has sent since `wait_ready` or `forget`.

    Exactly one verified message and one provenance for each result of the student, in the order of the
    results, each header equal (that of each detection, too); none later than its deadline and a margin.
    """
    if client.student is None:
        # A real student's result and what came of it are on two topics: either may arrive first.
        with contextlib.suppress(WaitTimeout):
            client.probe.wait_for(
                lambda: len(client.sent) == len(client.verified) == len(client.provenance), '', 2.0)
    sent = [_key(header) for header, _ in client.sent]
    for what, received in (('verified', client.verified), ('provenance', client.provenance)):
        have = [_key(message.header) for _, message in received]
        extra = collections.Counter(have) - collections.Counter(sent)
        lost = collections.Counter(sent) - collections.Counter(have)
        assert not lost, f'{what}: lost {_many(list(lost))} of {len(sent)}'
        assert not extra, f'{what}: doubled or not asked for {_many(list(extra))}'
        assert have == sent, f'{what}: not in the order of the results'
    for (_, sent_at), (arrived, result), (_, provenance) in zip(
            client.sent, client.verified, client.provenance):
        assert all(item.header == result.header for item in result.detections)
        facts = facts_of(provenance)
        assert float(facts['waited_ms']) <= deadline_ms + margin_ms, facts
        assert facts['deadline_met'] == 'true' or float(facts['waited_ms']) >= deadline_ms, facts
        # What the node says of itself, against a clock that is not its own.
        assert arrived - sent_at <= deadline_ms / 1e3 + ARRIVAL_MARGIN_S, (arrived - sent_at, facts)
        assert bool(facts['unverified']) == (provenance.status[0].level != b'\0'), facts


def sources(client):
    """Return how many of the answers came from whom, as {source: count}."""
    return dict(collections.Counter(facts_of(message)['source'] for _, message in client.provenance))


def same_but(message, **fields):
    """Return a copy of a message with other fields."""
    message = copy.copy(message)
    for name, value in fields.items():
        setattr(message, name, value)
    return message
