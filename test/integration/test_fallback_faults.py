# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""fallback_node while its teacher, its student or its camera fails: no answer is lost, doubled or late."""

import signal

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from detector_client import DetectorClient, image_message, next_header
from hybrid_client import (
    AMBIGUOUS,
    AMBIGUOUS_IMAGE,
    ANSWER,
    BEHAVIOURS,
    check_promise,
    CLEAR,
    CLEAR_IMAGE,
    found_in,
    HybridClient,
    IMAGE,
    PARAMETERS,
    ros_arguments,
    rounded,
    same_but,
    sources,
    start_fallback,
    STUDENT_LABELS,
    TEACHER_LABELS,
    WRONG_LABELS,
)
from hybrid_scenarios import (
    both_answer,
    camera_stops_and_returns,
    ERROR,
    student_dies_and_returns,
    teacher_dies_and_returns,
    wait_source,
    wait_state,
    WARN,
)
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from kd_perception.nodes.fallback.parameters import RESERVE_NS

DEADLINE_MS = PARAMETERS['deadline_ms']
LONG_MS = 10_000.0      # a deadline that no answer misses, however loaded the computer is
# Longer than a real detector's answer takes on a loaded computer, mostly.
REAL_DEADLINE_MS = 500.0


@pytest.fixture
def fallback(probe):
    return DetectorClient(probe, '/fallback')


@pytest.fixture
def start_part(start, tmp_path):
    """Start a real detector as `student` or `teacher`, with class names of its own."""
    models = {labels: write_rectangle_model(tmp_path / f'{labels[0]}.onnx', labels=labels)
              for labels in (STUDENT_LABELS, TEACHER_LABELS, WRONG_LABELS)}

    def start_detector(name, labels):
        cameras = ['camera'] if name == 'student' else ['camera/teacher']
        return start('kd_perception.nodes.detector_node', *ros_arguments(
            model=models[labels], cameras=cameras, image_reliability='reliable', threads=1),
            '-r', f'__node:={name}')
    return start_detector


def totals(fallback, prefix):
    """Return the counts of the camera that are not 0, by what follows the prefix."""
    return {key[len(prefix):]: int(value) for key, value in fallback.values('camera camera').items()
            if key.startswith(prefix) and value != '0'}


UNUSABLE = ('wrong_frame_id', 'unknown_class', 'nan', 'infinite_score', 'negative_size', 'rotated',
            'huge_count', 'noise', 'too_large')


def test_a_teacher_that_answers_badly_or_late(probe, start, model, fallback):
    """Each kind of bad answer costs its own frame the teacher, and nothing else."""
    process = start_fallback(start, model, deadline_ms=LONG_MS, teacher_misses=10, teacher_timeout_s=60.0,
                             camera_silence_s=60.0)
    client = HybridClient(probe)
    client.wait_ready()
    teacher = client.teacher
    for behaviour in UNUSABLE:
        teacher.behaviour = behaviour
        answer = client.ask(AMBIGUOUS)
        assert (answer.facts['source'], answer.facts['unverified']) == (
            'student-no-teacher', 'unusable_answer'), behaviour
        assert found_in(answer.result) == rounded(AMBIGUOUS[:1]), behaviour
        teacher.behaviour = 'answer'
        assert client.ask(AMBIGUOUS).facts['source'] == 'teacher', f'after {behaviour}'
    teacher.behaviour = 'twice'
    assert client.ask(AMBIGUOUS).facts['source'] == 'teacher'
    check_promise(client, LONG_MS)
    client.forget()
    fallback.set_parameters(deadline_ms=DEADLINE_MS)
    # Of these the node cannot know which frame they belong to, or they come when it has left.
    for behaviour, delay_s in (('wrong_stamp', 0.0), ('no_header', 0.0), ('silent', 0.0), ('answer', 0.45)):
        teacher.behaviour, teacher.delay_s = behaviour, delay_s
        answer = client.ask(AMBIGUOUS)
        assert (answer.facts['source'], answer.facts['unverified']) == (
            'student-late-teacher', 'deadline'), behaviour
        assert DEADLINE_MS - float(answer.facts['waited_ms']) <= RESERVE_NS / 1e6, 'as long as it may'
        assert found_in(answer.result) == rounded(AMBIGUOUS[:1])
    status = fallback.wait_status('camera camera', lambda s, v: s.level == WARN and v.get(
        'arbiter.answer.late') == '1', 'the counts')
    assert 'unusable input' in status.message and status.message.startswith('NOMINAL')
    counts = totals(fallback, 'arbiter.answer.')
    assert counts['unusable'] == len(UNUSABLE) and counts['late'] == 1
    assert counts['duplicate'] == 1 and counts['unknown'] == 1
    assert totals(fallback, 'dropped.') == {'bad_teacher_answer': len(UNUSABLE) + 1}
    check_promise(client, DEADLINE_MS)
    # Always too late: DEGRADED says so; quick again: NOMINAL.
    fallback.set_parameters(teacher_misses=3)
    wait_state(client, fallback, 'DEGRADED', 'too late')
    wait_source(client, 'student-no-teacher', 'teacher_unavailable')
    teacher.delay_s = 0.0
    wait_state(client, fallback, 'NOMINAL')
    wait_source(client, 'teacher')
    # Always unusable, likewise.
    teacher.behaviour = 'unknown_class'
    wait_state(client, fallback, 'DEGRADED', 'cannot be used')
    teacher.behaviour = 'answer'
    wait_state(client, fallback, 'NOMINAL')
    client.wait_answered()
    check_promise(client, DEADLINE_MS)
    assert process.alive and 'Traceback' not in process.log
    assert "class 'cat' is none of Car, Pedestrian, Cyclist: the wrong model" in process.log


def test_a_student_that_says_garbage(probe, start, model, fallback):
    """What cannot be believed goes to the teacher; without one, what is left of it, and a warning."""
    process = start_fallback(start, model, deadline_ms=LONG_MS, camera_silence_s=60.0)
    client = HybridClient(probe)
    client.wait_ready()
    kinds = ('nan', 'infinite_score', 'negative_size', 'rotated', 'unknown_class', 'huge_count', 'noise',
             'too_large')
    for kind in kinds:
        for teacher in ('answer', 'silent'):
            client.teacher.behaviour = teacher
            header = next_header()
            message, = BEHAVIOURS[kind](header)
            if teacher == 'silent':
                fallback.set_parameters(share=0.0)
            answer = client.ask(same_but(message, header=header) if not isinstance(message, bytes)
                                else message, header=header)
            fallback.set_parameters(share=1.0)
            assert answer.facts['reason'] == 'bad_student_result', kind
            if teacher == 'answer':
                assert answer.facts['source'] == 'teacher', kind
                assert found_in(answer.result) == rounded(ANSWER)
            else:
                assert answer.facts['unverified'] == 'share_budget' and len(answer.result.detections) <= 1
        assert client.ask(CLEAR).facts['source'] == 'student', f'after {kind}'
    # Where there is no header there is nobody to answer to; a stamp that no header can hold is none.
    image = client.publish_image()
    raw = bytearray(serialize_message(BEHAVIOURS['answer'](image)[0]))
    raw[4:12] = b'\xff\xff\xff\x7f\xff\xff\xff\xff'
    for garbage in (b'\0\1\0\0' + b'\xff' * 60, b'\0\1\0\0', bytes(raw)):
        client.student.publish(garbage)
    client.teacher.behaviour = 'answer'
    assert client.ask(AMBIGUOUS).facts['source'] == 'teacher'
    status = fallback.wait_status(
        'camera camera', lambda s, v: int(v.get('dropped.bad_student_result', 0)) >= 2 * len(kinds) + 3,
        'the counts')
    assert status.level == WARN and 'bad_student_result' in status.message
    check_promise(client, LONG_MS)
    assert process.alive and 'Traceback' not in process.log


def test_a_camera_that_stops_races_and_sends_garbage(probe, start, model, fallback):
    process = start_fallback(start, model, carry_frames=0)
    client = HybridClient(probe)
    client.wait_ready()
    camera_stops_and_returns(client, fallback, DEADLINE_MS)
    # Twice the rate, with each fifth frame ambiguous.
    for period_s in (0.06, 0.03):
        client.say_many(([AMBIGUOUS] + [CLEAR] * 4) * 6, period_s)
    assert sources(client).get('student-no-teacher', 0) == 0
    check_promise(client, DEADLINE_MS)
    # Bad images under good results: whatever the student made of them stands.
    good = image_message(IMAGE)
    bad = [same_but(good, step=1), same_but(good, height=0, width=0), same_but(good, encoding='notype9'),
           bytes(serialize_message(good))[:100], b'\0\1\0\0' + b'\xff' * 64]
    before = len(client.sent)
    for message in bad:
        header = next_header()
        client.images.publish(message if isinstance(message, bytes) else same_but(message, header=header))
        facts = client.ask(CLEAR, header=header, image=False).facts
        assert facts['source'] == 'student'
        if isinstance(message, bytes):  # not even a stamp: it cannot be sent
            facts = client.ask(AMBIGUOUS, header=next_header(), image=False).facts
            assert (facts['source'], facts['unverified']) == ('student-no-teacher', 'no_image')
    assert len(client.sent) - before == 7
    status = fallback.wait_status('camera camera', lambda s, v: v.get('dropped.bad_image') == '2', 'two',
                                  every=lambda: client.say(CLEAR))
    assert status.level == WARN and 'bad_image 2' in status.message
    assert client.ask(AMBIGUOUS).facts['source'] in ('teacher', 'student-late-teacher')
    check_promise(client, DEADLINE_MS)
    assert process.alive and 'Traceback' not in process.log


def test_a_scene_that_cannot_be_measured_costs_the_scene_alone(probe, start, model, fallback):
    """The default scorer looks at the image; one that cannot be decoded is no reason to stop."""
    process = start_fallback(start, model, scorer='signals')
    client = HybridClient(probe)
    client.wait_ready()
    good = image_message(IMAGE)
    for message in (same_but(good, encoding='notype9'), same_but(good, step=1), same_but(good, width=2**31)):
        header = next_header()
        client.images.publish(same_but(message, header=header))
        assert client.ask(CLEAR, header=header, image=False).facts['source'] in (
            'student', 'teacher', 'student-late-teacher')
    fallback.wait_status('camera camera', lambda s, v: v.get('dropped.bad_image') == '3', 'the count')
    client.wait_answered()
    check_promise(client, DEADLINE_MS)
    assert process.alive and 'Traceback' not in process.log


def test_bursts_of_ambiguity_beyond_the_budget_and_of_results(probe, start, model, fallback):
    """The share holds whatever comes, and nobody waits for a frame that is not sent."""
    process = start_fallback(start, model, deadline_ms=2000.0)
    client = HybridClient(probe)
    client.wait_ready()
    # A share of nothing empties the bucket: what follows does not depend on what was sent before.
    for values in (dict(share=0.0, burst=2.0), dict(share=0.1)):
        assert set(fallback.set_parameters(**values).values()) == {(True, '')}
    asked = len(client.teacher.requests)
    answers = client.say_many([AMBIGUOUS] * 60)
    assert len(client.teacher.requests) - asked == 6, 'one frame in ten'
    assert sources(client) == {'teacher': 6, 'student-no-teacher': 54}
    assert {a.facts['unverified'] for a in answers} == {'', 'share_budget'}
    # A quiet time saves up for two in a row, not more.
    client.say_many([CLEAR] * 40)
    assert [a.facts['source'] for a in client.say_many([AMBIGUOUS] * 4)] == [
        'teacher', 'teacher', 'student-no-teacher', 'student-no-teacher']
    check_promise(client, 2000.0)
    # All results that wait behind one leave with it, whole and in order.
    assert fallback.set_parameters(share=1.0) == {'share': (True, '')}
    client.teacher.behaviour = 'silent'
    client.say(AMBIGUOUS)
    for _ in range(40):
        client.say(CLEAR)
        probe.spin(0.02)
    client.wait_answered()
    check_promise(client, 2000.0)
    fallback.wait_status('camera camera', lambda s, v: int(v['gate.share_budget']) == 56, 'the counts')
    # What comes while the system holds the node up is answered, too; by the teacher where its image is kept,
    # though images without a result stand in front of it.
    client.teacher.behaviour = 'answer'
    process.process.send_signal(signal.SIGSTOP)
    for _ in range(30):
        client.say(CLEAR)
        probe.spin(0.02)
    for _ in range(5):
        client.publish_image()
    header = client.say(AMBIGUOUS)
    process.process.send_signal(signal.SIGCONT)
    assert client.answer_to(header).facts['source'] == 'teacher'
    client.wait_answered()
    check_promise(client, 2000.0)


def test_stamps_and_clocks_that_jump_back(probe, start, model, fallback):
    """Order is that of arrival, and deadlines hold by the computer's own clock."""
    process = start_fallback(start, model, '-p', 'use_sim_time:=true', deadline_ms=1000.0,
                             teacher_misses=10, teacher_timeout_s=60.0)
    client = HybridClient(probe)
    clock = probe.publisher(Clock, '/clock', 10)
    client.wait_ready()     # without any /clock
    probe.wait_matched(clock)
    bag = [Header(stamp=Time(sec=100 + i, nanosec=5), frame_id='bag') for i in range(6)]
    for _loop in range(2):
        for i, header in enumerate(bag):
            clock.publish(Clock(clock=header.stamp))
            found = AMBIGUOUS if i % 2 else CLEAR
            answers = len(client.verified)
            client.say(found, header=header)
            probe.wait_for(lambda: len(client.verified) > answers and len(client.provenance) > answers,
                           'the answer')
    have = sources(client)
    assert have['student'] == 6 and have['teacher'] == 6
    check_promise(client, 1000.0)
    # The clock goes back, stands still, or leaps while a frame waits: its deadline does not move.
    client.teacher.behaviour = 'silent'
    for sec in (3, 3, 50_000):
        header = client.say(AMBIGUOUS)
        clock.publish(Clock(clock=Time(sec=sec)))
        facts = client.answer_to(header).facts
        assert facts['source'] == 'student-late-teacher'
        assert float(facts['image_age_ms']) >= 0
    # The last frame of a loop still waits when the first of the next one comes.
    client.say(AMBIGUOUS, header=Header(stamp=Time(sec=1_000), frame_id='bag'))
    client.say(AMBIGUOUS, header=Header(stamp=Time(sec=1), frame_id='bag'))
    client.wait_answered()
    check_promise(client, 1000.0)
    client.teacher.behaviour = 'answer'
    wait_state(client, fallback, 'NOMINAL')
    assert int(fallback.values('camera camera')['arbiter.stamps_not_rising']) >= 2
    assert process.alive and 'Traceback' not in process.log


def test_a_real_teacher_that_hangs_dies_returns_and_is_the_wrong_one(
        probe, start, start_part, fallback, model):
    student, teacher = start_part('student', STUDENT_LABELS), start_part('teacher', TEACHER_LABELS)
    node = start_fallback(start, model, deadline_ms=REAL_DEADLINE_MS)
    client = HybridClient(probe, student=False, teacher=False)
    client.wait_ready()
    both_answer(client, REAL_DEADLINE_MS)
    # Hung: as if dead, for a while.
    teacher_dies_and_returns(client, fallback, REAL_DEADLINE_MS,
                             kill=lambda: teacher.process.send_signal(signal.SIGSTOP),
                             revive=lambda: teacher.process.send_signal(signal.SIGCONT))
    # Dead, and in its place one with another model.
    teacher_dies_and_returns(
        client, fallback, REAL_DEADLINE_MS, kill=teacher.kill,
        revive=lambda: _after_a_wrong_one(client, fallback, start_part))
    both_answer(client, REAL_DEADLINE_MS)
    assert student.alive and node.alive and 'Traceback' not in node.log


def _after_a_wrong_one(client, fallback, start_part):
    wrong = start_part('teacher', WRONG_LABELS)
    wait_state(client, fallback, 'DEGRADED', 'answers of the teacher cannot be used', timeout_s=40.0)
    wrong.kill()
    start_part('teacher', TEACHER_LABELS)


def test_a_real_student_that_dies_and_returns(probe, start, start_part, fallback, model):
    """Also the fallback itself: whoever starts it again finds the hybrid as it was."""
    student = start_part('student', STUDENT_LABELS)
    start_part('teacher', TEACHER_LABELS)
    node = start_fallback(start, model, deadline_ms=REAL_DEADLINE_MS)
    client = HybridClient(probe, student=False, teacher=False)
    client.wait_ready()
    both_answer(client, REAL_DEADLINE_MS)
    student_dies_and_returns(client, fallback, REAL_DEADLINE_MS, kill=student.kill,
                             revive=lambda: start_part('student', STUDENT_LABELS))
    assert node.alive and 'Traceback' not in node.log
    # In ERROR there was nothing to answer; without the fallback, nobody does.
    node.kill()
    client.forget()
    client.publish_image(CLEAR_IMAGE)
    probe.wait_for(lambda: client.sent, 'the student to go on')
    assert client.verified == []
    client.forget()
    start_fallback(start, model, deadline_ms=REAL_DEADLINE_MS)
    client.wait_ready()
    both_answer(client, REAL_DEADLINE_MS)
    wait_state(client, fallback, 'NOMINAL', image=AMBIGUOUS_IMAGE)
    assert fallback.status('camera camera').level != ERROR
