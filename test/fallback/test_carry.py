# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Boxes that move with a picture whose motion is known, for as long as they may, and never across a break."""

import dataclasses

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_iou
from kd_perception.fallback.carry import Carrier, CarrySettings
from kd_perception.fallback.flow import flow_image, is_cut, move_boxes
from kd_perception.fallback.tracks import Tracks, TrackSettings

HW = (240, 640)
MS = 1_000_000
PERIOD_NS = 100 * MS
BOXES = np.array([[100, 60, 180, 130], [300, 80, 340, 180], [450, 50, 560, 120]], dtype=float)
ANSWER = Detections(BOXES, [0.9, 0.8, 0.6], [0, 1, 0])
NONE = Detections.empty()


def scene(seed=0):
    """Return a picture (h, w, 3) with structure of all sizes."""
    rng = np.random.default_rng(seed)
    image = np.full((*HW, 3), 110.0)
    for step in (4, 12, 40, 120):
        size = (HW[1] // step + 2, HW[0] // step + 2)
        noise = rng.normal(0, 30, (size[1], size[0], 3)).astype(np.float32)
        image += cv2.resize(noise, (HW[1], HW[0]), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


SCENE = scene()


def moved(dx=0.0, dy=0.0, growth=1.0, image=SCENE):
    """Return the picture grown about its centre and then shifted."""
    x, y = HW[1] / 2, HW[0] / 2
    # warpAffine counts from the middle of the first pixel, boxes from its border.
    matrix = np.array([[growth, 0, (1 - growth) * (x - 0.5) + dx],
                       [0, growth, (1 - growth) * (y - 0.5) + dy]])
    return cv2.warpAffine(image, matrix, (HW[1], HW[0]), borderMode=cv2.BORDER_REFLECT)


def moved_boxes(boxes, dx=0.0, dy=0.0, growth=1.0):
    centre = np.array([HW[1], HW[0]] * 2) / 2
    return (boxes - centre) * growth + centre + [dx, dy, dx, dy]


@settings(max_examples=25, deadline=None)
@given(dx=st.floats(-25, 25), dy=st.floats(-10, 10), growth=st.floats(0.93, 1.08))
def test_boxes_follow_the_picture(dx, dy, growth):
    boxes, found = move_boxes(flow_image(SCENE), flow_image(moved(dx, dy, growth)), BOXES)
    assert found.all()
    assert np.diag(box_iou(boxes, moved_boxes(BOXES, dx, dy, growth))).min() > 0.88


def test_what_cannot_be_followed_is_not_found():
    before = flow_image(SCENE)
    boxes = np.array([[560, 60, 639, 130], [100, 60, 180, 130]], dtype=float)
    _, found = move_boxes(before, flow_image(moved(dx=60)), boxes)
    assert found.tolist() == [False, True], 'the first has left the picture'
    _, found = move_boxes(before, flow_image(scene(5)), BOXES)
    assert not found.any(), 'another picture'
    flat = flow_image(np.full((*HW, 3), 90, np.uint8))
    assert not move_boxes(flat, flat, BOXES)[1].any() and not is_cut(flat, flat)
    assert is_cut(before, flow_image(scene(5))) and not is_cut(before, flow_image(moved(20, 5, 1.05)))
    boxes, found = move_boxes(before, before, np.zeros((0, 4)))
    assert boxes.shape == (0, 4) and found.shape == (0,)
    with pytest.raises(ValueError, match='expected one size'):
        move_boxes(before, flow_image(SCENE[:200]), BOXES)
    with pytest.raises(ValueError, match='expected'):
        flow_image(SCENE.astype(np.float32))


class Drive:
    """A carrier on a picture that moves 6 px a frame to the right."""

    def __init__(self, **changes):
        self.carrier = Carrier(CarrySettings(**changes))
        self.number, self.stamp_ns = 0, 0

    def view(self):
        return flow_image(moved(dx=6 * self.number))

    def expected(self):
        return moved_boxes(BOXES, dx=6 * self.number)

    def frame(self, answer=None, student=NONE, view=True, step_ns=PERIOD_NS):
        self.number, self.stamp_ns = self.number + 1, self.stamp_ns + step_ns
        shown = (self.view() if view is True else view) or None
        if answer is None:
            return self.carrier.unanswered(self.stamp_ns, shown, student)
        return self.carrier.answered(self.stamp_ns, shown, answer, student)

    def answer(self):
        """Return the teacher's answer to the next frame."""
        boxes = moved_boxes(BOXES, dx=6 * (self.number + 1))
        return dataclasses.replace(ANSWER, boxes_xyxy=boxes)


def test_boxes_are_carried_lose_score_and_expire():
    drive = Drive(frames=4, decay=0.9 ** 10, min_score=0.45)
    assert drive.frame().boxes == 0
    drive.frame(answer=drive.answer())
    for age in range(1, 5):
        found = drive.frame()
        kept = ANSWER.scores * 0.9 ** age >= 0.45
        assert (found.age_frames, found.boxes) == (age, kept.sum())
        assert np.allclose(found.detections.scores, ANSWER.scores[kept] * 0.9 ** age, atol=1e-5)
        assert np.diag(box_iou(found.detections.boxes_xyxy, drive.expected()[kept])).min() > 0.85
    assert drive.frame().boxes == 0 == len(drive.carrier._verdicts)
    drive.frame(answer=drive.answer())
    drive.frame(answer=NONE)
    assert drive.frame().boxes == 0, 'an answer without boxes is an answer'
    assert drive.carrier.counts['frames'] == 4 and drive.carrier.counts['resets'] == 0


def test_carried_and_own_boxes_meet_class_by_class():
    drive = Drive()
    drive.frame(answer=drive.answer())
    at = moved_boxes(BOXES, dx=12)
    # The same car, surer; another class in the same place; a car of its own.
    student = Detections(np.array([at[0], at[1], [10, 150, 60, 200]]), [0.95, 0.5, 0.7], [0, 0, 0])
    found = drive.frame(student=student)
    assert found.boxes == 3 and len(found.detections) == 5
    unseen = ANSWER.scores * 0.6 ** 0.1
    assert found.detections.scores == pytest.approx(
        np.sort([0.9, 0.5, 0.7, *unseen[1:]])[::-1]), 'the teacher told how sure of the car one may be'
    # And less sure: the same. What the student confirms loses no score, the others do.
    found = drive.frame(student=Detections(moved_boxes(BOXES[:1], dx=18), [0.5], [0]))
    assert found.boxes == 3 == len(found.detections)
    assert found.detections.scores == pytest.approx([0.9, *ANSWER.scores[1:] * 0.6 ** 0.2])


def test_what_the_teacher_refuted_gets_no_surer_until_it_is_asked_again():
    ghost, new = Detections([[10, 150, 60, 200]], [0.8], [0]), Detections([[500, 150, 560, 200]], [0.7], [0])
    drive = Drive(frames=3)

    def seen(*found):
        return drive.frame(student=Detections.concatenate(
            [dataclasses.replace(item, boxes_xyxy=item.boxes_xyxy + [6 * drive.number + 6, 0] * 2)
             for item in found]))

    def answer(boxes):
        at = [6 * drive.number + 6, 0] * 2
        drive.frame(answer=dataclasses.replace(boxes, boxes_xyxy=boxes.boxes_xyxy + at),
                    student=dataclasses.replace(ghost, boxes_xyxy=ghost.boxes_xyxy + at))
    answer(NONE)
    for age in range(1, 4):
        found = seen(ghost, new)
        assert (found.boxes, found.refuted, found.age_frames) == (0, 1, age)
        assert found.detections.scores == pytest.approx([0.7, 0.05]), "what is new is the student's"
    found = seen(ghost, new)
    assert found.refuted == 0 and found.detections.scores == pytest.approx([0.8, 0.7]), 'expired'
    answer(dataclasses.replace(ghost, scores=np.array([0.2])))
    assert seen(ghost).detections.scores == pytest.approx([0.2]), 'nearly refuted: what the teacher thought'
    answer(ghost)
    assert seen(ghost).refuted == 0


@pytest.mark.parametrize('break_it', [
    dict(step_ns=600 * MS), dict(step_ns=-1000 * MS), dict(step_ns=0),
    dict(view=flow_image(scene(5))), dict(view=flow_image(SCENE[:200]))],
    ids=['gap', 'clock', 'same stamp', 'cut', 'size'])
def test_nothing_is_carried_across_a_break(break_it):
    drive = Drive()
    drive.frame(answer=drive.answer())
    assert drive.frame().boxes == 3
    late_for = drive.stamp_ns
    assert drive.frame(**break_it).boxes == 0
    assert drive.carrier.counts['resets'] == 1
    assert not drive.carrier.late(late_for - PERIOD_NS, ANSWER)
    drive.frame(answer=drive.answer())
    assert drive.frame().boxes == 3, 'and goes on behind it'


def test_a_frame_without_its_image_is_passed_over():
    drive = Drive()
    drive.frame(answer=drive.answer())
    assert drive.frame(view=False) == (NONE, 0, 0, 0)
    found = drive.frame()
    assert (found.boxes, found.age_frames) == (3, 2)
    assert found.detections.scores[0] == pytest.approx(0.9 * 0.6 ** 0.2)
    drive.frame(answer=drive.answer(), view=False)
    assert drive.frame().boxes == 0, 'the answer to an image that is not known cannot be moved'


def test_a_late_answer_is_carried_on_to_the_newest_frame():
    drive = Drive()
    answer, stamp_ns = drive.answer(), PERIOD_NS
    drive.frame()
    for _ in range(4):
        drive.frame()
    assert drive.carrier.late(stamp_ns, answer)
    found = drive.frame()
    assert (found.boxes, found.age_frames) == (3, 5)
    assert found.detections.scores[0] == pytest.approx(0.9 * 0.6 ** 0.5)
    assert np.diag(box_iou(found.detections.boxes_xyxy, drive.expected())).min() > 0.8
    assert not drive.carrier.late(stamp_ns, answer), 'a second time'
    drive.frame(answer=NONE)
    assert not drive.carrier.late(2 * PERIOD_NS, answer), 'a newer answer is here'
    assert not drive.carrier.late(77, answer), 'never seen'
    assert drive.frame().boxes == 0


def test_images_are_wanted_only_where_they_are_of_use():
    off = Carrier(CarrySettings(frames=0))
    assert not off.wants_view(True) and not off.wants_view(False)
    off.answered(1, flow_image(SCENE), ANSWER, NONE)
    assert off.unanswered(2, flow_image(SCENE), NONE).boxes == 0
    carrier = Carrier(CarrySettings(frames=3))
    assert not carrier.wants_view(False)
    assert [carrier.wants_view(asked) for asked in (True, False, False, False, False, False)] == [
        True, True, True, True, False, False], 'as long as a late answer may be carried'
    for bad in (dict(frames=-1), dict(decay=0.0), dict(min_score=2.0), dict(merge_iou=0.0), dict(max_boxes=0),
                dict(max_gap_ns=0)):
        with pytest.raises(ValueError):
            CarrySettings(**bad)


# --- ids ---

@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-8, 8), st.permutations(range(4))), min_size=2, max_size=12))
def test_an_object_keeps_its_id_however_it_is_listed(steps):
    tracks, at = Tracks(), np.array([[i * 100.0, 50, i * 100 + 40, 90] for i in range(4)])
    ids = {}
    for frame, (dx, order) in enumerate(steps):
        at = at + [dx, 0, dx, 0]
        given_ids = tracks.assign(Detections(at[order], [0.9] * 4, [0] * 4), (frame + 1) * PERIOD_NS)
        for who, track in zip(order, given_ids):
            assert ids.setdefault(who, track) == track
    assert sorted(ids.values()) == [1, 2, 3, 4]


def test_ids_end_with_their_track_and_are_not_given_again():
    tracks = Tracks(TrackSettings(max_missed=2))
    car = Detections([[0, 0, 40, 40]], [0.9], [0])

    def give(found, frame):
        return tracks.assign(found, frame * PERIOD_NS).tolist()
    assert give(car, 1) == [1]
    assert give(dataclasses.replace(car, class_ids=np.array([1])), 2) == [2], 'another class, another object'
    assert give(NONE, 3) == [] and give(car, 4) == [1], 'missed twice'
    assert [give(NONE, i) for i in (5, 6, 7)] == [[], [], []] and give(car, 8) == [3]
    assert give(car, 8) == [4] and give(car, 30) == [5], 'a stamp that does not rise, and a gap'
    # 10 px to the right a frame, out of sight for two: where it would be by its speed it is the same.
    walk = [Detections([[10 * i, 100, 10 * i + 20, 140]], [0.9], [1]) for i in range(8)]
    first = [give(walk[i], 31 + i) for i in range(4)][0]
    assert [give(NONE, 35), give(NONE, 36)] == [[], []] and give(walk[6], 37) == first
    assert len(tracks._ids) <= 3


def test_what_the_student_saw_and_sees_no_more_is_soon_gone():
    """It was moved to where its object is not; what the student never saw stays."""
    drive = Drive()
    drive.frame(answer=drive.answer(), student=Detections(moved_boxes(BOXES[:1], dx=6), [0.1], [0]))
    scores = [dict(zip(found.detections.class_ids.tolist(), found.detections.scores.tolist()))
              for found in (drive.frame() for _ in range(3))]
    assert scores[0][1] > scores[1][1] > scores[2][1] > 0.6
    confirmed = Drive()
    at = [Detections(moved_boxes(BOXES[:1], dx=6 * i), [0.1], [0]) for i in range(1, 5)]
    confirmed.frame(answer=confirmed.answer(), student=at[0])
    found = [confirmed.carrier.unanswered(
        i * PERIOD_NS, flow_image(moved(dx=6 * i)), NONE, at[i - 1]) for i in (2, 3, 4)]
    assert [item.detections.scores[0] for item in found] == pytest.approx([0.9] * 3), 'weakly, but it sees it'
    lost = Drive()
    lost.frame(answer=dataclasses.replace(lost.answer().select([0])), student=at[0])
    assert [lost.frame().boxes for _ in range(4)] == [1, 0, 0, 0]
