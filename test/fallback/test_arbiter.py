# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The arbiter, case by case: order, deadlines, verdicts, sources, bounds."""

import dataclasses

import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.fallback.arbiter import Arbiter, ArbiterSettings, Verdict
from kd_perception.fallback.gate import GateDecision
from kd_perception.fallback.merge import LabelMap, Merger, MergeSettings

MS = 1_000_000
DEADLINE_MS = 100
CLEAR = GateDecision(send=False, ambiguous=False, reason='clear', score=0.1)
SEND = GateDecision(send=True, ambiguous=True, reason='band', score=0.9, contributions=(('band', 0.9),))
AUDIT = GateDecision(send=True, ambiguous=False, audit=True, reason='audit', score=0.1)
DENIED = GateDecision(send=False, ambiguous=True, reason='band', score=0.9, denied='share_budget')
AUDIT_DENIED = GateDecision(send=False, ambiguous=False, audit=True, reason='audit', score=0.1,
                            denied='share_budget')
PROBE = GateDecision(send=True, ambiguous=False, probe=True, reason='clear', score=0.1)
PROBE_AMBIGUOUS = GateDecision(send=True, ambiguous=True, probe=True, reason='band', score=0.9,
                               denied='teacher_unavailable')


def boxes(score, class_id=0):
    return Detections([[0, 0, 10, 10]], [score], [class_id])


STUDENT, TEACHER = boxes(0.25), boxes(0.75)


def make(policy='replace', **settings):
    merger = Merger(LabelMap.by_name(('Car',), ('Car',)), MergeSettings(policy, keep_score=0.2))
    return Arbiter(merger, ArbiterSettings(**{'deadline_ns': DEADLINE_MS * MS, **settings}))


def student(arbiter, stamp, now_ms, decision=SEND, **options):
    return arbiter.on_student(stamp, STUDENT, decision, now_ms * MS, **options).outputs


def teacher(arbiter, stamp, now_ms, detections=TEACHER):
    return arbiter.on_teacher(stamp, detections, now_ms * MS)


def told(outputs):
    return [(o.sequence, o.provenance.source.value) for o in outputs]


def test_clear_leaves_at_once():
    header = object()
    out, = student(make(), 7, 0, CLEAR, context=header, image_age_ns=30 * MS)
    assert (out.sequence, out.stamp_ns) == (0, 7) and out.context is header
    assert out.detections.scores.tolist() == [0.25]
    p = out.provenance
    assert dict(p.values()) == {
        'source': 'student', 'reason': 'clear', 'ambiguity': '0.1', 'ambiguous': 'false', 'audit': 'false',
        'sent': 'no', 'unverified': '', 'from_student': '1', 'carried': '0', 'carried_frames': '0',
        'refuted': '0', 'rank': 'unknown',
        'waited_ms': '0.000', 'teacher_ms': 'unknown', 'image_age_ms': '30.000', 'deadline_met': 'true'}


def test_the_reserve_keeps_the_promise_though_the_tick_is_late():
    arbiter = make(reserve_ns=5 * MS)
    student(arbiter, 7, 0)
    assert arbiter.next_deadline() == 95 * MS
    assert teacher(arbiter, 7, 95).verdict is Verdict.LATE, "the reserve is not the teacher's"
    student(arbiter, 8, 200)
    out, = arbiter.on_tick(300 * MS)
    assert out.provenance.deadline_met and arbiter.worst_lateness_ns == 0
    student(arbiter, 9, 400)
    out, = arbiter.on_tick(501 * MS)
    assert not out.provenance.deadline_met and arbiter.worst_lateness_ns == MS
    with pytest.raises(ValueError, match='reserve_ns'):
        ArbiterSettings(deadline_ns=MS, reserve_ns=MS)


def test_answer_in_time():
    arbiter = make()
    assert student(arbiter, 7, 0) == ()
    assert arbiter.next_deadline() == 100 * MS and arbiter.pending == 1
    step = teacher(arbiter, 7, 99)
    assert (step.verdict, step.sequence) == (Verdict.ACCEPTED, 0)
    out, = step.outputs
    assert out.detections.scores.tolist() == [0.75]
    values = dict(out.provenance.values())
    assert values['source'] == 'teacher' and values['sent'] == 'yes' and values['from_student'] == '0'
    assert values['waited_ms'] == values['teacher_ms'] == '99.000' and values['deadline_met'] == 'true'
    assert values['contribution.band'] == '0.9' and values['image_age_ms'] == 'unknown'
    assert arbiter.pending == 0 and arbiter.next_deadline() is None and arbiter.worst_lateness_ns == 0


def test_merged_where_boxes_of_the_student_are_kept():
    arbiter = make('union')
    student(arbiter, 7, 0)
    out, = arbiter.on_teacher(7, Detections([[50, 0, 60, 10]], [0.75], [0]), 1).outputs
    assert out.provenance.source.value == 'merged' and out.provenance.from_student == 1
    assert out.detections.scores.tolist() == [0.75, 0.25]


def test_deadline_then_late_answer_never_revises():
    arbiter = make()
    student(arbiter, 7, 0)
    assert arbiter.on_tick(100 * MS - 1) == ()
    out, = arbiter.on_tick(100 * MS)
    assert out.provenance.source.value == 'student-late-teacher' and out.provenance.unverified == 'deadline'
    assert out.detections.scores.tolist() == [0.25]
    assert out.provenance.deadline_met and out.provenance.waited_ns == 100 * MS
    step = teacher(arbiter, 7, 101)
    assert (step.verdict, step.outputs) == (Verdict.LATE, ())
    assert teacher(arbiter, 7, 102).verdict is Verdict.DUPLICATE
    assert arbiter.counts == {
        'students': 1, 'outputs': 1, 'deadlines_missed': 0, 'boxes_cut': 0, 'source.student-late-teacher': 1,
        'unverified.deadline': 1, 'answer.late': 1, 'answer.duplicate': 1}


def test_an_answer_at_the_deadline_is_late_though_no_tick_came():
    arbiter = make()
    student(arbiter, 7, 0)
    step = teacher(arbiter, 7, 100)
    assert step.verdict is Verdict.LATE and told(step.outputs) == [(0, 'student-late-teacher')]


def test_duplicate_and_unknown_answers():
    arbiter = make()
    student(arbiter, 7, 0)
    student(arbiter, 8, 1, CLEAR)
    assert teacher(arbiter, 9, 2).verdict is Verdict.UNKNOWN
    assert teacher(arbiter, 8, 2).verdict is Verdict.UNKNOWN        # never sent
    assert teacher(arbiter, 7, 3).verdict is Verdict.ACCEPTED
    step = teacher(arbiter, 7, 4, boxes(0.99))
    assert (step.verdict, step.sequence, step.outputs) == (Verdict.DUPLICATE, None, ())


def test_order_is_kept_behind_a_waiting_frame():
    arbiter = make()
    student(arbiter, 1, 0)
    assert student(arbiter, 2, 10, CLEAR) == ()
    student(arbiter, 3, 20)
    assert student(arbiter, 4, 30, DENIED) == ()
    assert teacher(arbiter, 3, 40).outputs == ()                    # answered out of order: kept
    assert arbiter.next_deadline() == 100 * MS
    out = teacher(arbiter, 1, 50).outputs
    assert told(out) == [(0, 'teacher'), (1, 'student'), (2, 'teacher'), (3, 'student-no-teacher')]
    assert [o.provenance.waited_ns // MS for o in out] == [50, 40, 30, 20]
    assert [o.provenance.teacher_ns for o in out] == [50 * MS, None, 20 * MS, None]


def test_deadline_frees_those_behind_but_not_the_next_that_waits():
    arbiter = make()
    student(arbiter, 1, 0)
    student(arbiter, 2, 10, CLEAR)
    student(arbiter, 3, 20)
    assert told(arbiter.on_tick(100 * MS)) == [(0, 'student-late-teacher'), (1, 'student')]
    assert arbiter.next_deadline() == 120 * MS


def test_the_next_result_finds_what_has_expired():
    arbiter = make()
    student(arbiter, 1, 0)
    out = student(arbiter, 2, 130, CLEAR)
    assert told(out) == [(0, 'student-late-teacher'), (1, 'student')]
    assert not out[0].provenance.deadline_met and out[0].provenance.waited_ns == 130 * MS
    assert arbiter.worst_lateness_ns == 30 * MS and arbiter.counts['deadlines_missed'] == 1


@pytest.mark.parametrize('decision,source,sent,unverified', [
    (CLEAR, 'student', 'no', ''), (DENIED, 'student-no-teacher', 'no', 'share_budget'),
    (AUDIT_DENIED, 'student', 'no', 'share_budget'), (PROBE, 'student', 'probe', ''),
    (PROBE_AMBIGUOUS, 'student-no-teacher', 'probe', 'teacher_unavailable')])
def test_what_leaves_at_once(decision, source, sent, unverified):
    arbiter = make()
    out, = student(arbiter, 1, 0, decision)
    p = out.provenance
    assert (p.source.value, p.sent, p.unverified, p.deadline_met) == (source, sent, unverified, True)
    assert (p.ambiguous, p.audit, p.reason) == (decision.ambiguous, decision.audit, decision.reason)


def test_audits_wait_like_the_ambiguous():
    arbiter = make()
    assert student(arbiter, 1, 0, AUDIT) == ()
    out, = teacher(arbiter, 1, 5).outputs
    assert out.provenance.source.value == 'teacher' and out.provenance.audit and not out.provenance.ambiguous
    student(arbiter, 2, 10, AUDIT)
    assert arbiter.on_tick(110 * MS)[0].provenance.source.value == 'student-late-teacher'


def test_probe_answers():
    arbiter = make()
    student(arbiter, 1, 0, PROBE)
    step = teacher(arbiter, 1, 5)
    assert (step.verdict, step.sequence, step.outputs) == (Verdict.PROBE, 0, ())
    assert teacher(arbiter, 1, 6).verdict is Verdict.DUPLICATE


@pytest.mark.parametrize('answer', [None, boxes(0.9, class_id=4)])
def test_unusable_answer(answer):
    arbiter = make()
    student(arbiter, 1, 0)
    step = teacher(arbiter, 1, 5, answer)
    assert step.verdict is Verdict.UNUSABLE and step.sequence == 0
    out, = step.outputs
    p = out.provenance
    assert (p.source.value, p.unverified, p.teacher_ns) == ('student-no-teacher', 'unusable_answer', 5 * MS)
    assert out.detections.scores.tolist() == [0.25]
    assert teacher(arbiter, 1, 6).verdict is Verdict.DUPLICATE


def test_an_unusable_answer_does_not_cost_the_outputs_due_with_it():
    arbiter = make()
    student(arbiter, 1, 0)
    student(arbiter, 2, 50)
    step = teacher(arbiter, 2, 120, boxes(0.9, class_id=4))
    assert told(step.outputs) == [(0, 'student-late-teacher'), (1, 'student-no-teacher')]


def test_equal_stamps_are_answered_oldest_first():
    arbiter = make()
    student(arbiter, 1, 0)
    student(arbiter, 1, 10)
    assert teacher(arbiter, 1, 20).sequence == 0
    assert teacher(arbiter, 1, 30).sequence == 1
    assert teacher(arbiter, 1, 40).verdict is Verdict.DUPLICATE
    assert arbiter.counts['stamps_not_rising'] == 1


def test_each_frame_of_a_stamp_may_be_answered_late_once():
    arbiter = make()
    student(arbiter, 1, 0)
    student(arbiter, 1, 10)
    assert len(arbiter.on_tick(500 * MS)) == 2
    verdicts = [teacher(arbiter, 1, 600).verdict for _ in range(3)]
    assert verdicts == [Verdict.LATE, Verdict.LATE, Verdict.DUPLICATE]


def test_bag_loop_one_output_each_in_order_of_arrival():
    arbiter = make()
    out = []
    for i, stamp in enumerate([100, 200, 300, 100, 200, 200, 0]):
        out += student(arbiter, stamp, i, CLEAR)
    assert [(o.sequence, o.stamp_ns) for o in out] == list(enumerate([100, 200, 300, 100, 200, 200, 0]))
    assert arbiter.counts['stamps_not_rising'] == 3


def test_a_frame_of_the_second_pass_is_answered_though_the_first_never_was():
    arbiter = make()
    student(arbiter, 1, 0)
    arbiter.on_tick(100 * MS)
    student(arbiter, 1, 1000)
    assert teacher(arbiter, 1, 1010).verdict is Verdict.ACCEPTED


def test_overflow_releases_the_oldest():
    arbiter = make(max_pending=2)
    student(arbiter, 1, 0)
    student(arbiter, 2, 1)
    out, = student(arbiter, 3, 2)
    assert told([out]) == [(0, 'student-late-teacher')] and out.provenance.unverified == 'overflow'
    assert arbiter.pending == 2
    assert teacher(arbiter, 1, 3).verdict is Verdict.LATE
    assert teacher(arbiter, 2, 3).verdict is Verdict.ACCEPTED


def test_overflow_frees_the_clear_ones_behind_the_oldest():
    arbiter = make(max_pending=2)
    student(arbiter, 1, 0)
    student(arbiter, 2, 1, CLEAR)
    assert told(student(arbiter, 3, 2, CLEAR)) == [
        (0, 'student-late-teacher'), (1, 'student'), (2, 'student')]


def test_clock_steps_back_and_the_rest_of_the_deadline_stays():
    arbiter = make()
    student(arbiter, 1, 1_000_000)
    assert arbiter.on_tick(1_000_060 * MS) == ()
    assert arbiter.on_tick(5 * MS) == ()
    assert arbiter.next_deadline() == 45 * MS
    assert arbiter.on_tick(45 * MS - 1) == ()
    out, = arbiter.on_tick(45 * MS)
    assert out.provenance.waited_ns == 100 * MS and out.provenance.deadline_met


def test_shorter_deadline_lets_no_earlier_frame_hold_back_a_later_one():
    arbiter = make()
    student(arbiter, 1, 0)
    arbiter.configure(dataclasses.replace(arbiter.settings, deadline_ns=10 * MS))
    assert arbiter.next_deadline() == 100 * MS
    student(arbiter, 2, 20, CLEAR)
    assert arbiter.next_deadline() == 30 * MS
    out = arbiter.on_tick(30 * MS)
    assert told(out) == [(0, 'student-late-teacher'), (1, 'student')]
    assert all(o.provenance.deadline_met for o in out)


def test_longer_deadline_is_for_new_frames():
    arbiter = make()
    student(arbiter, 1, 0)
    arbiter.configure(dataclasses.replace(arbiter.settings, deadline_ns=500 * MS))
    student(arbiter, 2, 1)
    assert told(arbiter.on_tick(100 * MS)) == [(0, 'student-late-teacher')]
    assert arbiter.next_deadline() == 501 * MS


def test_flush():
    arbiter = make()
    student(arbiter, 1, 0)
    student(arbiter, 2, 10, CLEAR)
    student(arbiter, 3, 20)
    teacher(arbiter, 3, 25)
    out = arbiter.flush(30 * MS)
    assert told(out) == [(0, 'student-late-teacher'), (1, 'student'), (2, 'teacher')]
    assert [o.provenance.unverified for o in out] == ['shutdown', '', '']
    assert arbiter.pending == 0 and arbiter.flush(31 * MS) == ()
    assert student(arbiter, 4, 40, CLEAR)[0].sequence == 3


def test_image_age_is_never_negative():
    out, = student(make(), 1, 0, CLEAR, image_age_ns=-5)
    assert out.provenance.image_age_ns == 0


def test_cut_boxes_are_counted():
    arbiter = make()
    arbiter.merger.settings = MergeSettings(max_detections=1)
    arbiter.on_student(1, Detections.concatenate([STUDENT] * 4), CLEAR, 0)
    assert arbiter.counts['boxes_cut'] == 3


def test_memory_is_bounded_while_nothing_is_ever_answered():
    arbiter = make(max_pending=8, max_remembered=16)
    for i in range(3000):
        student(arbiter, i, i, (SEND, PROBE)[i % 2])
        assert arbiter.pending <= 8 and arbiter.remembered <= 32
    assert arbiter.remembered == 32
    assert teacher(arbiter, 1, 3000).verdict is Verdict.UNKNOWN
    assert teacher(arbiter, 2980, 3000).verdict is Verdict.LATE


def test_the_memory_of_stamps_forgets_the_longest_unused():
    arbiter = make(max_remembered=2)
    for i, stamp in enumerate([1, 2, 1, 3]):
        student(arbiter, stamp, 200 * i)
        arbiter.on_tick((200 * i + 100) * MS)
    assert teacher(arbiter, 2, 1000).verdict is Verdict.UNKNOWN
    assert teacher(arbiter, 1, 1000).verdict is Verdict.LATE


@pytest.mark.parametrize('change', [
    {'deadline_ns': 0}, {'deadline_ns': 61_000_000_000}, {'max_pending': 0}, {'max_remembered': 0}])
def test_settings_refuse(change):
    with pytest.raises(ValueError):
        ArbiterSettings(**change)
