# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Detections become labels, DontCare regions or nothing, beside the labels that an image has."""

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.labels.kitti_text import KittiObjects, parse_label_text
from kd_perception.labels.label_merge import merge_labels, Thresholds

LABELS = ('Car', 'Pedestrian', 'Cyclist')
THRESHOLDS = Thresholds({'Car': 0.45, 'Pedestrian': 0.5, 'Cyclist': 0.5}, 0.2)
CAR, WALKER, RIDER = 0, 1, 2


def merge(found, given=(), complete=(), image_hw=(200, 400)):
    """Merge detections (class, score, box) with labels (type, box)."""
    ids, scores, boxes = zip(*found) if found else ((), (), ())
    detections = Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
                            np.array(ids, np.int64))
    objects = KittiObjects.from_boxes([kind for kind, _ in given], np.array([box for _, box in given]))
    return merge_labels(objects, frozenset(complete), detections, LABELS, THRESHOLDS, image_hw)


@pytest.mark.parametrize('class_id, score, expected', [
    (CAR, 0.45, ['Car']), (CAR, 0.44, ['DontCare']), (CAR, 0.2, ['DontCare']), (CAR, 0.19, []),
    (WALKER, 0.49, ['DontCare']), (WALKER, 0.5, ['Pedestrian']), (RIDER, 0.9, ['Cyclist'])])
def test_the_score_decides(class_id, score, expected):
    # float32 scores: 0.45 and 0.2 are a little off as such.
    merged = merge([(class_id, np.nextafter(np.float32(score), np.float32(1)), (10, 20, 50, 60))])
    assert list(merged.objects.types) == expected
    assert sum(merged.added.values()) == len(set(expected) - {'DontCare'})
    assert sum(merged.ignored.values()) == expected.count('DontCare')
    if expected:
        assert merged.objects.boxes_xyxy.tolist() == [[10, 20, 50, 60]]
        assert merged.objects.truncation[0] == -1 and merged.objects.scores is None


def test_given_labels_stay_as_they_are_and_first():
    given = parse_label_text('Van 0.5 2 1.57 10.5 20.25 60 70 1.5 1.6 3.7 1 2 3 0.1\n', 'x', False)
    detections = Detections(np.array([[100, 20, 140, 60]], np.float32), np.array([0.9], np.float32),
                            np.array([CAR]))
    merged = merge_labels(given, frozenset(), detections, LABELS, THRESHOLDS, (200, 400)).objects
    assert merged.types == ('Van', 'Car') and merged.occlusion.tolist() == [2, -1]
    assert merged.dimensions[0].tolist() == [1.5, 1.6, 3.7] and merged.boxes_xyxy[0, 0] == 10.5


def test_covered_classes_are_not_asked_of_the_model():
    found = [(CAR, 0.9, (10, 10, 50, 50)), (WALKER, 0.9, (100, 10, 120, 60)), (CAR, 0.3, (200, 10, 250, 50))]
    merged = merge(found, [('Car', (300, 10, 340, 50))], ['Car'])
    assert merged.objects.types == ('Car', 'Pedestrian')
    assert dict(merged.added) == {'Pedestrian': 1} and not merged.ignored and not merged.known
    assert merge(found, [('Car', (300, 10, 340, 50))]).objects.types == (
        'Car', 'Car', 'Pedestrian', 'DontCare')


def test_what_a_label_tells_of_is_known():
    rider = ('Cyclist', (100, 20, 140, 120))
    known = [(CAR, 0.9, (12, 12, 52, 50)),            # the labelled car, a little off
             (WALKER, 0.9, (102, 20, 138, 90)),       # the person on the labelled bicycle
             (CAR, 0.9, (14, 20, 30, 40)),            # a part of the labelled car
             (CAR, 0.3, (205, 15, 225, 35))]          # in a region that is left out anyway
    merged = merge(known, [('Car', (10, 10, 50, 50)), rider, ('DontCare', (200, 10, 300, 60))])
    assert merged.objects.types == ('Car', 'Cyclist', 'DontCare')
    assert dict(merged.known) == {'Car': 3, 'Pedestrian': 1}


def test_a_sure_detection_inside_another_object_is_doubtful():
    merged = merge([(WALKER, 0.9, (30, 20, 50, 80))], [('Car', (10, 10, 150, 90))])
    assert merged.objects.types == ('Car', 'DontCare') and dict(merged.ignored) == {'Pedestrian': 1}


def test_of_two_classes_at_one_place_the_stronger_stays():
    merged = merge([(WALKER, 0.6, (10, 10, 40, 90)), (RIDER, 0.8, (10, 12, 42, 95))])
    assert merged.objects.types == ('Cyclist',) and dict(merged.known) == {'Pedestrian': 1}
    # Two of one class side by side are two objects: the model's own suppression has let them pass.
    both = merge([(WALKER, 0.6, (10, 10, 40, 90)), (WALKER, 0.8, (22, 10, 52, 90))])
    assert both.objects.types == ('Pedestrian', 'Pedestrian')
    # A doubtful one there is but its echo.
    echo = merge([(WALKER, 0.3, (10, 10, 40, 90)), (WALKER, 0.8, (22, 10, 52, 90))])
    assert echo.objects.types == ('Pedestrian',) and dict(echo.known) == {'Pedestrian': 1}


def test_boxes_are_cut_at_the_border_and_empty_ones_left_out():
    merged = merge([(CAR, 0.9, (-20, 150, 60, 230)), (CAR, 0.8, (400, 10, 430, 50))])
    assert merged.objects.boxes_xyxy.tolist() == [[0, 150, 60, 200]]


def test_nothing_found():
    assert len(merge([]).objects) == 0
    assert merge([], [('Car', (1, 2, 3, 4))]).objects.types == ('Car',)
