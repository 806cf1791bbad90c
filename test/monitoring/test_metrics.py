# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From diagnostics to metrics: what the real monitors say, the rule for all else, what bad input costs."""

import collections
import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from kd_perception.levels import Level, Report
from kd_perception.monitoring.board import DiagnosticsBoard, RawStatus
from kd_perception.monitoring.metric_table import (
    CAMERA_STATES,
    COMMON,
    INFOS,
    labels_of,
    LIFECYCLE_STATES,
    PREFIX,
    TABLE,
)
from kd_perception.monitoring.metrics import MetricsExporter, samples_of
from real_reports import COUNTS, detector_reports, drift_report, fallback_reports, hybrid, raw

S = 1_000_000_000


def values(samples):
    """Return {name without the prefix and its labels but node and camera, as text: value}."""
    found = {}
    for sample in samples:
        own = {key: text for key, text in sample.labels if key not in ('node', 'camera', 'component')}
        key = sample.name.removeprefix(PREFIX) + ''.join(f' {k}={v}' for k, v in own.items())
        assert key not in found
        found[key] = sample.value
    return found


def exported(exporter):
    return {(family.name, sample.labels): sample.value
            for family in exporter.families() for sample in family.samples}


def value(exporter, name, **labels):
    return exported(exporter)[PREFIX + name, tuple(sorted(labels.items()))]


@pytest.fixture
def clock():
    return [1000 * S]


@pytest.fixture
def exporter(clock):
    return MetricsExporter(DiagnosticsBoard(lambda: clock[0], 5 * S, 60 * S), 5000)


def test_a_camera_of_a_detector():
    report = detector_reports(images=5)[1]
    refused = []
    samples = samples_of('/student', report, refused.append)
    assert all(dict(s.labels)['camera'] == 'front' and dict(s.labels)['node'] == '/student' for s in samples)
    found, told = values(samples), dict(report.values)
    expected = {
        'camera_image_rate_hertz': 10.0, 'camera_processed_rate_hertz': float(told['processed_rate_hz']),
        'camera_image_age_seconds': 0.004, 'camera_silent_seconds': 0.0, 'camera_images_received_total': 5,
        'camera_images_processed_total': 2, 'camera_detections_total': 10,
        'camera_images_dropped_total reason=superseded': 3, 'camera_publishers': 1,
        'camera_images_lost_total': 2, 'camera_qos_mismatches_total': 0,
        'camera_latency_seconds quantile=0.5 stage=inference': 0.015,
        'camera_latency_seconds quantile=1 stage=inference': 0.020,
        'camera_latency_seconds quantile=0.99 stage=total': 0.030}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert {key: found[f'camera_state state={key}'] for key in CAMERA_STATES} == {
        **dict.fromkeys(CAMERA_STATES, 0), 'active': 1}
    # Nothing else: three stages with four quantiles.
    assert len(found) == 11 + len(CAMERA_STATES) + 12 and not refused


def test_a_model():
    found = values(samples_of('/student', detector_reports()[0], pytest.fail))
    assert found == {
        'model_inference_errors_total': 1, 'model_load_seconds': 1.5, 'model_threads': 2,
        'model_allow_spinning': 0,
        f'model_info input=96x96 model=rectangles provider=cpu sha256={"12" * 32} version=1.0': 1}


def test_a_camera_of_the_fallback():
    samples = samples_of('/fallback', fallback_reports()[2], pytest.fail)
    found = values(samples)
    expected = {
        'fallback_state state=DEGRADED': 1, 'fallback_state state=NOMINAL': 0,
        'fallback_state state=ERROR': 0,
        'fallback_state_seconds': 5, 'fallback_state_changes_total': 4, 'fallback_image_rate_hertz': 2,
        'fallback_student_rate_hertz': 2, 'fallback_output_rate_hertz': 2,
        'fallback_teacher_share_ratio': 0.5, 'fallback_carried_share_ratio': 0,
        'fallback_carried_total event=frames': 30, 'fallback_carried_total event=lost': 6,
        'fallback_latency_seconds quantile=0.95 stage=waited': 0.008,
        'fallback_latency_seconds quantile=0.5 stage=teacher': 0.040,
        'fallback_worst_lateness_seconds': 0.002, 'fallback_inputs_dropped_total reason=bad_image': 1,
        'fallback_image_publishers': 1, 'fallback_images_lost_total': 2, 'fallback_qos_mismatches_total': 0,
        'fallback_frames_total': 100, 'fallback_frames_ambiguous_total': 30, 'fallback_frames_sent_total': 20,
        'fallback_frames_audited_total': 2, 'fallback_frames_probed_total': 1,
        'fallback_frames_refreshed_total': 3, 'fallback_frames_sent_later_total': 2,
        'fallback_budget_saved_ratio': 0.5,
        'fallback_frames_denied_total reason=share_budget': 7, 'fallback_student_results_total': 100,
        'fallback_outputs_total': 99, 'fallback_deadlines_missed_total': 3, 'fallback_boxes_cut_total': 4,
        'fallback_stamps_not_rising_total': 1, 'fallback_outputs_by_source_total source=student': 80,
        'fallback_outputs_by_source_total source=student-no-teacher': 10,
        'fallback_outputs_unverified_total reason=no_image': 5,
        'fallback_teacher_answers_total verdict=accepted': 18}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert len(found) == len(expected) + 6, 'and the six other percentiles; the breaker is told elsewhere'
    assert len([key for key in COUNTS if not key.startswith('breaker')]) == 19
    assert {dict(s.labels)['camera'] for s in samples} == {'front'}
    # Not active: no state, and the totals go on.
    found = values(samples_of('/fallback', fallback_reports(active=False)[2], pytest.fail))
    assert not [key for key in found if 'state' in key] and found['fallback_frames_total'] == 100


def test_teacher_and_recorder():
    teacher, recorder, _ = fallback_reports()
    found = values(samples_of('/fallback', teacher, pytest.fail))
    assert found[f'fallback_info scorer=band student=tiny student_sha256={"ab" * 32}'] == 1
    assert {key: found[f'breaker_state state={key}'] for key in ('closed', 'open', 'half_open')} == {
        'closed': 1, 'open': 0, 'half_open': 0}
    assert found['breaker_events_total event=requests'] == found['breaker_events_total event=answered'] == 1
    assert found['breaker_events_total event=opened'] == 0
    assert values(samples_of('/fallback', recorder, pytest.fail)) == {
        'recorder_frames_offered_total': 9, 'recorder_frames_written': 5, 'recorder_frames_waiting': 1,
        'recorder_written_bytes_total': 4096, 'recorder_recordings_total': 2,
        'recorder_recordings_deleted_total': 1, 'recorder_stored_bytes': 2048,
        'recorder_frames_dropped_total reason=queue_full': 3,
        'recorder_frames_dropped_total reason=write_error': 0}


def test_drift():
    samples = samples_of('/student', drift_report(), pytest.fail)
    assert all(dict(sample.labels)['camera'] == 'front' for sample in samples)
    assert values(samples) == {
        'drift_frames': 128, 'drift_window_frames': 300, 'drift_alarms_total': 2,
        'drift_statistic quantity=luminance test=ks': 0.31,
        'drift_threshold quantity=luminance test=ks': 0.12,
        'drift_statistic quantity=score.Car test=psi': 0,      # no threshold yet
        'drift_disagreement': 0.25, 'drift_disagreement key=low': 0.1}


@pytest.mark.parametrize('component, key, text, name, labels, expected', [
    ('camera front drift', 'score', '0.25', 'drift_score', {'camera': 'front'}, 0.25),
    ('drift', 'Mean-Shift', '-3', 'drift_mean_shift', {}, -3.0),
    ('wheel', 'slip.left', '0.1', 'wheel_slip', {'key': 'left'}, 0.1),
    ('drift', 'window_s', '60', 'drift_window_seconds', {}, 60.0),
    ('drift', 'wait_ms', '250', 'drift_wait_seconds', {}, 0.25),
    ('drift', 'lag.mean_ms', '250', 'drift_lag_seconds', {'key': 'mean'}, 0.25),
    ('drift', 'rate_hz', '7.5', 'drift_rate_hertz', {}, 7.5),
    ('drift', 'frames_total', '12', 'drift_frames_total', {}, 12.0),
    ('drift', 'dropped.too_dark', '4', 'drift_dropped_total', {'reason': 'too_dark'}, 4.0),
    ('drift', 'update.p95_ms', '3', 'drift_latency_seconds', {'stage': 'update', 'quantile': '0.95'}, 0.003),
    ('wheel', 'TOTAL', '12', 'wheel_total', {}, 12.0),
    ('drift', 'ready', 'true', 'drift_ready', {}, 1.0), ('drift', 'state', 'warming up', 'drift_state',
                                                         {'state': 'warming up'}, 1.0),
    ('', 'temperature', '41.5', 'node_temperature', {}, 41.5),
    ('camera front', 'gain', '2', 'camera_value_gain', {'camera': 'front'}, 2.0),
    ('model', 'new_figure', '2', 'model_new_figure', {}, 2.0)])
def test_the_rule_for_values_without_a_name(component, key, text, name, labels, expected):
    sample, = samples_of('/n', Report(component, Level.OK, '', values=((key, text),)), pytest.fail)
    assert sample.name == PREFIX + name and sample.value == pytest.approx(expected)
    assert dict(sample.labels) == {'node': '/n', 'component': component, **labels}
    assert sample.type == ('counter' if name.endswith('_total') else 'gauge')


@pytest.mark.parametrize('component, key, text, reason', [
    ('drift', 'score', 'nan', 'not_finite'), ('drift', 'score', 'inf', None),
    ('recorder', 'offered', 'inf', None), ('drift', 'score', '-Infinity', 'not_finite'),
    ('drift', 'score', '1e999', 'not_finite'), ('drift', 'score', '0.1.2', None),
    ('drift', 'score', '1_0', None), ('drift', 'score', '\u0663', None),
    ('drift', 'note', 'all is well', None), ('drift', 'score', 'unknown', None),
    ('drift', 'frames_total', '-1', 'bad_number'), ('drift', 'state', 'x' * 41, None),
    ('teacher', 'breaker', 'ajar', 'unknown_state'), ('recorder', 'offered', '-1', 'bad_number'),
    ('recorder', 'offered', 'nine', 'bad_number'), ('recorder', 'waiting', 'NaN', 'not_finite'),
    ('recorder', 'waiting', 'unknown', None), ('node', 'up', '1', 'name_taken'),
    ('fallback', 'frames_total', '1', 'name_taken'), ('model', 'info', '1', 'name_taken')])
def test_what_is_no_figure_gives_no_metric(component, key, text, reason):
    refused = []
    assert samples_of('/n', Report(component, Level.OK, '', values=((key, text),)), refused.append) == []
    assert refused == ([reason] if reason else [])


def test_nodes_levels_and_lifecycle(exporter, clock):
    exporter.hear(hybrid())
    clock[0] += 2 * S
    assert value(exporter, 'node_up', node='/student') == 1
    assert value(exporter, 'node_report_age_seconds', node='/student') == 2
    assert value(exporter, 'status_level', node='/fallback', component='camera front') == Level.WARN
    assert value(exporter, 'lifecycle_state', node='/teacher', state='active') == 1
    assert value(exporter, 'lifecycle_state', node='/teacher', state='inactive') == 0
    assert value(exporter, 'camera_images_received_total', node='/teacher', camera='front/teacher') == 3


def test_of_a_silent_node_only_its_silence_is_exported(exporter, clock):
    exporter.hear(hybrid())
    clock[0] += 6 * S
    exporter.hear(raw('/student', detector_reports()))
    found = exported(exporter)
    of_teacher = {name: v for (name, labels), v in found.items() if ('node', '/teacher') in labels}
    assert of_teacher == {f'{PREFIX}node_up': 0, f'{PREFIX}node_report_age_seconds': 6,
                          f'{PREFIX}status_level': Level.STALE}
    assert value(exporter, 'node_up', node='/student') == 1
    assert (PREFIX + 'camera_images_received_total', (('camera', 'front'), ('node', '/student'))) in found
    exporter.hear(raw('/teacher', detector_reports('front/teacher')))
    assert value(exporter, 'node_up', node='/teacher') == 1


def test_a_counter_begins_anew_with_its_node(exporter):
    """As Prometheus wants it: it takes a counter that falls for one that began at zero again."""
    for images in (7, 9, 2):
        exporter.hear(raw('/student', detector_reports(images=images)))
        assert value(exporter, 'camera_images_received_total', node='/student', camera='front') == images
    family = next(f for f in exporter.families() if f.name == PREFIX + 'camera_images_received_total')
    assert family.type == 'counter'


def test_what_was_refused_is_counted_once_a_message(exporter):
    exporter.hear([RawStatus('a: x', 9),
                   RawStatus('a: recorder', 0, values=[('waiting', 'NaN'), ('offered', '?')])])
    for _ in range(3):
        refused = {labels[0][1]: count for (name, labels), count in exported(exporter).items()
                   if name.endswith('refused_total')}
        assert refused == {'bad_level': 1, 'bad_number': 1, 'not_finite': 1}
    assert value(exporter, 'diagnostics_messages_total') == 1


def test_series_are_bounded_over_all_time_and_the_first_ones_stay(clock):
    exporter = MetricsExporter(DiagnosticsBoard(lambda: clock[0], 5 * S, 10 * S), 200)
    exporter.hear(raw('/student', detector_reports()))
    before = {key for key in exported(exporter) if 'refused' not in key[0]}
    seen = set()
    for i in range(120):
        clock[0] += S
        exporter.hear([RawStatus(f'n{i}: w{i}', 0, values=[(f'k{i}', '1'), (f'dropped.{i}', '1')])])
        exporter.hear(raw('/student', detector_reports()))
        seen |= set(exported(exporter))
    assert before <= set(exported(exporter))
    # With the node's own series, a few for each of the claimed components.
    assert len(seen) < 3 * 200 and value(exporter, 'exporter_series') == 200
    assert value(exporter, 'diagnostics_refused_total', reason='too_many_series') > 100


def test_names_that_become_the_same_are_exported_once(exporter):
    exporter.hear([RawStatus('a: x', 0, values=[('a-b', '1'), ('a_b', '2')]),
                   RawStatus('a: y', 0, values=[('n_total', '1'), ('n', '2')])])
    names = collections.Counter(name for name, _ in exported(exporter))
    assert names[f'{PREFIX}x_a_b'] == 1 and names[f'{PREFIX}y_n_total'] == 1 and not names[f'{PREFIX}y_n']
    assert value(exporter, 'diagnostics_refused_total', reason='name_taken') == 2


texts = st.text(max_size=12) | st.sampled_from(
    ['nan', '-inf', '1', '-0', '1e5', 'true', 'unknown', 'NOMINAL', 'active', '9' * 400, '1.',
     '\x00', '"\\\n'])
keys = st.text(max_size=12) | st.sampled_from(
    ['state', 'lifecycle', 'rate_hz', 'processed_rate_hz', 'output_rate_hz', 'dropped.x', 'a.p50_ms',
     'a.p51_ms', 'gate.sent', 'breaker', 'breaker.x', 'x_total', 'name', 'offered', '.', '_ms'])
statuses = st.builds(
    RawStatus, st.text(max_size=8) | st.sampled_from(
        ['a: camera c', 'a: camera c d', 'a: model', 'b: teacher', 'b: recorder', 'b: node', ': ', 'a: ']),
    st.integers(0, 255) | st.integers(0, 3), st.text(max_size=8), st.text(max_size=8),
    st.lists(st.tuples(keys, texts), max_size=8))


@settings(max_examples=40)
@given(st.lists(st.lists(statuses, max_size=4), max_size=3))
def test_whatever_is_said_the_metrics_are_sound(messages):
    exporter = MetricsExporter(DiagnosticsBoard(lambda: 0, 1, 2), 100)
    for message in messages:
        exporter.hear(message)
        bases = []
        for family in exporter.families():
            assert re.fullmatch(PREFIX + '[a-z0-9_]+', family.name) and family.type in ('counter', 'gauge')
            assert (family.type == 'counter') == family.name.endswith('_total')
            bases.append(family.name.removesuffix('_total'))
            labels = [sample.labels for sample in family.samples]
            assert len(labels) == len(set(labels)) > 0
            for sample in family.samples:
                assert math.isfinite(sample.value) and (family.type == 'gauge' or sample.value >= 0)
                assert all(re.fullmatch('[a-z0-9_]+', key) for key, _ in sample.labels)
        assert bases == list(dict.fromkeys(bases)), 'one family each'


def test_the_table_is_sound():
    names = [*COMMON, *(spec.name for spec in TABLE), *(name for _, name, _, _ in INFOS)]
    assert len(set(names)) == len(names)
    assert len({name.removesuffix('_total') for name in names}) == len(names)
    for spec in TABLE:
        assert re.fullmatch('[a-z][a-z0-9_]*', spec.name) and spec.description.endswith('.')
        assert (spec.type == 'counter') == spec.name.endswith('_total')
        assert bool(spec.states) == (spec.type == 'states')
        assert '|' not in spec.description
        # Base units, as the name says.
        assert spec.key.endswith('_ms') <= (spec.name.endswith('_seconds') and spec.scale == 1e-3)
        assert spec.key.endswith('_hz') <= spec.name.endswith('_hertz')


def test_real_reports_fill_the_whole_table_with_the_labels_that_it_names(exporter):
    exporter.hear(hybrid())
    found = {}
    for name, labels in exported(exporter):
        found.setdefault(name.removeprefix(PREFIX), set()).add(tuple(key for key, _ in labels))
    for spec in TABLE:
        assert found[spec.name] == {labels_of(spec)}, spec.name
    for name, (_, labels, _) in COMMON.items():
        if name != 'diagnostics_refused_total':     # nothing was
            assert found[name] == {tuple(sorted(labels))}
    assert not exporter.board.refused
    assert set(LIFECYCLE_STATES) >= {'unconfigured', 'inactive', 'active', 'finalized'}
