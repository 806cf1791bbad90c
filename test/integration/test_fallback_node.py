# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""fallback_node as a process: its topics, its answers, its parameters, its lifecycle."""

import re
import signal
import time

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

import numpy as np
from rcl_interfaces.srv import DescribeParameters
from rclpy.serialization import serialize_message

from detector_client import compressed_message, DetectorClient, image_message, next_header
from hybrid_client import (
    AMBIGUOUS,
    ANSWER,
    check_promise,
    CLEAR,
    facts_of,
    found_in,
    HybridClient,
    IMAGE,
    PARAMETERS,
    result_message,
    rounded,
    sources,
    start_fallback,
)
from kd_perception.nodes.fallback.parameters import FALLBACK_PARAMETERS, RESERVE_NS
from kd_perception.nodes.shared.conversions import stamp_to_ns
from kd_perception.recording.recorded import HardFrameSet

OK, WARN, ERROR = b'\0', b'\1', b'\2'
DEADLINE_MS = PARAMETERS['deadline_ms']
LONG_MS = 10_000.0      # a deadline that no answer misses, however loaded the computer is


@pytest.fixture
def fallback(probe):
    return DetectorClient(probe, '/fallback')


def test_clear_frames_leave_at_once_and_ambiguous_ones_with_the_teachers_answer(
        probe, start, model, fallback):
    # The camera rests here while one frame waits for its image, and at the end, longer than it may elsewhere.
    process = start_fallback(start, model, deadline_ms=LONG_MS, camera_silence_s=60.0)
    client = HybridClient(probe)
    client.wait_ready()
    asked = len(client.teacher.requests)

    answer = client.ask(CLEAR)
    assert found_in(answer.result) == rounded(CLEAR)
    facts = answer.facts
    assert (facts['source'], facts['reason'], facts['sent'], facts['unverified'], facts['ambiguous']) == (
        'student', 'clear', 'no', '', 'false')
    assert float(facts['waited_ms']) < 100 and facts['deadline_met'] == 'true'
    assert facts['from_student'] == '1'
    status = answer.provenance.status[0]
    assert (status.level, status.name, status.hardware_id, status.message) == (
        OK, 'fallback: camera camera', '/camera', 'student: clear')
    assert client.ask(()).result.detections == [], 'an empty frame is answered by an empty message'
    assert len(client.teacher.requests) == asked, 'a clear frame is not sent'

    header = next_header('optical')
    answer = client.ask(AMBIGUOUS, header=header)
    assert found_in(answer.result) == rounded(ANSWER), "the teacher's boxes, not the student's"
    facts = answer.facts
    assert (facts['source'], facts['reason'], facts['sent'], facts['unverified'], facts['from_student']) == (
        'teacher', 'band', 'yes', '', '0')
    assert float(facts['teacher_ms']) <= float(facts['waited_ms'])
    assert float(facts['contribution.band']) == float(facts['ambiguity']) >= 0.5
    sent, raw = client.teacher.requests[-1]
    assert sent == header
    # What was published is what is sent, byte for byte.
    assert raw == serialize_message(image_message(IMAGE, header=header))

    # The image never came: the student's boxes from its working threshold, and said so.
    answer = client.ask(AMBIGUOUS, image=False)
    assert found_in(answer.result) == rounded(AMBIGUOUS[:1])
    assert (answer.facts['source'], answer.facts['unverified']) == ('student-no-teacher', 'no_image')
    assert answer.provenance.status[0].level == WARN
    # One image kept for a result that takes its time, with later images in between.
    late = next_header()
    client.publish_image(header=late)
    for _ in range(5):
        client.publish_image()
    assert client.ask(AMBIGUOUS, header=late, image=False).facts['source'] == 'teacher'
    # Results leave in the order in which they came: a clear one waits behind an ambiguous one.
    client.teacher.delay_s = 0.3
    client.say_many([AMBIGUOUS, CLEAR, CLEAR, AMBIGUOUS, CLEAR])
    assert sources(client) == {'student': 5, 'teacher': 4, 'student-no-teacher': 1}
    check_promise(client, LONG_MS)

    status = fallback.wait_status(
        'camera camera', lambda s, v: s.level == OK and v['state'] == 'NOMINAL'
        and v.get('arbiter.source.student') == '5' and v['arbiter.outputs'] == v['arbiter.students'],
        'all answers to be counted')
    assert status.message == 'NOMINAL: student and teacher answer' and status.hardware_id == '/camera'
    values = fallback.values('camera camera')
    assert values['state'] == 'NOMINAL' and float(values['worst_lateness_ms']) < DEADLINE_MS
    assert float(values['image_rate_hz']) > 0 and float(values['waited.max_ms']) >= 300
    teacher = fallback.status('teacher')
    assert (teacher.level, teacher.message) == (OK, 'answers')
    values = fallback.values('teacher')
    assert values['scorer'] == 'band' and values['student'] == 'rectangles' and values['breaker'] == 'closed'
    assert len(values['student_sha256']) == 64 and values['lifecycle'] == 'active'
    # Nothing to complain about, but that it was there before its camera.
    complaints = [line for line in process.log.splitlines() if 'INFO' not in line and 'no image' not in line]
    assert process.alive and not complaints, complaints


def test_parameters_change_live(probe, start, model, fallback):
    """Each to the next frame: budget, audit, policy, thresholds, deadline, the teacher itself."""
    start_fallback(start, model, deadline_ms=LONG_MS)
    client = HybridClient(probe)
    client.wait_ready()

    def change(**values):
        assert set(fallback.set_parameters(**values).values()) == {(True, '')}

    change(share=0.0)
    answer = client.ask(AMBIGUOUS)
    assert (answer.facts['source'], answer.facts['unverified']) == ('student-no-teacher', 'share_budget')
    change(share=1.0, audit_share=1.0)
    answer = client.ask(CLEAR)
    assert (answer.facts['source'], answer.facts['reason'], answer.facts['audit']) == (
        'teacher', 'audit', 'true')
    change(audit_share=0.0, merge_policy='union')
    # The box of score 0.95 is contradicted by the teacher's Pedestrian in its place.
    assert client.ask(CLEAR + AMBIGUOUS).facts['source'] == 'teacher'
    far = (('Cyclist', 0.7, 100.0, 5.0, 120.0, 30.0),)
    answer = client.ask(AMBIGUOUS + far)
    assert answer.facts['source'] == 'merged' and answer.facts['from_student'] == '1'
    assert found_in(answer.result) == rounded(ANSWER[:1] + far + ANSWER[1:])
    change(keep_score=0.8)
    assert client.ask(AMBIGUOUS + far).facts['source'] == 'teacher'
    change(merge_policy='replace', max_detections=1)
    assert found_in(client.ask(AMBIGUOUS).result) == rounded(ANSWER[:1])
    change(max_detections=300, enter_threshold=1.0)
    answer = client.ask(AMBIGUOUS)
    assert answer.facts['source'] == 'student' and found_in(answer.result) == rounded(AMBIGUOUS[:1])
    change(score_threshold=0.05)
    assert found_in(client.ask(AMBIGUOUS).result) == rounded(AMBIGUOUS)
    change(score_threshold=-1.0, enter_threshold=0.5, teacher_rate_hz=0.001)
    given = [client.ask(AMBIGUOUS).facts for _ in range(2)]
    assert {(f['source'], f['unverified']) for f in given} >= {('student-no-teacher', 'rate_budget')}
    change(teacher_rate_hz=0.0, teacher=False)
    answer = client.ask(AMBIGUOUS)
    assert (answer.facts['source'], answer.facts['unverified']) == ('student-no-teacher', 'teacher_off')
    keep = lambda: client.say(CLEAR)  # noqa: E731
    fallback.wait_status('camera camera', lambda s, v: s.level == WARN and v['state'] == 'DEGRADED'
                         and s.message == 'DEGRADED: teacher is switched off', 'DEGRADED', every=keep)
    assert (fallback.status('teacher').level, fallback.status('teacher').message) == (WARN, 'switched off')
    change(teacher=True)
    fallback.wait_status('camera camera', lambda s, v: v['state'] == 'NOMINAL', 'NOMINAL', every=keep)
    client.wait_answered()
    check_promise(client, LONG_MS)
    client.forget()
    # A shorter deadline holds for the next frame.
    client.teacher.behaviour = 'silent'
    change(deadline_ms=100.0)
    begin = time.monotonic()
    answer = client.ask(AMBIGUOUS)
    assert 0.1 - RESERVE_NS / 1e9 <= time.monotonic() - begin < 3, 'by the clock of whoever waits for it'
    assert (answer.facts['source'], answer.facts['unverified']) == ('student-late-teacher', 'deadline')
    assert 100 - RESERVE_NS / 1e6 <= float(answer.facts['waited_ms'])
    check_promise(client, 100.0)


def scrolled(pixels):
    """Return an image with texture, moved to the right."""
    rng = np.random.default_rng(0)
    coarse, fine = (np.kron(rng.integers(0, 120, (96 // n, 640 // n, 3)), np.ones((n, n, 1))) for n in (8, 2))
    return (coarse + fine).astype(np.uint8)[:, 300 - pixels:428 - pixels].copy()


def test_the_teachers_boxes_are_carried_to_the_frames_that_follow(probe, start, model, fallback):
    """Ten images a second, by their stamps, of a scene that moves 2 px a frame."""
    start_fallback(start, model, deadline_ms=LONG_MS, teacher_misses=10, teacher_timeout_s=60.0)
    client = HybridClient(probe)
    client.wait_ready()
    first, shown = next_header().stamp.sec, [0]

    def frame(found, shift=0):
        shown[0] += 1
        header = next_header()
        header.stamp.sec, header.stamp.nanosec = first + shown[0] // 10, shown[0] % 10 * 100_000_000
        client.images.publish(image_message(scrolled(2 * shown[0] + shift), header=header))
        return client.say(found, header=header, image=False)

    answer = client.answer_to(frame(AMBIGUOUS))
    assert answer.facts['source'] == 'teacher' and answer.facts['carried'] == '0'
    ids = [item.id for item in answer.result.detections]
    assert len(set(ids)) == 2 and all(ids)
    for age in (1, 2, 3):
        answer = client.answer_to(frame(()))
        facts = answer.facts
        assert (facts['source'], facts['carried'], facts['carried_frames'], facts['from_student'],
                facts['unverified']) == ('carried', '2', str(age), '0', '')
        for got, expected in zip(found_in(answer.result), ANSWER):
            name, score, *box = expected
            assert got[:2] == (name, pytest.approx(score * 0.6 ** (age / 10), abs=2e-3))
            assert got[2:] == pytest.approx([box[0] + 2 * age, box[1], box[2] + 2 * age, box[3]], abs=1.5)
        assert [item.id for item in answer.result.detections] == ids, 'the same objects'
        assert answer.provenance.status[0].message == 'carried: clear'
    # However sure of its pedestrian the student is: the teacher told how sure one may be.
    name, score, *box = ANSWER[0]
    own = (name, 0.95, *(edge + shift for edge, shift in zip(box, (8, 0, 8, 0))))
    answer = client.answer_to(frame((own,)))
    assert [item[0] for item in found_in(answer.result)] == [item[0] for item in ANSWER]
    assert found_in(answer.result)[0][1] == pytest.approx(score * 0.6 ** 0.3, abs=2e-3)
    assert [item.id for item in answer.result.detections] == ids
    assert (answer.facts['carried'], answer.facts['from_student'], answer.facts['refuted']) == ('2', '0', '0')
    # A scene cut ends it, and so does the parameter.
    assert client.answer_to(frame((), shift=150)).facts['source'] == 'student'
    assert client.answer_to(frame(AMBIGUOUS, shift=150)).facts['source'] == 'teacher'
    assert set(fallback.set_parameters(carry_frames=0).values()) == {(True, '')}
    assert client.answer_to(frame((), shift=150)).facts['source'] == 'student'
    check_promise(client, LONG_MS)
    client.forget()
    assert set(fallback.set_parameters(carry_frames=10, deadline_ms=100.0).values()) == {(True, '')}
    # An answer that is too late for its frame helps the next one.
    client.teacher.delay_s = 0.6
    header = frame(AMBIGUOUS, shift=150)
    assert client.answer_to(header).facts['source'] == 'student-late-teacher'
    fallback.wait_status('camera camera', lambda s, v: v.get('carry.late_answers') == '1', 'the late answer')
    facts = client.answer_to(frame((), shift=150)).facts
    assert (facts['source'], facts['carried'], facts['carried_frames']) == ('carried', '2', '1')
    check_promise(client, 100.0)


REFUSED = [
    ('share', 1.5, 'out of range'),
    ('share', float('nan'), '(not a finite number|out of range)'),
    ('share', 'much', '(type|expected)'),
    ('audit_share', 1.0, r'audit_share: 1 is above share \(0.5\)'),
    ('deadline_ms', 0.0, 'out of range'),
    ('score_threshold', -0.5, 'score_threshold: -0.5 is out of bounds, expected 0 to 1 or -1'),
    ('merge_policy', 'both', "merge_policy: 'both' is unknown, expected one of 'replace', 'union'"),
    ('scorer', 'doubt', 'scorer: changes only while the node is unconfigured'),
    ('cameras', ['front'], 'cameras: changes only while the node is unconfigured'),
    ('autostart', False, '(?i)read-only'),
]


def test_bad_parameters_are_refused_with_a_reason_and_all_describe_themselves(probe, start, model, fallback):
    process = start_fallback(start, model, share=0.5, unheard_of=1)
    client = HybridClient(probe)
    client.wait_ready()
    for name, value, reason in REFUSED:
        (successful, why), = fallback.set_parameters(**{name: value}).values()
        assert not successful and re.search(reason, why), (name, value, why)
    assert client.ask(CLEAR).facts['source'] == 'student'
    request = DescribeParameters.Request(names=[spec.name for spec in FALLBACK_PARAMETERS])
    answer = probe.call(DescribeParameters, '/fallback/describe_parameters', request)
    for spec, descriptor in zip(FALLBACK_PARAMETERS, answer.descriptors):
        assert descriptor.name == spec.name and descriptor.description == spec.description
        assert descriptor.read_only == (spec.changes == 'start')
    assert 'parameter unheard_of is unknown' in process.log


@pytest.mark.parametrize('arguments,message', [
    (['-p', 'share:=7.0'], 'share.*out of range'),
    (['-p', 'share:=0.1', '-p', 'audit_share:=0.2'], 'audit_share: 0.2 is above share'),
])
def test_bad_parameters_at_start_end_the_process_with_one_line(domain, start, arguments, message):
    process = start('kd_perception.nodes.fallback_node', '--ros-args', *arguments)
    assert process.wait() == 2
    lines = process.log.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), lines


def test_lifecycle(probe, start, model, fallback, tmp_path):
    """A bad model leaves a node that can be put right; what waits leaves when it stops."""
    process = start_fallback(start, tmp_path / 'missing.onnx', deadline_ms=LONG_MS)
    status = fallback.wait_status('teacher', lambda s, v: s.level == ERROR, 'why it is not configured')
    assert 'no such model file' in status.message and 'missing.onnx' in status.message
    errors = [line for line in process.log.splitlines() if '[ERROR]' in line]
    assert len(errors) == 1 and 'configure failed' in errors[0] and fallback.state() == 'unconfigured'
    fallback.set_parameters(student_model=str(model), teacher_labels=['cat', 'dog'])
    assert not fallback.change_state('configure')
    fallback.wait_status('teacher', lambda s, v: 'have no class in common' in s.message, 'the next fault')
    fallback.set_parameters(teacher_labels=[''], scorer='learned')
    assert not fallback.change_state('configure')
    fallback.wait_status('teacher', lambda s, v: 'holds no learned gate' in s.message, 'the next fault')
    assert not fallback.change_state('activate'), 'refused, and no harm done'
    fallback.set_parameters(scorer='band')
    assert fallback.change_state('configure') and fallback.state() == 'inactive'
    fallback.wait_status('camera camera', lambda s, v: s.message == 'inactive' and s.level == OK, 'inactive')
    client = HybridClient(probe)
    assert fallback.change_state('activate')
    client.wait_ready()
    assert client.ask(AMBIGUOUS).facts['source'] == 'teacher'

    client.teacher.behaviour = 'silent'
    waiting = [client.say(AMBIGUOUS) for _ in range(5)]
    asked = len(client.teacher.requests)
    probe.wait_for(lambda: client.teacher.requests[-1][0] == waiting[-1], 'the requests to be sent')
    assert len(client.verified) == 1 and asked <= len(client.teacher.requests)
    assert fallback.change_state('deactivate') and fallback.state() == 'inactive'
    for header in waiting:
        facts = client.answer_to(header).facts
        assert (facts['source'], facts['unverified']) == ('student-late-teacher', 'shutdown')
    check_promise(client, LONG_MS)
    probe.wait_for(lambda: client.student.get_subscription_count() == 0, 'the subscription to end')

    client.forget()
    client.teacher.behaviour = 'answer'
    assert fallback.change_state('activate')
    client.wait_ready()
    assert client.ask(AMBIGUOUS).facts['source'] == 'teacher'
    check_promise(client, LONG_MS)
    assert fallback.change_state('deactivate') and fallback.change_state('cleanup')
    probe.wait_for(lambda: probe.node.count_publishers('camera/verified_detections') == 0, 'topics to end')
    assert fallback.change_state('shutdown') and fallback.state() == 'finalized'
    assert process.stop() == 0 and 'Traceback' not in process.log


@pytest.mark.parametrize('by', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_process_cleanly(probe, start, model, by):
    process = start_fallback(start, model, deadline_ms=LONG_MS)
    client = HybridClient(probe)
    client.wait_ready()
    client.teacher.behaviour = 'silent'
    header = client.say(AMBIGUOUS)
    probe.wait_for(lambda: client.teacher.requests[-1][0] == header, 'the request')
    assert process.stop(by) == 0
    assert 'Traceback' not in process.log and '[ERROR]' not in process.log, process.log


def test_compressed_images_of_two_cameras(probe, start, model, fallback):
    """Forwarded as they are, each to its own camera's teacher; answers of one are nothing to the other."""
    start_fallback(start, model, cameras=['front', 'robot1/rear'], image_transport='compressed',
                   deadline_ms=LONG_MS, teacher_misses=10)
    front, rear = (HybridClient(probe, camera, compressed=True) for camera in ('front', 'robot1/rear'))
    for client in (front, rear):
        client.wait_ready()
    header = next_header()
    assert front.ask(AMBIGUOUS, header=header).facts['source'] == 'teacher'
    assert front.teacher.requests[-1] == (header, serialize_message(compressed_message(IMAGE, header=header)))
    assert rear.verified == [] and all(sent != header for sent, _ in rear.teacher.requests)
    # One stamp in both cameras; the rear teacher answers first, and only for itself.
    front.teacher.behaviour = 'silent'
    header = next_header()
    front.say(AMBIGUOUS, header=header)
    assert rear.ask(AMBIGUOUS, header=header).facts['source'] == 'teacher'
    assert len(front.verified) == 1
    # The front's teacher answers on the rear's topic: nothing to anyone.
    rear.teacher.publisher.publish(front.verified[0][1])
    fallback.wait_status('camera robot1/rear', lambda s, v: any(
        key.startswith('arbiter.answer.') and key.split('.')[-1] in ('unknown', 'duplicate', 'late')
        and count != '0' for key, count in v.items()), 'the stray answer to be counted')
    front.teacher.publisher.publish(result_message(header, ANSWER))
    facts = front.answer_to(header).facts
    assert facts['source'] == 'teacher'
    for client in (front, rear):
        check_promise(client, LONG_MS)
        assert {message.status[0].hardware_id for _, message in client.provenance} == {f'/{client.camera}'}
        assert facts_of(client.provenance[0][1])['source'] == 'teacher'


def test_answered_frames_are_recorded_with_both_outputs(probe, start, model, fallback, tmp_path):
    """What a review needs of a frame: the image as it was sent, both answers, what came of them, and why."""
    folder = tmp_path / 'hard'
    process = start_fallback(start, model, deadline_ms=LONG_MS, record_folder=folder, record_rate_hz=1000.0)
    client = HybridClient(probe)
    client.wait_ready()
    fallback.wait_status('recorder', lambda s, v: v, 'the recorder')
    before = int(fallback.values('recorder')['offered'])
    client.ask(CLEAR)
    headers = [client.ask(AMBIGUOUS).result.header for _ in range(3)]
    client.teacher.behaviour = 'silent'
    assert fallback.set_parameters(deadline_ms=100.0) == {'deadline_ms': (True, '')}
    client.ask(AMBIGUOUS)
    fallback.wait_status('recorder', lambda s, v: int(v['written']) >= before + 3, 'three frames written')
    assert fallback.status('recorder').level == OK
    assert process.stop(signal.SIGTERM) == 0
    recording = HardFrameSet(folder)
    stamps = {stamp_to_ns(header.stamp) for header in headers}
    found = [frame for frame in recording.frames if frame.key.stamp_ns in stamps]
    assert len(found) == 3 and recording.problems == []
    for frame, image in recording.images(found):
        assert frame.student.names == tuple(item[0] for item in AMBIGUOUS)
        assert frame.teacher.names == frame.verified.names == tuple(item[0] for item in ANSWER)
        assert frame.facts['source'] == 'teacher' and image.decode().shape == IMAGE.shape
