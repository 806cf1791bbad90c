# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parts of the demo that need no ROS: plans, figures, tables, pictures, and what it says without ROS."""

import argparse
import os
from pathlib import Path
import re
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.cli import demo
from kd_perception.cli.main import main
from kd_perception.demo import overview as demo_overview
from kd_perception.demo import plan as demo_plan
from kd_perception.demo import report as demo_report
from kd_perception.demo import timeline as demo_timeline
from kd_perception.demo.answers import Answer, answers_of, detections_of, states_of, verified_figures
from kd_perception.demo.play import failure, output_folder, Playing, playing_limit_s
from kd_perception.demo.run import Child, prepare_environment
from kd_perception.demo.table import table
from kd_perception.demo.wire import DemoRun, PROVENANCE, STUDENT, TEACHER, VERIFIED
from kd_perception.errors import ConfigError, RosInterfaceError
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import DIAGNOSTIC_ARRAY, message_class, serialize
from kd_perception.messages.wire import write_result
from kd_perception.nodes.detector.parameters import DETECTOR_PARAMETERS
from kd_perception.nodes.fallback.parameters import FALLBACK_PARAMETERS, FallbackNodeSettings

LABELS = ('Car', 'Pedestrian')
FACTS = {'input': {'title': 'a drive', 'origin': 'given', 'rendered': False},
         'model': {'name': 'm', 'sha256': 'ab' * 32}}
HYBRID = {'input': FACTS['input'], 'models': {'student': FACTS['model'], 'teacher': None},
          'fallback': {'share': 0.2, 'deadline_ms': 400.0, 'scorer': 'signals', 'enter_threshold': 0.5}}
REPLAY = {'frames': 100, 'undecodable': {'short_data': 1}, 'lost_in_input': 2, 'answers': 0, 'timeouts': 0,
          'wall_s': 9.9, 'input_problems': ['p']}
STATUS = {
    'front': {'processed': '40', 'dropped.superseded': '9', 'total.p50_ms': '12.5', 'total.max_ms': '30.0',
              'inference.p50_ms': '10.0', 'image_age_ms': 'unknown'},
    'rear': {'processed': '45', 'dropped.superseded': '1', 'dropped.short_data': '2'}}


def result(stamp_ns, *names):
    boxes = np.array([[10 * i, 0, 10 * i + 8, 8] for i in range(len(names))])
    found = Detections(boxes, np.full(len(names), 0.9), np.array([LABELS.index(name) for name in names]))
    return write_result(found, LABELS, stamp_ns, 'frame')


def diagnostics(stamp_ns, name, message, **values):
    pair, status = (message_class(f'diagnostic_msgs/msg/{kind}') for kind in ('KeyValue', 'DiagnosticStatus'))
    return serialize(message_class(DIAGNOSTIC_ARRAY)(
        header=messages.header(stamp_ns, 'frame'), status=[status(
            level=0, name=name, message=message, hardware_id='',
            values=[pair(key=key, value=value) for key, value in values.items()])]))


def provenance(stamp_ns, source, sent='no', unverified='', waited_ms='0.010', **values):
    facts = {'source': source, 'reason': 'clear' if source == 'student' else 'band', 'ambiguity': '0.75',
             'sent': sent, 'unverified': unverified, 'waited_ms': waited_ms, 'teacher_ms': 'unknown',
             'deadline_met': 'true'}
    return diagnostics(stamp_ns, 'fallback: camera front', source, **{**facts, **values})


@pytest.fixture
def hybrid_run():
    """Five frames: one clear, one the teacher's, one late, one without a teacher, and one that got lost."""
    source = ['student', 'teacher', 'student-late-teacher', 'student-no-teacher']
    proofs = [provenance(0, source[0]),
              provenance(1, source[1], 'yes', waited_ms='80', teacher_ms='79.5'),
              provenance(2, source[2], 'yes', 'deadline', '401', deadline_met='false'),
              provenance(3, source[3], 'probe', 'teacher_unavailable')]
    results = {
        STUDENT: {'front': [result(stamp, 'Car') for stamp in range(5)]},
        TEACHER: {'front': [result(1, 'Car', 'Pedestrian')]},
        VERIFIED: {'front': [result(1, 'Car', 'Pedestrian') if stamp == 1 else result(stamp, 'Car')
                             for stamp in (0, 1, 2, 3, 3)]},
        PROVENANCE: {'front': proofs}}
    status = {'student': {'front': {'processed': '5'}}, 'fallback': {},
              'teacher': {'front/teacher': {'processed': '2', 'total.p50_ms': '70'}}}
    name = 'fallback: camera front'
    reports = [(0, diagnostics(0, name, 'ERROR: no image yet', state='ERROR')),
               (0, diagnostics(0, name, 'NOMINAL: fine', state='NOMINAL')),
               (2, diagnostics(2, name, 'NOMINAL: fine', state='NOMINAL')),
               (2, diagnostics(2, 'teacher: camera front/teacher', 'fine', state='ERROR')),
               (3, diagnostics(3, name, 'DEGRADED: late', state='DEGRADED')),
               (9, diagnostics(9, name, 'ERROR: no image', state='ERROR'))]
    return DemoRun({**REPLAY, 'frames': 5}, results, {}, reports, status)


def summary(**replay):
    run = DemoRun({**REPLAY, **replay}, {STUDENT: {'front': [b'x'] * 40, 'rear': [b'x'] * 45}}, {}, [],
                  {'detector': STATUS})
    return demo_report.summarise(run, {'Car': 3}, FACTS)


def test_every_frame_is_accounted_for():
    frames = summary()['frames']
    assert frames == {'in': 100, 'processed': 85, 'dropped': {'superseded': 10, 'short_data': 2},
                      'undelivered': 3, 'left_out': {'short_data': 1}, 'lost_in_input': 2}
    assert summary(answers=99, timeouts=1)['frames']['unanswered_in_time'] == 1
    assert summary()['detections_messages'] == 85


def test_latency_by_stage_in_the_order_of_the_stages():
    latency = summary()['latency_ms']
    assert latency == {'front': {'inference': {'p50': 10.0}, 'total': {'p50': 12.5, 'max': 30.0}}, 'rear': {}}
    assert list(latency['front']) == ['inference', 'total']


def test_the_table_tells_what_was_lost():
    text = table(summary(), Path('out'))
    assert '100 published, 85 processed' in text and '10 superseded, 2 short_data, 3 not delivered' in text
    assert 'abababababab' in text and 'RENDERED' not in text and 'timeline' not in text
    rendered = {**summary(), 'input': {**FACTS['input'], 'rendered': True}}
    assert 'RENDERED, NOT FOOTAGE' in table(rendered, Path('out'))


def test_frames_join_by_camera_and_stamp(hybrid_run):
    answers = answers_of(hybrid_run)
    # The fifth result has no verified message; of the two for stamp 3 the first counts.
    assert list(answers) == [('front', stamp) for stamp in range(4)]
    assert set(answers['front', 1].raw) == {STUDENT, TEACHER, VERIFIED, PROVENANCE}
    assert detections_of(answers['front', 1].shown, LABELS)[1] == ('Car', 'Pedestrian')
    assert detections_of(answers['front', 1].shown, LABELS[:1])[0].class_ids.tolist() == [0, 1]
    assert [answer.sent for answer in answers.values()] == [False, True, True, False]
    assert np.isnan(answers['front', 0].number('teacher_ms'))
    assert answers['front', 1].number('waited_ms') == 80
    alone = DemoRun(REPLAY, {STUDENT: {'front': [result(7, 'Car')]}}, {}, [], {})
    answer, = answers_of(alone).values()
    assert answer.shown == answer.raw[STUDENT] and answer.source == '' and not answer.sent


def test_what_the_fallback_answered_is_counted(hybrid_run):
    answers = answers_of(hybrid_run)
    figures = verified_figures(hybrid_run, answers)
    assert [figures[key] for key in ('messages', 'student_results', 'lost', 'doubled')] == [5, 5, 1, 1]
    assert figures['sources'] == {
        'student': 1, 'teacher': 1, 'student-late-teacher': 1, 'student-no-teacher': 1}
    assert figures['reasons'] == {'band': 3, 'clear': 1}
    assert figures['unverified'] == {'deadline': 1, 'teacher_unavailable': 1}
    assert [figures[key] for key in ('sent', 'sent_share', 'probes', 'deadline_met')] == [2, 0.5, 1, 3]
    assert figures['waited_ms']['max'] == 401 and figures['waited_when_sent_ms']['p50'] == 240.5
    assert figures['teacher_ms'] == dict.fromkeys(('p50', 'p95', 'p99', 'max'), 79.5)
    silent = {topic: {'front': []} for topic in (STUDENT, VERIFIED, PROVENANCE)}
    nothing = DemoRun(REPLAY, silent, {}, [], {})
    figures = verified_figures(nothing, {})
    assert figures['messages'] == 0 and figures['waited_ms'] == {} and figures['sent_share'] == 0


def test_states_hold_until_the_next_report(hybrid_run):
    spans = states_of(hybrid_run, 'front', 0, 4)
    assert [(span.start_ns, span.end_ns, span.state) for span in spans] == [
        (0, 3, 'NOMINAL'), (3, 4, 'DEGRADED')]
    assert states_of(hybrid_run, 'rear', 0, 4) == []


def test_the_hybrids_summary_and_table(hybrid_run):
    answers = answers_of(hybrid_run)
    states = {'front': states_of(hybrid_run, 'front', 0, 4)}
    found = demo_report.summarise_hybrid(hybrid_run, answers, states, {'Car': 5}, HYBRID)
    # The teacher was sent two frames and a probe, and has seen two.
    assert found['teacher']['frames'] == {'processed': 2, 'dropped': {}, 'undelivered': 1}
    assert found['frames']['in'] == found['frames']['processed'] == 5
    text = table(found, Path('out'))
    for told in ('5 for 5 results of the student: 1 lost, 1 doubled; 3 within 400 ms', 'none, by design',
                 '2 to the teacher (50.0 %, at most 20 % and a burst), 1 answers used', 'timeline.png',
                 'latency of front: teacher', '1 deadline, 1 teacher_unavailable', 'front: NOMINAL'):
        assert told in text, text
    assert failure(found, Path('logs')).startswith('of 5 results of the student 1 have no verified message')
    found['verified'].update(lost=0, doubled=0)
    assert failure(found, Path('logs')) == ''


def frames(count, sent=()):
    return {('c', stamp): Answer({}, {'source': 'teacher', 'sent': 'yes'} if stamp in sent else {})
            for stamp in range(count)}


@pytest.mark.parametrize('count,tiles', [(0, 0), (1, 1), (8, 8), (9, 9), (100, 9)])
def test_the_overview_shows_frames_at_equal_distances(count, tiles):
    chosen = demo_overview.choose_frames(frames(count))
    assert len(chosen) == tiles
    stamps = sorted(stamp for _, stamp in chosen)
    assert len({b - a for a, b in zip(stamps, stamps[1:])}) <= 2


@pytest.mark.parametrize('sent,shown', [
    ([], 0), ([3], 1), ([0, 99], 2), ([50, 51, 52, 53], 3), (range(0, 100, 7), 3), (range(100), 9)])
def test_a_third_of_the_overview_are_frames_that_were_sent(sent, shown):
    plain, chosen = (demo_overview.choose_frames(frames(100, which)) for which in ((), sent))
    assert len(chosen) == 9 and sum(stamp in set(sent) for _, stamp in chosen) >= shown
    # No more tiles than needed leave the middle of their part.
    assert len(chosen - plain) <= 3


def test_a_tile_of_the_teachers_answer_shows_the_students_boxes_too():
    image = np.full((120, 160, 3), 90, np.uint8)
    shown = Detections(np.array([[20, 20, 60, 60]]), np.array([0.9]), np.array([0]))
    student = Detections(np.array([[90, 70, 1e9, 110]]), np.array([0.5]), np.array([0]))
    plain = demo_overview.tile(image, shown, LABELS)
    assert plain.shape == (480, 640, 3)
    tile = demo_overview.tile(image, shown, LABELS, 'teacher', student)
    assert tile.shape[1] == 640 and tuple(tile[0, 0]) == demo_overview.SOURCE_RGB['teacher'][::-1]
    edge = tile[demo_overview.BORDER_PX + round(70 * 3.9), 380:600].reshape(-1, 3).tolist()
    assert [255, 255, 255] in edge and [0, 0, 0] in edge


def test_captions_say_who_and_why():
    facts = {'source': 'student-no-teacher', 'reason': 'band', 'ambiguity': '0.8312', 'waited_ms': '0.2',
             'unverified': 'share_budget'}
    assert demo_overview.caption(Answer({}, facts), '', 12.3, 1) == (
        '12.3 s  student-no-teacher: band 0.83 (share_budget), 1 object, 0 ms')
    facts.update(source='teacher', unverified='', waited_ms='86.7')
    assert demo_overview.caption(Answer({}, facts), 'front', 12.3, 4) == (
        'front 12.3 s  teacher: band 0.83, 4 objects, 87 ms')
    assert demo_overview.caption(Answer({}, {}), 'front', 1, 4) == 'front 1.0 s: 4 objects'


def test_the_legend_takes_the_rows_that_it_needs():
    counts = dict.fromkeys(demo_overview.SOURCE_RGB, 7)
    assert demo_overview.legend(640, counts).shape[0] > demo_overview.legend(1920, counts).shape[0]
    tile = np.zeros((100, 640, 3), np.uint8)
    assert demo_overview.sheet([tile], ['x'], frames(1)).shape == (124, 640, 3)
    assert demo_overview.sheet([tile], ['x'], frames(1, [0])).shape[0] > 124


def test_the_timeline_is_drawn_whatever_is_missing(hybrid_run, tmp_path):
    answers = answers_of(hybrid_run)
    states = {'front': states_of(hybrid_run, 'front', 0, 4), 'a $ b_': []}
    for enter in (0.5, None):
        settings = {'enter_threshold': enter, 'deadline_ms': 400.0}
        demo_timeline.draw(tmp_path / 't.png', answers, states, 0, settings)
        assert cv2.imread(str(tmp_path / 't.png')).shape[1] == 1320


@pytest.fixture
def spec(tmp_path):
    pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
    from kd_perception.benchmark.rectangle_model import write_rectangle_model
    return str(write_rectangle_model(tmp_path / 'rectangles.onnx'))


def test_the_plans_parameters_are_the_nodes_parameters(spec):
    plan = demo_plan.HybridPlan.load(spec, spec, 0.3, 250.0, 'auto', 1)
    nodes = {node.name: node for node in plan.nodes(['front', 'rear'], lockstep=True)}
    assert list(nodes) == ['student', 'fallback', 'teacher']
    assert nodes['teacher'].parameters['cameras'] == ['front/teacher', 'rear/teacher']
    assert (nodes['student'].nice, nodes['teacher'].nice) == (0, 10)
    known = {parameter.name for parameter in DETECTOR_PARAMETERS} | {'use_sim_time'}
    assert set(nodes['student'].parameters) | set(nodes['teacher'].parameters) <= known
    given = {key: value for key, value in nodes['fallback'].parameters.items() if key != 'use_sim_time'}
    values = {parameter.name: parameter.default for parameter in FALLBACK_PARAMETERS}
    assert set(given) <= set(values)
    settings = FallbackNodeSettings.from_values({**values, **given})
    assert settings.fallback.gate.share == 0.3 and settings.fallback.arbiter.deadline_ns == 250_000_000
    assert plan.labels == ('Car', 'Pedestrian', 'Cyclist') and plan.lockstep_timeout_s > 0.25
    alone = demo_plan.HybridPlan.load(spec, None, 0.0, 250.0, 'band', 1).nodes(['front'], lockstep=False)
    assert [node.name for node in alone] == ['student', 'fallback']
    assert alone[1].parameters['teacher'] is False and alone[1].parameters['audit_share'] == 0


def arguments(*texts):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(texts)


@pytest.mark.parametrize('texts,told', [
    (['--share', '1.5'], '--share is 1.5, expected 0 to 1'), (['--share', 'nan'], '--share is nan'),
    (['--deadline-ms', '0'], '--deadline-ms is 0'), (['--threads', '-1'], '--threads is -1'),
    (['--scorer', 'guess'], "scorer 'guess'"), (['--scorer', 'learned'], 'holds no learned gate'),
    (['--model', 'm.onnx', '--teacher', 'none'], '--model runs one model alone; --teacher'),
    (['--model', 'm.onnx', '--deadline-ms', '9'], '--deadline-ms is for the hybrid')])
def test_options_that_cannot_be_meant_are_refused(spec, texts, told):
    more = [] if '--model' in texts else ['--student', spec, '--teacher', 'none']
    with pytest.raises(ConfigError) as error:
        demo._plan(arguments(*texts, *more))
    assert told in str(error.value)


def test_an_earlier_demo_is_replaced_and_nothing_else(tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    for name in (*demo_report.FILES[:3], 'logs'):
        (out / name).touch()
    with output_folder(out) as folder:       # interrupted before its summary
        folder.make_room(True, alone=False)
    assert [item.name for item in out.iterdir()] == ['logs']
    (out / 'thesis.txt').touch()
    with pytest.raises(ConfigError, match='not an earlier demo'):
        with output_folder(out) as folder:
            folder.make_room(True, alone=False)
    assert sorted(item.name for item in out.iterdir()) == ['logs', 'thesis.txt']


def test_in_lockstep_each_frame_may_wait_for_the_teacher():
    source = SimpleNamespace(frame_count=10)
    assert playing_limit_s(source, 0.0, Playing(lockstep=True)) >= 10
    assert playing_limit_s(source, 0.0, Playing(lockstep=True, deadline_ms=3000)) == 40
    assert playing_limit_s(source, 8.0, Playing(rate=2)) == 4


def test_without_ros_it_says_what_to_do(monkeypatch, tmp_path, capsys):
    for name in ('AMENT_PREFIX_PATH', 'ROS_DISTRO', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_DOMAIN_ID',
                 'FASTDDS_BUILTIN_TRANSPORTS'):
        monkeypatch.setenv(name, '1')  # so that nothing of this test stays in the environment
    monkeypatch.setitem(sys.modules, 'rclpy', None)
    with pytest.raises(RosInterfaceError, match='source a ROS 2 install, or use `make demo`'):
        prepare_environment()
    assert main(['demo', '--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert error.startswith('kd_perception demo: error: ROS 2 is not usable') and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


SAYS_ITS_NICENESS = """
import os
print(os.nice(0))
print(open('/proc/self/autogroup').read().strip() if os.path.exists('/proc/self/autogroup') else '')
"""


def test_a_niced_node_is_nice_to_other_sessions_too(tmp_path, monkeypatch):
    """Linux weighs the processes of a session among themselves, and sessions by the niceness of each."""
    (tmp_path / 'says_its_niceness.py').write_text(SAYS_ITS_NICENESS)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    child = Child('says_its_niceness', 'node', {}, tmp_path / 'logs', nice=3)
    child.process.wait(60)
    own, autogroup = child.output().split('\n')[:2]
    child.stop()
    assert int(own) - os.nice(0) == 3
    # Empty where the kernel has no autogroups; but for root, one may be changed in each 0.1 s of the machine.
    if autogroup and os.geteuid() == 0:
        assert re.search(r'nice (-?\d+)$', autogroup).group(1) == '3', autogroup
