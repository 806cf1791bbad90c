# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameters of fallback_node and their typed form. Free of ROS."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from kd_perception.drift.monitor import DriftSettings
from kd_perception.fallback.arbiter import ArbiterSettings
from kd_perception.fallback.breaker import BreakerSettings
from kd_perception.fallback.camera_fallback import FallbackSettings
from kd_perception.fallback.carry import CarrySettings
from kd_perception.fallback.gate import GateSettings
from kd_perception.fallback.merge import MergeSettings
from kd_perception.fallback.scores import PERIODIC, SIGNALS
from kd_perception.fallback.state import StateSettings
from kd_perception.fallback.teacher_load import LoadSettings
from kd_perception.nodes.detector.parameters import check_cameras
from kd_perception.nodes.shared.drift_parameters import DRIFT_PARAMETERS, drift_settings
from kd_perception.nodes.shared.parameters import ParameterSpec, require_valid
from kd_perception.recording.frames import RecorderSettings

# Of the deadline: what a timer of an ordinary kernel, a message that is being read and publishing take.
RESERVE_NS = 15_000_000

FALLBACK_PARAMETERS = (
    ParameterSpec(
        'autostart', 'bool', True,
        'Configure and activate at start; false waits for a lifecycle manager.', changes='start',
        section='What to watch'),
    ParameterSpec(
        'cameras', 'string_list', ['camera'],
        'Camera namespaces; camera C is answered on C/verified_detections and C/provenance.'),
    ParameterSpec(
        'student_model', 'string', 'student',
        "The student's model file, a name in the installed models/manifest.yaml, or store:FOLDER#student: "
        'its labels, thresholds and learned gate. While the node works another one is read beside it, and '
        'followed or refused.', changes='live'),
    ParameterSpec(
        'student_topic', 'string', 'candidates',
        "The student's results: candidates holds its boxes down to the low threshold; detections is for a "
        'student that publishes no candidates.', choices=('candidates', 'detections')),
    ParameterSpec(
        'image_transport', 'string', 'raw',
        'raw reads C/image_raw, compressed reads C/image_raw/compressed; the teacher gets the same.',
        choices=('raw', 'compressed'), section='Image input'),
    ParameterSpec(
        'image_reliability', 'string', 'best_effort',
        'Reliability of the image subscriptions.', choices=('best_effort', 'reliable')),
    ParameterSpec(
        'image_buffer', 'int', 10,
        'Images kept for each camera until the student has answered; older ones cannot be sent any more.',
        minimum=1, maximum=100),
    ParameterSpec(
        'teacher', 'bool', True,
        'False: there is no teacher, by design; nothing is sent and the state is DEGRADED.', changes='live',
        section='Teacher'),
    ParameterSpec(
        'teacher_labels', 'string_list', [''],
        "The teacher's class names; empty: the student's. An answer with any other class is unusable."),
    ParameterSpec(
        'teacher_reliability', 'string', 'reliable',
        'Reliability of C/teacher/image_raw, of which only the newest image is kept for sending again.',
        choices=('best_effort', 'reliable')),
    ParameterSpec(
        'deadline_ms', 'double', 150.0,
        "A verified message leaves at most this long after the student's result.",
        changes='live', minimum=1.0, maximum=60000.0, section='Deadline'),
    ParameterSpec(
        'max_pending', 'int', 64,
        'Results of a camera that may wait for the teacher at once.',
        changes='live', minimum=1, maximum=10000),
    ParameterSpec(
        'share', 'double', 0.2,
        'Greatest share of the frames that is sent to the teacher.',
        changes='live', minimum=0.0, maximum=1.0, section='How much is sent'),
    ParameterSpec(
        'audit_share', 'double', 0.01,
        'Part of share that is kept for frames drawn by chance.', changes='live', minimum=0.0, maximum=1.0),
    ParameterSpec(
        'burst', 'double', GateSettings.burst,
        'Frames that may be sent in a row after a quiet time.', changes='live', minimum=1.0, maximum=1000.0),
    ParameterSpec(
        'refresh', 'bool', GateSettings.refresh,
        'Spend all of share: the more of burst is saved, the clearer a frame may be that is sent. False: '
        'only ambiguous frames are.', changes='live'),
    ParameterSpec(
        'max_in_flight', 'int', 2,
        'Frames of a camera that may be with the teacher at once; its detector keeps one that waits besides '
        'the one in work.', changes='live', minimum=1, maximum=1000),
    ParameterSpec(
        'teacher_rate_hz', 'double', 0.0,
        'Greatest rate of frames sent, of all cameras together; 0: no bound.',
        changes='live', minimum=0.0, maximum=1000.0),
    ParameterSpec(
        'teacher_pace', 'bool', LoadSettings.pace,
        'Ask only for what the teacher, by the time that it has taken of late, answers before the deadline, '
        'all cameras together.', changes='live'),
    ParameterSpec(
        'teacher_time_share', 'double', LoadSettings.time_share,
        'Greatest share of its time that the teacher works, for all cameras together; what is not used is '
        'saved up to two seconds of work; 1: no bound.', changes='live', minimum=0.01, maximum=1.0),
    ParameterSpec(
        'scorer', 'string', 'signals',
        "What judges a frame: learned is the estimator in the student's file, signals the fixed rules, a "
        'signal its name, periodic takes every frame alike; auto takes learned where the file holds one, '
        'else signals.',
        choices=('auto', 'learned', 'signals', PERIODIC, *SIGNALS), section='What is ambiguous'),
    ParameterSpec(
        'enter_threshold', 'double', -1.0,
        'Score from which frames are ambiguous; -1: the score that share of the frames reaches, as the '
        "learned gate knows from its fitting, and other scorers from the camera's last 300 frames.",
        changes='live', minimum=0.0, maximum=1.0, model_default=-1.0),
    ParameterSpec(
        'leave_share', 'double', 0.8,
        'A score below this share of the enter threshold, leave_frames times in a row, ends the ambiguity.',
        changes='live', minimum=0.0, maximum=1.0),
    ParameterSpec(
        'leave_frames', 'int', 2,
        'See leave_share.', changes='live', minimum=1, maximum=1000),
    ParameterSpec(
        'seed', 'int', 0,
        'Of the draw of audited frames.', minimum=0, maximum=2**31 - 1),
    ParameterSpec(
        'merge_policy', 'string', 'replace',
        "replace publishes the teacher's boxes; union adds confident boxes of the student.",
        changes='live', choices=('replace', 'union'), section='The answer'),
    ParameterSpec(
        'keep_score', 'double', 0.6,
        "union: least score of the student's boxes.", changes='live', minimum=0.0, maximum=1.0),
    ParameterSpec(
        'score_threshold', 'double', -1.0,
        "Least score of the student's boxes that is published; -1: the model's working threshold.",
        changes='live', minimum=0.0, maximum=1.0, model_default=-1.0),
    ParameterSpec(
        'max_detections', 'int', 300,
        'At most this many a message.', changes='live', minimum=1, maximum=1000),
    ParameterSpec(
        'carry_frames', 'int', CarrySettings.frames,
        "The teacher's boxes are carried forward, with the image's motion, over at most so many frames that "
        'it does not answer; 0: they are not.', changes='live', minimum=0, maximum=100,
        section='Carrying forward'),
    ParameterSpec(
        'carry_decay', 'double', CarrySettings.decay,
        "Factor of a carried box's score for each second in which the student does not confirm it.",
        changes='live', minimum=0.01, maximum=1.0),
    ParameterSpec(
        'carry_min_score', 'double', CarrySettings.min_score,
        'A box is carried while its score is at least this.', changes='live', minimum=0.0, maximum=1.0),
    ParameterSpec(
        'carry_merge_iou', 'double', CarrySettings.merge_iou,
        'A carried box and one of the student of its class are one object from this IoU on, and the score of '
        'the teacher holds.', changes='live', minimum=0.01, maximum=1.0),
    ParameterSpec(
        'teacher_timeout_s', 'double', 2.0,
        'The teacher is taken for dead after this long without any answer.',
        changes='live', minimum=0.05, maximum=3600.0, section='Outages of the teacher'),
    ParameterSpec(
        'teacher_misses', 'int', 5,
        'So many of the last 10 requests without a good answer in time open the breaker, too.',
        changes='live', minimum=1, maximum=10),
    ParameterSpec(
        'probe_interval_s', 'double', 0.5,
        'Time between probes of a teacher that is out; doubled after each failed one, up to 10 times.',
        changes='live', minimum=0.05, maximum=600.0),
    ParameterSpec(
        'probe_successes', 'int', 2,
        'Probes answered in a row before the teacher is asked again.',
        changes='live', minimum=1, maximum=100),
    ParameterSpec(
        'camera_silence_s', 'double', 1.0,
        'ERROR after this long without an image.', changes='live', minimum=0.05, maximum=3600.0,
        section='State'),
    ParameterSpec(
        'student_silence_s', 'double', 1.0,
        'ERROR after this long without a result of the student while images arrive.',
        changes='live', minimum=0.05, maximum=3600.0),
    ParameterSpec(
        'hold_s', 'double', 1.0,
        'A state improves after this long without its cause.', changes='live', minimum=0.0, maximum=3600.0),
    ParameterSpec(
        'record_folder', 'string', '',
        'Frames that the teacher answered are recorded here with both outputs, for review and retraining; '
        'empty: nothing is recorded.', section='Recording'),
    ParameterSpec(
        'record_max_mib', 'double', 1024.0,
        'All recordings together; the oldest make room.', minimum=1.0, maximum=1e7),
    ParameterSpec(
        'record_rate_hz', 'double', 2.0,
        'Greatest rate of recorded frames of a camera.', minimum=0.001, maximum=1000.0),
    ParameterSpec(
        'record_jpeg_quality', 'int', 90,
        'Raw images are stored as JPEG of this quality; 0: as they came.', minimum=0, maximum=100),
    *DRIFT_PARAMETERS,
)


@dataclasses.dataclass(frozen=True)
class FallbackNodeSettings:
    """
    The values of `FALLBACK_PARAMETERS`, typed and checked together.

    :param fallback: all but what depends on the model: see `complete`.
    :param recorder: None: nothing is recorded.
    """

    autostart: bool
    cameras: tuple[str, ...]
    student_model: str
    student_topic: str
    compressed: bool
    reliable: bool
    image_buffer: int
    teacher_labels: tuple[str, ...]
    teacher_reliable: bool
    teacher_rate_hz: float | None
    scorer: str
    seed: int
    enter: float | None
    leave_share: float
    score: float | None
    fallback: FallbackSettings
    recorder: RecorderSettings | None
    drift: DriftSettings

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> FallbackNodeSettings:
        """
        Build the settings from parameter values.

        :raises RosInterfaceError: one line that names the parameter and what was expected.
        """
        require_valid(FALLBACK_PARAMETERS, values, check_combination)
        return _settings(cls, values)

    def complete(self, enter: float, score: float, running: bool = False) -> FallbackSettings:
        """
        Return the settings of a camera's fallback.

        :param enter: the scorer's own threshold for the share.
        :param score: the student's working threshold.
        :param running: that threshold is for the first frames only, see `FallbackSettings`.
        """
        enter = enter if self.enter is None else self.enter
        # Below 0 (a linear estimator) a share of a threshold would lie above it.
        leave = min(enter, self.leave_share * enter)
        gate = dataclasses.replace(self.fallback.gate, enter=enter, leave=leave)
        merge = dataclasses.replace(
            self.fallback.merge, student_score=score if self.score is None else self.score)
        return dataclasses.replace(
            self.fallback, gate=gate, merge=merge, running=running and self.enter is None)


def _ns(values: Mapping[str, Any], name: str) -> int:
    return round(values[name] * (1e9 if name.endswith('_s') else 1e6))


def _settings(cls: type, values: Mapping[str, Any]) -> FallbackNodeSettings:
    def tuned(name: str) -> Any:
        return None if values[name] == -1 else values[name]

    probe_ns, deadline_ns = _ns(values, 'probe_interval_s'), _ns(values, 'deadline_ms')
    return cls(
        autostart=values['autostart'], cameras=tuple(values['cameras']),
        student_model=values['student_model'], student_topic=values['student_topic'],
        compressed=values['image_transport'] == 'compressed',
        reliable=values['image_reliability'] == 'reliable', image_buffer=values['image_buffer'],
        teacher_labels=tuple(filter(None, values['teacher_labels'])),
        teacher_reliable=values['teacher_reliability'] == 'reliable',
        teacher_rate_hz=values['teacher_rate_hz'] or None, scorer=values['scorer'], seed=values['seed'],
        enter=tuned('enter_threshold'), leave_share=values['leave_share'], score=tuned('score_threshold'),
        fallback=FallbackSettings(
            gate=GateSettings(leave_frames=values['leave_frames'], share=values['share'],
                              audit_share=values['audit_share'], burst=values['burst'],
                              refresh=values['refresh']),
            arbiter=ArbiterSettings(
                deadline_ns=deadline_ns, reserve_ns=min(RESERVE_NS, deadline_ns // 10),
                max_pending=values['max_pending']),
            breaker=BreakerSettings(
                silence_ns=_ns(values, 'teacher_timeout_s'), window=10, misses=values['teacher_misses'],
                probe_interval_ns=probe_ns, probe_interval_max_ns=10 * probe_ns,
                successes=values['probe_successes']),
            merge=MergeSettings(policy=values['merge_policy'], keep_score=values['keep_score'],
                                max_detections=values['max_detections']),
            state=StateSettings(camera_silence_ns=_ns(values, 'camera_silence_s'),
                                student_silence_ns=_ns(values, 'student_silence_s'),
                                hold_ns=_ns(values, 'hold_s')),
            load=LoadSettings(pace=values['teacher_pace'], time_share=values['teacher_time_share']),
            carry=CarrySettings(
                frames=values['carry_frames'], decay=values['carry_decay'],
                min_score=values['carry_min_score'], merge_iou=values['carry_merge_iou']),
            teacher=values['teacher'], max_in_flight=values['max_in_flight']),
        recorder=_recorder(values), drift=drift_settings(values))


def _recorder(values: Mapping[str, Any]) -> RecorderSettings | None:
    if not values['record_folder']:
        return None
    total = values['record_max_mib']
    return RecorderSettings(
        values['record_folder'], max_total_mib=total, max_file_mib=min(64.0, total / 4),
        max_rate_hz=values['record_rate_hz'], jpeg_quality=values['record_jpeg_quality'])


def check_combination(values: Mapping[str, Any]) -> str:
    """Return why values that are fine one by one are refused together; empty where they are not."""
    reason = check_cameras(values['cameras'])
    if reason:
        return reason
    if values['audit_share'] > values['share']:
        return (f'audit_share: {values["audit_share"]:g} is above share ({values["share"]:g}), '
                'of which it is part')
    if not values['student_model']:
        return 'student_model: is empty, expected the path of an ONNX file or a name in the manifest'
    labels = [label for label in values['teacher_labels'] if label]
    if len(set(labels)) != len(labels):
        return f'teacher_labels: {labels} names a class twice'
    return ''


def settings_of_defaults() -> FallbackNodeSettings:
    """Return the settings of a node that nothing was said to."""
    return FallbackNodeSettings.from_values({spec.name: spec.default for spec in FALLBACK_PARAMETERS})
