# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Reports as the real monitors make them, with something in every value; what a hybrid says in one second."""

import dataclasses
import types

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.breaker import TeacherBreaker
from kd_perception.fallback.provenance import Output, Provenance, Source
from kd_perception.fallback.state import FallbackState, StateReport
from kd_perception.health.camera_monitor import CameraLimits, CameraMonitor
from kd_perception.health.fallback_monitor import FallbackMonitor, recorder_report, teacher_report
from kd_perception.health.model_monitor import ModelMonitor
from kd_perception.health.silent_topic import reception_values
from kd_perception.levels import Level, Report
from kd_perception.monitoring.board import RawStatus

MS, S = 1_000_000, 1_000_000_000
FACTS = (('name', 'rectangles'), ('version', '1.0'), ('path', '/models/a.onnx'), ('sha256', '12' * 32),
         ('provider', 'cpu'), ('threads', '2'), ('allow_spinning', 'false'), ('labels', 'Car, Cyclist'),
         ('input', '96x96'))
COUNTS = {
    'gate.frames': 100, 'gate.ambiguous': 30, 'gate.sent': 20, 'gate.audited': 2, 'gate.probed': 1,
    'gate.refreshed': 3, 'gate.later': 2, 'gate.share_budget': 7,
    'arbiter.students': 100, 'arbiter.outputs': 99, 'arbiter.deadlines_missed': 3,
    'arbiter.stamps_not_rising': 1, 'arbiter.boxes_cut': 4, 'arbiter.source.student': 80,
    'carry.frames': 30, 'carry.lost': 6, 'arbiter.source.student-no-teacher': 10,
    'arbiter.unverified.no_image': 5, 'arbiter.answer.accepted': 18,
    'breaker.requests': 20}


def received(report):
    """Add what a node knows of the reception."""
    return dataclasses.replace(report, values=(*report.values, *reception_values(1, 2, 0)))


def detector_reports(camera='front', images=3, lifecycle='active'):
    """What a detector reports that received `images`, published two results and dropped the others."""
    now = [100 * S]
    monitor = CameraMonitor(camera, f'/{camera}', CameraLimits(), lambda: now[0])
    monitor.set_active(True)
    for index in range(images):
        now[0] += 100 * MS
        monitor.received(age_ns=4 * MS)
        if index < 2:
            monitor.processed({'wait': 1 * MS, 'inference': (10 + 10 * index) * MS, 'total': 30 * MS}, 5)
        else:
            monitor.dropped('superseded')
    model = ModelMonitor(lambda: now[0])
    model.loaded((*FACTS, ('load_ms', '1500')), '12' * 6)
    model.inference_failed('no luck')
    return [report.with_values(('lifecycle', lifecycle)) for report in (
        model.report(), received(monitor.report()))]


def fallback_reports(camera='front', state=FallbackState.DEGRADED, active=True):
    """What a fallback with a recorder reports."""
    now = [100 * S]
    monitor = FallbackMonitor(camera, f'/{camera}', lambda: now[0])
    for source in (Source.STUDENT, Source.TEACHER):
        now[0] += 500 * MS
        monitor.image()
        monitor.student()
        monitor.output(Output(0, 1, None, Detections.empty(), Provenance(
            source, 'clear', 0.1, False, False, 'no', '', 2, 8 * MS, 40 * MS, None, True)))
    monitor.dropped('bad_image')
    breaker = TeacherBreaker()
    breaker.sent('a', now[0])
    breaker.answered()
    recorder = types.SimpleNamespace(problem=lambda: '', counts=lambda: {
        'offered': 9, 'written': 5, 'waiting': 1, 'bytes': 4096, 'files': 2, 'deleted_files': 1,
        'stored_bytes': 2048, 'dropped.queue_full': 3, 'dropped.write_error': 0})
    told = StateReport(state, 'teacher silent for 2.1 s', 5 * S, 4) if active else None
    facts = (('student', 'tiny'), ('student_sha256', 'ab' * 32), ('scorer', 'band'),
             ('waiting.asked', '2'))
    reports = (teacher_report(breaker, facts, '', active, True, now[0]), *recorder_report(recorder),
               received(monitor.report(told, COUNTS, 2 * MS).with_values(('budget_saved', '0.500'))))
    return [report.with_values(('lifecycle', 'active' if active else 'inactive')) for report in reports]


def drift_report(camera='front'):
    """What a monitor of drift reports, written down here: a detector without one reports none."""
    return Report(f'camera {camera} drift', Level.WARN, 'drift of luminance (ks)', f'/{camera}', (
        ('lifecycle', 'active'), ('frames', '128'), ('window', '300'), ('alarms', '2'),
        ('luminance.ks', '0.31'), ('luminance.ks.threshold', '0.12'), ('score.Car.psi', '0'),
        ('score.Car.psi.threshold', 'inf'), ('disagreement', '0.250'), ('disagreement.low', '0.1')))


def raw(node, reports):
    """As they come over /diagnostics."""
    return [RawStatus(f'{node.lstrip("/")}: {report.name}', int(report.level), report.message,
                      report.hardware_id, report.values) for report in reports]


def hybrid(camera='front'):
    """The statuses of a student, a fallback and a teacher."""
    return [*raw('/student', [*detector_reports(camera), drift_report(camera)]),
            *raw('/fallback', fallback_reports(camera)),
            *raw('/teacher', detector_reports(f'{camera}/teacher'))]
