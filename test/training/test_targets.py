# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How labels and a pretrained network's view become targets."""

import numpy as np
import pytest

pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.boxes.detections import Detections
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.training.data.targets import (
    BICYCLE,
    CAR,
    find_riders,
    for_measuring,
    MOTORCYCLE,
    PERSON,
    reconcile,
)
from kd_perception.training.settings.run import DatasetSettings, PseudoLabelSettings

LABELS = ('Car', 'Pedestrian', 'Cyclist')
PSEUDO = PseudoLabelSettings()
RIDER = ([100, 100, 130, 180], [90, 140, 140, 200])  # a person's box over a machine's


def _objects(*items):
    boxes = np.array([box for _, box in items], float).reshape(-1, 4)
    return KittiObjects.from_boxes([kind for kind, _ in items], boxes)


def _seen(*items):
    return Detections(np.array([box for _, _, box in items], float).reshape(-1, 4),
                      np.array([score for _, score, _ in items], float),
                      np.array([coco for coco, _, _ in items], int))


def _reconcile(objects, seen=(), **settings):
    dataset = DatasetSettings('d', (100, 200), **settings)
    return reconcile(_objects(*objects), _seen(*seen), LABELS, dataset, PSEUDO)


def test_complete_set_takes_labels_as_they_are():
    labels = [('Car', [0, 0, 10, 10]), ('Tram', [0, 0, 50, 50])]
    targets = _reconcile(labels, [(PERSON, 0.9, [50, 50, 60, 90])])
    assert targets.class_ids.tolist() == [0] and len(targets.ignore_xyxy) == 0


def test_ignored_types_name_the_classes_they_excuse():
    targets = _reconcile([('Van', [0, 0, 10, 10])], ignore={'Van': ('Car',)})
    assert len(targets.boxes_xyxy) == 0 and targets.ignore_classes.tolist() == [[True, False, False]]


def test_unconfirmed_weak_label_is_ignored_not_learned():
    objects = [('Car', [0, 0, 100, 50]), ('Car', [200, 0, 300, 50])]
    targets = _reconcile(objects, [(CAR, 0.3, [2, 0, 98, 50])], verify=('Car',))
    np.testing.assert_array_equal(targets.boxes_xyxy, [[0, 0, 100, 50]])
    np.testing.assert_array_equal(targets.ignore_xyxy, [[200, 0, 300, 50]])
    assert targets.ignore_classes.all()


def test_incomplete_set_adds_sure_detections_and_ignores_doubtful_ones():
    seen = [(CAR, 0.6, [0, 0, 50, 30]), (PERSON, 0.3, [100, 0, 120, 60]), (CAR, 0.1, [200, 0, 250, 30])]
    targets = _reconcile([], seen, complete=False)
    assert targets.class_ids.tolist() == [0]
    assert targets.ignore_classes.tolist() == [[False, True, False]]


def test_detection_covered_by_a_label_adds_nothing():
    seen = [(CAR, 0.9, [1, 1, 49, 30]), (PERSON, 0.9, [110, 105, 130, 150])]
    targets = _reconcile([('Car', [0, 0, 50, 30]), ('Cyclist', [100, 100, 140, 200])], seen, complete=False)
    assert targets.class_ids.tolist() == [0, 2] and len(targets.ignore_xyxy) == 0


@pytest.mark.parametrize('machine, score, expected', [
    (BICYCLE, 0.8, 'Cyclist'), (MOTORCYCLE, 0.8, 'ignore'), (BICYCLE, 0.25, 'ignore'), (BICYCLE, 0.1, None)])
def test_person_over_a_machine_is_a_rider(machine, score, expected):
    person, below = RIDER
    riders = find_riders(_seen((PERSON, 0.9, person), (machine, score, below)), PSEUDO)
    assert (riders[0][0] if riders else None) == expected
    if riders:
        np.testing.assert_array_equal(riders[0][1], [90, 100, 140, 200])


def test_person_beside_a_bicycle_is_no_rider():
    person, _ = RIDER
    assert not find_riders(_seen((PERSON, 0.9, person), (BICYCLE, 0.9, [140, 150, 200, 200])), PSEUDO)


def test_pseudo_rider_becomes_one_cyclist_and_no_pedestrian():
    person, below = RIDER
    targets = _reconcile([], [(PERSON, 0.9, person), (BICYCLE, 0.8, below)], complete=False)
    assert targets.class_ids.tolist() == [2]


def test_pedestrian_on_a_motorcycle_is_ignored():
    person, below = RIDER
    targets = _reconcile([('Pedestrian', person), ('Misc', below)], riders_over=('Misc',))
    assert len(targets.class_ids) == 0 and targets.ignore_classes.all()


def test_rider_of_a_motorcycle_is_not_measured_either():
    person, below = RIDER
    objects = _objects(('Pedestrian', person), ('Misc', below), ('Pedestrian', [300, 0, 320, 60]))
    dataset = DatasetSettings('d', (100, 200), riders_over=('Misc',))
    assert for_measuring(objects, dataset).types == ('DontCare', 'Misc', 'Pedestrian')
    assert for_measuring(objects, DatasetSettings('d', (100, 200))).types == objects.types


def test_cyclist_is_verified_by_its_bicycle():
    person, below = RIDER
    box = [88, 98, 142, 202]
    alone = _reconcile([('Cyclist', box)], [(BICYCLE, 0.5, below)], verify=('Cyclist',))
    assert alone.class_ids.tolist() == [2]
    both = [(BICYCLE, 0.5, below), (MOTORCYCLE, 0.6, below)]
    assert _reconcile([('Cyclist', box)], both, verify=('Cyclist',)).class_ids.tolist() == []
