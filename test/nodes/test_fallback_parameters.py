# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameter table of fallback_node: its checks, and what it becomes. Needs no ROS."""

from pathlib import Path

import pytest
import yaml

from kd_perception.errors import RosInterfaceError
from kd_perception.fallback.arbiter import ArbiterSettings
from kd_perception.fallback.camera_fallback import FallbackSettings
from kd_perception.fallback.scores import SIGNALS
from kd_perception.nodes.fallback.parameters import (
    FALLBACK_PARAMETERS,
    FallbackNodeSettings,
    RESERVE_NS,
    settings_of_defaults,
)
from kd_perception.nodes.shared.parameters import check_values

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'reference' / 'fallback_node.md'
DEFAULTS = {spec.name: spec.default for spec in FALLBACK_PARAMETERS}
MS, S = 1_000_000, 1_000_000_000


def settings(**changes):
    return FallbackNodeSettings.from_values({**DEFAULTS, **changes})


def test_every_signal_can_be_the_scorer():
    assert set(SIGNALS) < set(next(s for s in FALLBACK_PARAMETERS if s.name == 'scorer').choices)


def test_hybrid_config_file_changes_what_exists_to_what_is_allowed():
    from kd_perception.nodes.detector.parameters import DETECTOR_PARAMETERS
    parts = yaml.safe_load((ROOT / 'config' / 'hybrid.yaml').read_text())
    tables = {'/**/student': DETECTOR_PARAMETERS, '/**/teacher': DETECTOR_PARAMETERS,
              '/**/fallback': FALLBACK_PARAMETERS}
    assert set(parts) == set(tables)
    for name, table in tables.items():
        values = parts[name]['ros__parameters']
        defaults = {spec.name: spec.default for spec in table}
        assert set(values) <= set(defaults) and check_values(table, values) == ''
        assert all(type(values[key]) is type(defaults[key]) for key in values), 'ROS minds 1 and 1.0'


def test_defaults_are_those_of_the_fallback_itself():
    """Who uses the library without ROS gets the same fallback; only a node has timers that come late."""
    node = settings_of_defaults()
    own = FallbackSettings(arbiter=ArbiterSettings(reserve_ns=RESERVE_NS))
    assert node.complete(own.gate.enter, own.merge.student_score) == own
    assert node.cameras == ('camera',) and node.teacher_labels == () and node.teacher_rate_hz is None
    assert node.autostart and not node.compressed and not node.reliable and node.teacher_reliable
    assert node.enter is None and node.score is None


@pytest.mark.parametrize('changes,reason', [
    (dict(cameras=[]), 'cameras'),
    (dict(cameras=['front', 'front']), 'names a camera twice'),
    (dict(cameras=['a b']), 'is not a topic namespace'),
    (dict(share=0.1, audit_share=0.2), r'audit_share: 0.2 is above share \(0.1\), of which it is part'),
    (dict(share=0.0), 'audit_share: 0.01 is above share'),
    (dict(student_model=''), 'student_model: is empty, expected the path of an ONNX file or a name'),
    (dict(teacher_labels=['Car', 'Van', 'Car']), 'teacher_labels: .* names a class twice'),
    (dict(share=1.5), 'share: 1.5 is out of bounds, expected 0 to 1'),
    (dict(deadline_ms=float('nan')), 'deadline_ms: nan is not a finite number'),
    (dict(deadline_ms=0.5), 'out of bounds'),
    (dict(burst=0.5), 'out of bounds'),
    (dict(seed=-1), 'out of bounds'),
    (dict(enter_threshold=-0.5), 'enter_threshold: -0.5 is out of bounds, expected 0 to 1 or -1'),
    (dict(scorer='guess'), "scorer: 'guess' is unknown"),
    (dict(student_topic='other'), 'is unknown, expected one of'),
    (dict(teacher=1), 'teacher: expected true or false'),
])
def test_refusals_name_the_parameter_and_what_was_expected(changes, reason):
    with pytest.raises(RosInterfaceError, match=f'^parameter .*{reason}') as caught:
        settings(**changes)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('spec', [s for s in FALLBACK_PARAMETERS if s.minimum is not None],
                         ids=lambda spec: spec.name)
def test_every_bound_of_the_table_is_accepted_by_what_it_becomes(spec):
    """A value that the table lets through must not raise behind it, where nobody answers for it."""
    for value in (spec.minimum, spec.maximum, spec.model_default):
        if value is not None:
            value = int(value) if spec.type == 'int' else float(value)
            changes = {spec.name: value}
            if spec.name == 'share':
                changes['audit_share'] = 0.0
            if spec.name == 'audit_share':
                changes['share'] = 1.0
            node = settings(**changes)
            node.complete(0.5, 0.4).breaker_settings()
            node.complete(-3.0, 0.4), node.complete(1.0, 0.0)


def test_values_reach_what_they_set():
    node = settings(
        deadline_ms=80.5, max_pending=7, share=0.5, audit_share=0.25, burst=2.0, leave_frames=3,
        teacher_timeout_s=1.5, teacher_misses=4, probe_interval_s=0.25, probe_successes=3,
        camera_silence_s=0.5, student_silence_s=0.75, hold_s=2.0, merge_policy='union', keep_score=0.9,
        max_detections=9, teacher=False, teacher_rate_hz=3.0, teacher_labels=['', 'Car', 'Van'],
        image_transport='compressed', image_reliability='reliable', teacher_reliability='best_effort')
    f = node.fallback
    assert (f.arbiter.deadline_ns, f.arbiter.max_pending) == (80_500_000, 7)
    assert (f.gate.share, f.gate.audit_share, f.gate.burst, f.gate.leave_frames) == (0.5, 0.25, 2.0, 3)
    b = f.breaker_settings()
    assert (b.silence_ns, b.misses, b.window, b.successes) == (1500 * MS, 4, 10, 3)
    assert (b.probe_interval_ns, b.probe_interval_max_ns, b.probe_deadline_ns) == (
        250 * MS, 2500 * MS, 80_500_000)
    assert (f.state.camera_silence_ns, f.state.student_silence_ns, f.state.hold_ns) == (
        500 * MS, 750 * MS, 2 * S)
    assert (f.merge.policy, f.merge.keep_score, f.merge.max_detections) == ('union', 0.9, 9)
    assert f.teacher is False and node.teacher_rate_hz == 3.0 and node.teacher_labels == ('Car', 'Van')
    assert node.compressed and node.reliable and not node.teacher_reliable


@pytest.mark.parametrize('changes,enter,leave', [
    ({}, 0.6, 0.48),                                    # the scorer's own, and a share of it
    (dict(enter_threshold=0.3), 0.3, 0.24),
    (dict(enter_threshold=0.0), 0.0, 0.0),              # 0 is a value, not "the scorer's own"
    (dict(leave_share=1.0), 0.6, 0.6),
])
def test_complete_takes_the_scorers_threshold_where_none_is_given(changes, enter, leave):
    gate = settings(**changes).complete(0.6, 0.4).gate
    assert (gate.enter, gate.leave) == (enter, pytest.approx(leave))


def test_complete_with_a_negative_threshold_and_the_students_score():
    gate = settings().complete(-2.0, 0.4).gate
    assert gate.leave <= gate.enter == -2.0, 'a share of a negative threshold would lie above it'
    assert settings().complete(0.5, 0.4).merge.student_score == 0.4
    assert settings(score_threshold=0.0).complete(0.5, 0.4).merge.student_score == 0.0
    assert settings(score_threshold=0.7).complete(0.5, 0.4).merge.student_score == 0.7
