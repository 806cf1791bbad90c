# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One camera of the fallback node: its topics around the pure `CameraFallback`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.boxes.detections import Detections
from kd_perception.drift.fallback_drift import FallbackDrift
from kd_perception.errors import BagError
from kd_perception.fallback.ambiguity import FeatureExtractor
from kd_perception.fallback.arbiter import Verdict
from kd_perception.fallback.camera_fallback import CameraFallback, FallbackSettings
from kd_perception.fallback.judge import Judge
from kd_perception.fallback.provenance import Output
from kd_perception.fallback.waiting import WaitingFrame
from kd_perception.health.fallback_monitor import FallbackMonitor
from kd_perception.levels import Report
from kd_perception.messages.typestore import COMPRESSED_IMAGE, IMAGE
from kd_perception.messages.wire import (
    CdrReader,
    read_result,
    SerializedImage,
    SerializedResult,
    write_result,
)
from kd_perception.nodes.fallback.frame_views import FrameViews
from kd_perception.nodes.fallback.image_buffer import BufferedImage, ImageBuffer
from kd_perception.nodes.fallback.parameters import FallbackNodeSettings
from kd_perception.nodes.shared import qos
from kd_perception.nodes.shared.conversions import ns_to_stamp
from kd_perception.nodes.shared.image_input import ImageInput
from kd_perception.nodes.shared.runtime import RCLError
from kd_perception.nodes.shared.throttle import Throttle
from kd_perception.nodes.shared.vision_messages import Detection2DArray
from kd_perception.recording.frames import HardFrame
from kd_perception.recording.recorder import HardFrameRecorder

# More than an 8k camera's raw frame; a result of the size of a thousand detections.
MAX_IMAGE_BYTES = 128 * 2**20
MAX_RESULT_BYTES = 2**20
MAX_BOXES = 1000
MAX_SENT = 256
# What was published a moment ago is lost with its publisher unless readers have it; one that hangs never has.
READERS_WAIT_S = 0.2
# Reasons for input that cannot be used.
BAD_IMAGE, BAD_RESULT, BAD_ANSWER = 'bad_image', 'bad_student_result', 'bad_teacher_answer'
TEACHER_PUBLISH, INTERNAL_ERROR = 'teacher_publish_error', 'internal_error'


def _read(raw: bytes, labels: Sequence[str]) -> tuple[SerializedResult | None, str]:
    """
    Read a result of either model.

    :return: the result, without boxes where only its header can be read, None where not even that; and what
        is wrong with the message, empty: nothing.
    """
    try:
        if len(raw) > MAX_RESULT_BYTES:
            raise BagError(f'{len(raw)} bytes, expected at most {MAX_RESULT_BYTES}')
        return read_result(raw, labels, MAX_BOXES), ''
    except BagError as error:
        try:
            return SerializedResult(*CdrReader(raw).header(), Detections.empty()), str(error)
        except BagError:
            return None, str(error)


class _Context(NamedTuple):
    """What an output must be published and recorded with."""

    frame_id: str
    image: BufferedImage | None = None     # only where frames are recorded
    student: bytes = b''


class FallbackChannel:
    """
    The topics of one camera. Everything runs on the executor's thread.

    All messages are taken and given in their serialised form: an image that goes to the teacher is neither
    decoded nor copied into Python's objects, and a result is read in one go.

    :param node: a lifecycle node. :param logic: of this camera.
    :param wants_scene: whether the scorer looks at the image.
    :param wake: called after each change, to set the alarm for the next deadline.
    :param teacher_free: called after each answer of the teacher: what waits may be asked.
    :param tick_due: called before each message: the executor serves what was ready with it before it looks at
        the alarm again, and a few images take longer than a deadline should be late.
    :param recorder: takes the frames that the teacher answered; None: nobody does.
    :param drift: hears of every result and answer.
    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, node: Any, settings: FallbackNodeSettings, logic: CameraFallback, wants_scene: bool,
                 throttle: Throttle, wake: Callable[[], None], teacher_free: Callable[[], None],
                 tick_due: Callable[[], None],
                 recorder: HardFrameRecorder | None, drift: FallbackDrift,
                 clock: Callable[[], int]):
        """Create the publishers; they are silent until the node is active."""
        self.name, self.logic = logic.camera, logic
        self._node, self._settings = node, settings
        self._wants_scene = wants_scene
        self._throttle, self._wake, self._tick_due, self._clock = throttle, wake, tick_due, clock
        self._teacher_free = teacher_free
        self._kept: tuple[int, BufferedImage] | None = None     # of the frame that waits, by sequence
        self._recorder, self.drift = recorder, drift
        self._answers: dict[int, bytes] = {}    # of frames that wait for those before them, by sequence
        self._labels: Sequence[str] = logic.extractor.labels
        self._teacher_labels: Sequence[str] = settings.teacher_labels or self._labels
        self._images = ImageBuffer(settings.image_buffer)
        self._sent: OrderedDict[int, str] = OrderedDict()      # stamp -> frame_id of what was sent
        self._subscriptions: list[Any] = []
        self._publish_one = self._guarded(self._publish_output)
        self._image_type, self._image_topic = (
            (CompressedImage, 'image_raw/compressed') if settings.compressed else (Image, 'image_raw'))
        self.verified = node.create_lifecycle_publisher(
            Detection2DArray, f'{self.name}/verified_detections', qos.VERIFIED)
        self.provenance = node.create_lifecycle_publisher(
            DiagnosticArray, f'{self.name}/provenance', qos.VERIFIED)
        self.teacher_image = node.create_lifecycle_publisher(
            self._image_type, f'{self.name}/teacher/{self._image_topic}',
            qos.image_input(settings.teacher_reliable))
        self._input = ImageInput(node, self._image_type, f'{self.name}/{self._image_topic}',
                                 qos.image_input(settings.reliable, settings.image_buffer), self._warn)
        self.monitor = FallbackMonitor(self.name, node.resolve_topic_name(self.name), clock)

    def subscribe(self) -> None:
        """Start to receive."""
        self._subscriptions.append(self._input.subscribe(self._on_message(self._on_image), raw=True))
        for topic, callback in ((self._settings.student_topic, self._on_student),
                                ('teacher/detections', self._on_teacher)):
            self._subscriptions.append(self._node.create_subscription(
                Detection2DArray, f'{self.name}/{topic}', self._on_message(callback), qos.VERIFIED, raw=True))

    def unsubscribe(self) -> None:
        """Stop receiving and publish what waits, with the student's results."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._publish(self.logic.flush(self._clock()))
        self._images.clear()

    def restart(self, logic: CameraFallback) -> None:
        """Go on with a fallback that knows of no earlier frames; its labels are those of the last."""
        self.logic = logic
        self.drift.reset()
        self._sent.clear()
        self._answers.clear()
        self._kept = None

    def follow(self, extractor: FeatureExtractor, judge: Judge, settings: FallbackSettings,
               drift: FallbackDrift) -> None:
        """Judge another student's results from the next one on; see `CameraFallback.follow`."""
        self.drift = drift
        self._wants_scene = judge.wants_scene
        self.logic.follow(extractor, judge.scorer, settings)

    def destroy(self) -> None:
        """Give the topics back, once what was published last has arrived."""
        for publisher in (self.verified, self.provenance):
            try:
                publisher.wait_for_all_acked(Duration(seconds=READERS_WAIT_S))
            except RCLError:    # the context is shutting down
                pass
        for publisher in (self.verified, self.provenance, self.teacher_image):
            self._node.destroy_lifecycle_publisher(publisher)

    def tick(self) -> None:
        """Let time pass; a fault of this package costs one message here, too."""
        self._guarded(lambda now_ns: self._publish(self.logic.on_tick(now_ns)))(self._clock())

    def report(self, active: bool) -> Report:
        """Return the camera's report."""
        state = self.logic.report(self._clock()) if active else None
        report = self.monitor.report(state, self.logic.counts(), self.logic.arbiter.worst_lateness_ns)
        report = report.with_values(('budget_saved', f'{self.logic.gate.saved:.3f}'))
        return self._input.annotate(report, state is not None and state.image_missing)

    def _guarded(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """Wrap a callback so that a fault of this package costs one message, not the node."""
        def call(argument: Any) -> None:
            try:
                callback(argument)
            except Exception as error:
                self._unusable(INTERNAL_ERROR, f'{type(error).__name__}: {error}')
        return call

    def _on_message(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        guarded = self._guarded(callback)

        def call(raw: bytes) -> None:
            self._tick_due()
            guarded(raw)
        return call

    def _on_image(self, raw: bytes) -> None:
        self.monitor.image()
        self.logic.on_image(self._clock())
        try:
            if len(raw) > MAX_IMAGE_BYTES:
                raise BagError(f'{len(raw)} bytes, expected at most {MAX_IMAGE_BYTES}')
            view = SerializedImage.read(raw, self._settings.compressed)
        except BagError as error:
            self._unusable(BAD_IMAGE, str(error))
            return
        image = BufferedImage(view.stamp_ns, raw, view)
        arrival = self._images.add(image)
        now_ns = self._clock()
        if arrival.sequence is not None and self.logic.on_late_image(
                arrival.sequence, now_ns, self._views(image).flow):
            self._ask_teacher(image)
        for sequence in arrival.lost:
            self._publish(self.logic.on_image_lost(sequence, now_ns))
        if arrival.lost:
            self._wake()

    def _on_student(self, raw: bytes) -> None:
        now_ns = self._clock()
        result = self._read_student(raw)
        if result is None:
            return
        stamp_ns, frame_id, detections, suspect = result
        self.monitor.student()
        image = self._image_of(stamp_ns)
        hw = None if image is None or image.view.height is None else (image.view.height, image.view.width)
        views = None if image is None else self._views(image)
        age_ns = self._node.get_clock().now().nanoseconds - stamp_ns if stamp_ns else None
        step = self.logic.on_student(
            stamp_ns, detections, now_ns, image_hw=hw,
            scene=views.scene() if views and self._wants_scene else None,
            view=views.flow if views else None, image_at_hand=image is not None,
            context=_Context(frame_id, image, raw) if self._recorder else _Context(frame_id),
            image_age_ns=age_ns, suspect=suspect,
            image_awaited=image is None and self._images.may_come(stamp_ns))
        self.drift.student(step.sequence, step.decision, detections)
        self._publish(step.outputs)
        if step.send and image is not None:
            self._ask_teacher(image)
        elif step.send:
            self._images.expect(stamp_ns, step.sequence)
        elif step.keep and image is not None:
            self._kept = step.sequence, image
        self._wake()

    def ask_waiting(self, frame: WaitingFrame) -> bool:
        """Ask the teacher about a frame that waited; return whether it was possible."""
        kept, self._kept = self._kept, None
        if kept is None or kept[0] != frame.sequence:
            return False
        asked = self.logic.ask_waiting(frame, kept[1].stamp_ns, self._clock())
        if asked:
            self._ask_teacher(kept[1])
        return asked

    def _ask_teacher(self, image: BufferedImage) -> None:
        self._sent[image.stamp_ns] = image.view.frame_id
        self._sent.move_to_end(image.stamp_ns)
        if len(self._sent) > MAX_SENT:
            self._sent.popitem(last=False)
        if not self._node.publish_safely(self.teacher_image, image.raw):
            self.monitor.dropped(TEACHER_PUBLISH)

    def _read_student(self, raw: bytes) -> tuple[int, str, Detections, str] | None:
        """
        Return stamp, frame_id, boxes, and why the result cannot be believed.

        None where not even a header can be read: there is nothing that an answer could be given to.
        """
        result, fault = _read(raw, self._labels)
        if result is not None and result.rejected + result.unknown:
            fault = f'{result.rejected + result.unknown} of its detections are no boxes of known classes'
        if fault:
            self._unusable(BAD_RESULT, fault)
        return None if result is None else (
            result.stamp_ns, result.frame_id, result.detections, BAD_RESULT if fault else '')

    def _on_teacher(self, raw: bytes) -> None:
        now_ns = self._clock()
        result, fault = _read(raw, self._teacher_labels)
        if result is not None:
            fault = fault or self._fault(result)
        if fault:
            self._unusable(BAD_ANSWER, fault)
        if result is None:
            return
        step = self.logic.on_teacher(result.stamp_ns, None if fault else result.detections, now_ns)
        if self._recorder and step.verdict is Verdict.ACCEPTED:
            self._answers[step.sequence] = raw
        if step.verdict is Verdict.ACCEPTED:
            self.drift.teacher(step.sequence, result.detections)
        self._publish(step.outputs)
        self._wake()
        self._teacher_free()

    def _fault(self, result: SerializedResult) -> str:
        """Return why an answer of the teacher cannot be used; empty: it can."""
        sent = self._sent.get(result.stamp_ns)
        if sent is not None and sent != result.frame_id:
            return f'frame_id is {result.frame_id!r:.60}, its image said {sent!r:.60}'
        if result.unknown:
            return (f'class {result.unknown_name!r:.60} is none of {", ".join(self._teacher_labels):.200}: '
                    'the wrong model, or teacher_labels is not set')
        if result.rejected:
            return f'{result.rejected} of its detections are no boxes'
        return ''

    def _image_of(self, stamp_ns: int) -> BufferedImage | None:
        """Return the image of a result, None where it has not arrived."""
        image, tries = self._images.take(stamp_ns), self._settings.image_buffer
        while image is None and tries and self._receive_image():
            image, tries = self._images.take(stamp_ns), tries - 1
        return image

    def _receive_image(self) -> bool:
        """
        Receive the next image that waits for the executor; return whether there was one.

        The executor takes one message of each topic in turn: after a hold-up a result would come before its
        image, which is behind others that had no result.
        """
        subscription = self._subscriptions[0]
        try:
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, True)
        except RCLError:
            return False
        if taken is not None:
            self._on_image(taken[0])
        return taken is not None

    def _views(self, image: BufferedImage) -> FrameViews:
        # The student's boxes are there all the same; the teacher decides for itself what it can decode.
        return FrameViews(image.view, lambda error: self._unusable(BAD_IMAGE, error))

    def _publish(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self._publish_one(output)

    def _publish_output(self, output: Output) -> None:
        self._images.give_up(output.stamp_ns)
        verified = write_result(
            output.detections, self.logic.labels, output.stamp_ns, output.context.frame_id, output.track_ids)
        self._node.publish_safely(self.verified, verified)
        self.monitor.output(output)
        provenance = self._provenance_message(output)
        self._node.publish_safely(self.provenance, provenance)
        answer, image = self._answers.pop(output.sequence, None), output.context.image
        if answer is not None and image is not None:
            self._recorder.offer(HardFrame(
                self.name, output.stamp_ns, image.view.frame_id, image.raw,
                COMPRESSED_IMAGE if self._settings.compressed else IMAGE, output.context.student, answer,
                verified, serialize_message(provenance)))

    def _provenance_message(self, output: Output) -> DiagnosticArray:
        message = DiagnosticArray()
        message.header.stamp, message.header.frame_id = ns_to_stamp(output.stamp_ns), output.context.frame_id
        provenance = output.provenance
        message.status.append(DiagnosticStatus(
            level=DiagnosticStatus.WARN if provenance.unverified else DiagnosticStatus.OK,
            name=f'{self._node.get_fully_qualified_name().lstrip("/")}: camera {self.name}',
            hardware_id=self.monitor.hardware_id,
            message=f'{provenance.source.value}: {provenance.reason}',
            values=[KeyValue(key=key, value=value) for key, value in provenance.values()]))
        return message

    def _unusable(self, reason: str, detail: str) -> None:
        self.monitor.dropped(reason)
        self._warn(reason, f'{reason}: {detail:.300}')

    def _warn(self, reason: str, text: str) -> None:
        silent = self._throttle.permit((self.name, reason))
        if silent is not None:
            more = f'; {silent} more like it since the last such line' if silent else ''
            self._node.get_logger().warning(f'camera {self.name}: {text}{more}')
