# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The metrics by name: which value of which diagnostics component each one is. The docs page holds this table.

Names follow Prometheus' practice (https://prometheus.io/docs/practices/naming): base units, and `_total` for
counters.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from kd_perception.fallback.breaker import BreakerState
from kd_perception.fallback.state import FallbackState

PREFIX = 'kd_perception_'
# Components whose keys are known. A camera's is named alike by both nodes; its keys tell whose it is.
CAMERA, MODEL, FALLBACK, TEACHER, RECORDER, DRIFT = (
    'camera', 'model', 'fallback', 'teacher', 'recorder', 'drift')
CAMERA_KEY, FALLBACK_KEY = 'processed_rate_hz', 'output_rate_hz'
CAMERA_STATES = ('waiting', 'active', 'stale', 'disabled', 'inactive')
LIFECYCLE_STATES = ('unconfigured', 'inactive', 'active', 'finalized', 'configuring', 'cleaningup',
                    'shuttingdown', 'activating', 'deactivating', 'errorprocessing')
# As quantiles of a Prometheus summary; the greatest is the 1-quantile.
QUANTILES = {'p50': '0.5', 'p95': '0.95', 'p99': '0.99', 'max': '1'}
# What these labels may be called in a key, and are called in the metric.
CHOICES = {'quantile': QUANTILES,
           'test': {name: name for name in ('ks', 'psi', 'tails', 'cusum', 'more', 'less')}}
MS = 1e-3


@dataclasses.dataclass(frozen=True)
class MetricSpec:
    """
    One metric.

    :param source: the component that tells it. :param key: of its value; `<label>` stands for the part that
        becomes the label of that name.
    :param type: `states` is a gauge for each of `states`, 1 for the present one and 0 for the others.
    :param scale: of the value, to the metric's unit.
    """

    source: str
    key: str
    name: str
    type: Literal['counter', 'gauge', 'states']
    description: str
    scale: float = 1.0
    states: tuple[str, ...] = ()

    @property
    def pattern(self) -> re.Pattern:
        """The keys that this metric is for."""
        parts = re.split(r'<(\w+)>', self.key)
        return re.compile(''.join(f'(?P<{part}>.+)' if i % 2 else re.escape(part)
                                  for i, part in enumerate(parts)))


TABLE = (
    MetricSpec(CAMERA, 'state', 'camera_state', 'states',
               'State of a camera of a detector.', states=CAMERA_STATES),
    MetricSpec(CAMERA, 'rate_hz', 'camera_image_rate_hertz', 'gauge', 'Images that arrive.'),
    MetricSpec(CAMERA, 'processed_rate_hz', 'camera_processed_rate_hertz', 'gauge',
               'Results that are published.'),
    MetricSpec(CAMERA, 'image_age_ms', 'camera_image_age_seconds', 'gauge',
               "The newest image's stamp to its arrival.", MS),
    MetricSpec(CAMERA, 'silent_ms', 'camera_silent_seconds', 'gauge', 'Time without an image.', MS),
    MetricSpec(CAMERA, 'received', 'camera_images_received_total', 'counter', 'Images that arrived.'),
    MetricSpec(CAMERA, 'processed', 'camera_images_processed_total', 'counter', 'Images with a result.'),
    MetricSpec(CAMERA, 'detections', 'camera_detections_total', 'counter', 'Detections published.'),
    MetricSpec(CAMERA, 'dropped.<reason>', 'camera_images_dropped_total', 'counter',
               'Images without a result.'),
    MetricSpec(CAMERA, '<stage>.<quantile>_ms', 'camera_latency_seconds', 'gauge',
               'Time by stage, over the last 30 s.', MS),
    MetricSpec(CAMERA, 'publishers', 'camera_publishers', 'gauge', 'Publishers of the image topic.'),
    MetricSpec(CAMERA, 'lost', 'camera_images_lost_total', 'counter',
               'Images that the middleware knows to have been lost on the way.'),
    MetricSpec(CAMERA, 'qos_mismatches', 'camera_qos_mismatches_total', 'counter',
               'Publishers whose quality of service does not match.'),
    MetricSpec(MODEL, 'inference_errors', 'model_inference_errors_total', 'counter',
               'Inferences that raised.'),
    MetricSpec(MODEL, 'load_ms', 'model_load_seconds', 'gauge', 'Time to load and warm up.', MS),
    MetricSpec(MODEL, 'threads', 'model_threads', 'gauge', 'Threads inside an operator.'),
    MetricSpec(FALLBACK, 'state', 'fallback_state', 'states', 'State of the hybrid.',
               states=tuple(state.value for state in FallbackState)),
    MetricSpec(FALLBACK, 'state_s', 'fallback_state_seconds', 'gauge', 'How long the state has lasted.'),
    MetricSpec(FALLBACK, 'state_changes', 'fallback_state_changes_total', 'counter', 'Changes of the state.'),
    MetricSpec(FALLBACK, 'image_rate_hz', 'fallback_image_rate_hertz', 'gauge', 'Images that arrive.'),
    MetricSpec(FALLBACK, 'student_rate_hz', 'fallback_student_rate_hertz', 'gauge',
               'Results of the student.'),
    MetricSpec(FALLBACK, 'output_rate_hz', 'fallback_output_rate_hertz', 'gauge', 'Verified messages.'),
    MetricSpec(FALLBACK, 'teacher_share', 'fallback_teacher_share_ratio', 'gauge',
               'Share of the outputs of the last 10 s that hold the answer of the teacher.'),
    MetricSpec(FALLBACK, 'carried_share', 'fallback_carried_share_ratio', 'gauge',
               'Share of them that hold boxes carried forward from an earlier answer.'),
    MetricSpec(FALLBACK, '<stage>.<quantile>_ms', 'fallback_latency_seconds', 'gauge',
               'waited: result of the student to output; teacher: image sent to answer; of the last 10 s.',
               MS),
    MetricSpec(FALLBACK, 'worst_lateness_ms', 'fallback_worst_lateness_seconds', 'gauge',
               'The furthest behind a deadline since the start.', MS),
    MetricSpec(FALLBACK, 'publishers', 'fallback_image_publishers', 'gauge',
               'Publishers of the image topic.'),
    MetricSpec(FALLBACK, 'lost', 'fallback_images_lost_total', 'counter',
               'Images that the middleware knows to have been lost on the way.'),
    MetricSpec(FALLBACK, 'qos_mismatches', 'fallback_qos_mismatches_total', 'counter',
               'Publishers whose quality of service does not match.'),
    MetricSpec(FALLBACK, 'dropped.<reason>', 'fallback_inputs_dropped_total', 'counter',
               'Input that was unusable.'),
    MetricSpec(FALLBACK, 'gate.frames', 'fallback_frames_total', 'counter', 'Frames that the gate judged.'),
    MetricSpec(FALLBACK, 'gate.ambiguous', 'fallback_frames_ambiguous_total', 'counter',
               'Of these ambiguous.'),
    MetricSpec(FALLBACK, 'gate.sent', 'fallback_frames_sent_total', 'counter',
               'Of these sent to the teacher.'),
    MetricSpec(FALLBACK, 'gate.audited', 'fallback_frames_audited_total', 'counter',
               'Sent because drawn by chance.'),
    MetricSpec(FALLBACK, 'gate.probed', 'fallback_frames_probed_total', 'counter',
               'Sent to probe the teacher.'),
    MetricSpec(FALLBACK, 'gate.refreshed', 'fallback_frames_refreshed_total', 'counter',
               'Sent because the budget was there.'),
    MetricSpec(FALLBACK, 'gate.later', 'fallback_frames_sent_later_total', 'counter',
               'Sent once the teacher was free; the answer is carried forward.'),
    MetricSpec(FALLBACK, 'budget_saved', 'fallback_budget_saved_ratio', 'gauge',
               'Part of burst that is saved up.'),
    MetricSpec(FALLBACK, 'gate.<reason>', 'fallback_frames_denied_total', 'counter',
               'Not sent although they should have been.'),
    MetricSpec(FALLBACK, 'arbiter.students', 'fallback_student_results_total', 'counter',
               'Results of the student.'),
    MetricSpec(FALLBACK, 'arbiter.outputs', 'fallback_outputs_total', 'counter', 'Verified messages.'),
    MetricSpec(FALLBACK, 'arbiter.deadlines_missed', 'fallback_deadlines_missed_total', 'counter',
               'Verified messages that left after their deadline.'),
    MetricSpec(FALLBACK, 'arbiter.stamps_not_rising', 'fallback_stamps_not_rising_total', 'counter',
               'Results with a stamp that is not above the one before.'),
    MetricSpec(FALLBACK, 'arbiter.boxes_cut', 'fallback_boxes_cut_total', 'counter',
               'Boxes beyond max_detections.'),
    MetricSpec(FALLBACK, 'arbiter.source.<source>', 'fallback_outputs_by_source_total', 'counter',
               'Who answered.'),
    MetricSpec(FALLBACK, 'arbiter.unverified.<reason>', 'fallback_outputs_unverified_total', 'counter',
               'Ambiguous frames that nobody verified.'),
    MetricSpec(FALLBACK, 'arbiter.answer.<verdict>', 'fallback_teacher_answers_total', 'counter',
               'What became of the answers of the teacher.'),
    MetricSpec(FALLBACK, 'carry.<event>', 'fallback_carried_total', 'counter',
               'Outputs with carried boxes (frames), these boxes, boxes of the student that an answer '
               'refuted, late answers carried on, boxes lost on the way, and fresh starts (resets).'),
    MetricSpec(TEACHER, 'breaker', 'breaker_state', 'states', 'State of the breaker before the teacher.',
               states=tuple(state.value for state in BreakerState)),
    MetricSpec(TEACHER, 'breaker.<event>', 'breaker_events_total', 'counter',
               'What the breaker saw and did.'),
    MetricSpec(TEACHER, 'waiting.<event>', 'teacher_waiting_frames_total', 'counter',
               'Frames that waited until the teacher was free: offered, asked, stale, displaced by another.'),
    MetricSpec(RECORDER, 'offered', 'recorder_frames_offered_total', 'counter',
               'Frames offered to the recorder.'),
    # Frames of a recording that had to be abandoned are taken back: no counter.
    MetricSpec(RECORDER, 'written', 'recorder_frames_written', 'gauge', 'Frames that are in recordings.'),
    MetricSpec(RECORDER, 'waiting', 'recorder_frames_waiting', 'gauge', 'Frames that wait to be written.'),
    MetricSpec(RECORDER, 'bytes', 'recorder_written_bytes_total', 'counter', 'Bytes of messages written.'),
    MetricSpec(RECORDER, 'files', 'recorder_recordings_total', 'counter', 'Recordings completed.'),
    MetricSpec(RECORDER, 'deleted_files', 'recorder_recordings_deleted_total', 'counter',
               'Recordings removed to make room.'),
    MetricSpec(RECORDER, 'stored_bytes', 'recorder_stored_bytes', 'gauge', 'Bytes that the recordings take.'),
    MetricSpec(RECORDER, 'dropped.<reason>', 'recorder_frames_dropped_total', 'counter',
               'Frames not recorded.'),
    MetricSpec(DRIFT, 'alarms', 'drift_alarms_total', 'counter', 'Alarms raised.'),
    MetricSpec(DRIFT, 'frames', 'drift_frames', 'gauge', 'Frames in the window.'),
    MetricSpec(DRIFT, 'window', 'drift_window_frames', 'gauge', 'Frames that the window holds.'),
    MetricSpec(DRIFT, '<quantity>.<test>', 'drift_statistic', 'gauge', 'How far it is from the reference.'),
    MetricSpec(DRIFT, '<quantity>.<test>.threshold', 'drift_threshold', 'gauge',
               'The statistic at which it is an alarm.'),
)

# Said elsewhere already.
OMITTED = {
    (CAMERA, 'dropped'): 'the sum of `kd_perception_camera_images_dropped_total`',
    (FALLBACK, 'breaker.<event>'): 'all cameras share one breaker: `kd_perception_breaker_events_total`'}
# Facts in words: labels of a metric that is always 1. (source, name, description, {label: key}).
INFOS = (
    (MODEL, 'model_info', 'The loaded model.', {
        'model': 'name', 'version': 'version', 'sha256': 'sha256', 'provider': 'provider', 'input': 'input'}),
    (TEACHER, 'fallback_info', 'The student and what judges its frames.', {
        'student': 'student', 'student_sha256': 'student_sha256', 'scorer': 'scorer'}))
# What the exporter says of every node and of itself: name -> (type, labels, description).
COMMON = {
    'node_up': ('gauge', ('node',), '1 while the node reports, 0 once it has been silent for `stale_s`.'),
    'node_report_age_seconds': ('gauge', ('node',), 'Time since the last report of the node.'),
    'lifecycle_state': ('gauge', ('node', 'state'), '1 for the present state of the node, 0 for the others.'),
    'status_level': ('gauge', ('node', 'component'), '0 OK, 1 WARN, 2 ERROR, 3 STALE (the node is silent).'),
    'diagnostics_messages_total': ('counter', (), 'Messages on /diagnostics that were heard.'),
    'diagnostics_refused_total': (
        'counter', ('reason',), 'Messages, statuses and values that could not be used.'),
    'exporter_series': ('gauge', (), 'Different series since the start, of at most `max_series`.')}


def labels_of(spec: MetricSpec) -> tuple[str, ...]:
    """Return the labels of a metric, in alphabetical order."""
    own = re.findall(r'<(\w+)>', spec.key) + (['state'] if spec.type == 'states' else [])
    return tuple(sorted([*own, 'node', *(['camera'] if spec.source in (CAMERA, FALLBACK, DRIFT) else [])]))
