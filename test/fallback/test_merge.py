# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Label maps and merge policies."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.errors import ConfigError
from kd_perception.fallback.merge import LabelMap, Merger, MergeSettings

STUDENT, TEACHER = ('Car', 'Pedestrian'), ('Pedestrian', 'Truck', 'Car')
LABELS = LabelMap.by_name(STUDENT, TEACHER)
A, B, C = (0, 0, 10, 10), (100, 0, 110, 10), (200, 0, 210, 10)


def detections(*rows):
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5])


def rows(merged):
    d = merged.detections
    return [(LABELS.labels[c], round(float(s), 3), float(b[0]))
            for b, s, c in zip(d.boxes_xyxy, d.scores, d.class_ids)]


def test_labels_by_name():
    assert LABELS == LabelMap(('Car', 'Pedestrian', 'Truck'), (1, 2, 0))
    assert LabelMap.by_name(('a',), ('a',)) == LabelMap(('a',), (0,))


def test_aliases():
    labels = LabelMap.by_name(('Car', 'Cyclist'), ('bicycle', 'car'), {'car': 'Car', 'bicycle': 'Cyclist'})
    assert labels == LabelMap(('Car', 'Cyclist'), (1, 0))


@pytest.mark.parametrize('student,teacher,aliases,message', [
    (('Car',), ('car',), None, 'no class in common'), (('Car',), (), None, 'no class in common'),
    (('Car',), ('Car', 'Car'), None, 'teacher name a class twice'),
    (('Car', 'Car'), ('Car',), None, 'student name a class twice'),
    (('Car',), ('Car', 'car'), {'car': 'Car'}, 'teacher name a class twice'),
    (('Car',), ('Car',), {'auto': 'Car'}, "label alias 'auto'"),
    (('Car',), ('Car',), {'Car': 'Auto'}, 'Auto')])
def test_labels_refused(student, teacher, aliases, message):
    with pytest.raises(ConfigError, match=message) as error:
        LabelMap.by_name(student, teacher, aliases)
    assert '\n' not in str(error.value)


def test_replace():
    merged = Merger(LABELS).merge(detections((*A, 0.99, 0)), detections((*B, 0.5, 0), (*C, 0.7, 1)))
    assert rows(merged) == [('Truck', 0.7, 200), ('Pedestrian', 0.5, 100)]
    assert (merged.from_student, merged.cut) == (0, 0)
    assert len(Merger(LABELS).merge(detections((*A, 0.99, 0)), Detections.empty()).detections) == 0


UNION = MergeSettings('union', keep_score=0.6, same_iou=0.5, contradict_iou=0.7)


def union(student, teacher):
    return Merger(LABELS, UNION).merge(detections(*student), detections(*teacher))


def test_union_keeps_what_the_student_is_sure_of():
    merged = union([(*A, 0.9, 0), (*B, 0.59, 0), (*C, 0.6, 1)], [(50, 0, 60, 10, 0.8, 2)])
    assert rows(merged) == [('Car', 0.9, 0), ('Car', 0.8, 50), ('Pedestrian', 0.6, 200)]
    assert merged.from_student == 2


def test_union_knows_one_object_twice():
    shifted = (3, 0, 13, 10)        # IoU 7/13 with A
    assert rows(union([(*shifted, 0.9, 0)], [(*A, 0.5, 2)])) == [('Car', 0.5, 0)]
    further = (4, 0, 14, 10)        # IoU 6/14
    assert union([(*further, 0.9, 0)], [(*A, 0.5, 2)]).from_student == 1


def test_teacher_is_believed_about_the_name_of_an_object():
    assert rows(union([(*A, 0.9, 0)], [(*A, 0.5, 1)])) == [('Truck', 0.5, 0)]
    # Overlap of two classes below the limit: a person before a car.
    assert union([(3, 0, 13, 10, 0.9, 1)], [(*A, 0.5, 2)]).from_student == 1


def test_limits_belong_to_the_inside():
    half = (0, 0, 10, 5)
    assert union([(*half, 0.9, 0)], [(*A, 0.5, 2)]).from_student == 0      # IoU exactly 0.5


def test_of_equal_scores_the_teacher_comes_first():
    assert rows(union([(*A, 0.75, 0)], [(*B, 0.75, 2)])) == [('Car', 0.75, 100), ('Car', 0.75, 0)]


def test_union_with_nothing():
    assert rows(union([], [])) == []
    assert union([(*A, 0.9, 0)], []).from_student == 1
    assert rows(union([], [(*A, 0.9, 0)])) == [('Pedestrian', 0.9, 0)]


def test_student_only():
    merger = Merger(LABELS, MergeSettings(student_score=0.4))
    merged = merger.student_only(detections((*A, 0.39, 0), (*B, 0.4, 1), (*C, 0.8, 0)))
    assert rows(merged) == [('Car', 0.8, 200), ('Pedestrian', 0.4, 100)]
    assert merged.from_student == 2


def test_student_score_holds_in_a_union_too():
    merger = Merger(LABELS, MergeSettings('union', student_score=0.8, keep_score=0.6))
    assert merger.merge(detections((*A, 0.7, 0)), Detections.empty()).from_student == 0


@pytest.mark.parametrize('policy', ['replace', 'union'])
def test_huge_answers_are_cut_to_the_best_and_the_rest_is_counted(policy):
    merger = Merger(LABELS, MergeSettings(policy, max_detections=10))
    student = detections(*[(300 + 20 * i, 0, 310 + 20 * i, 10, 0.95, 0) for i in range(12)])
    teacher = detections(*[(20 * i, 50, 20 * i + 10, 60, i / 100, 2) for i in range(30)])
    merged = merger.merge(student, teacher)
    assert len(merged.detections) == 10
    if policy == 'replace':
        assert merged.cut == 20 and merged.detections.scores.min() == pytest.approx(0.20)
    else:
        assert merged.from_student == 10 and merged.cut == 20 + 2 + 10
    assert merger.student_only(student).cut == 2


@pytest.mark.parametrize('class_id', [-1, 3])
def test_class_ids_that_the_teacher_cannot_have(class_id):
    with pytest.raises(ValueError, match='class ids of the teacher'):
        Merger(LABELS).merge(Detections.empty(), detections((*A, 0.5, class_id)))


@pytest.mark.parametrize('change', [
    {'policy': 'vote'}, {'student_score': 1.1}, {'keep_score': -0.1}, {'same_iou': 0},
    {'contradict_iou': 1.1}, {'max_detections': 0}, {'max_detections': 1001}])
def test_settings_refuse(change):
    with pytest.raises(ValueError):
        MergeSettings(**change)


BOXES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30),
                           st.floats(0, 1, width=32), st.integers(0, 1)), max_size=8)


@settings(max_examples=80, deadline=None)
@given(BOXES, BOXES)
def test_union_holds_all_of_the_teacher_and_of_the_student_what_is_new(student, teacher):
    def build(items):
        return detections(*[(x, y, x + w, y + h, score, c) for x, y, w, h, score, c in items])
    student, teacher = build(student), build(teacher)
    merged = Merger(LABELS, UNION).merge(student, teacher)
    assert len(merged.detections) == len(teacher) + merged.from_student
    scores = merged.detections.scores
    assert (np.diff(scores) <= 0).all()
    for box, score, class_id in zip(teacher.boxes_xyxy, teacher.scores, teacher.class_ids):
        same = (merged.detections.boxes_xyxy == box).all(axis=1) & (scores == score)
        assert (same & (merged.detections.class_ids == LABELS.teacher_ids[class_id])).any()
    assert merged.from_student <= (student.scores >= UNION.keep_score).sum()
