# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Average precision, intervals and the working threshold."""

import types

import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.evaluation.metrics.class_matches import ClassMatches
from kd_perception.evaluation.metrics.detector_matches import best_threshold, match_all, report, summary
from kd_perception.labels.kitti_text import KittiObjects

LABELS = ('Car', 'Pedestrian', 'Cyclist')


def _match(truth, found):
    """Match one image each; truth: (type, box), found: (class id, score, box)."""
    images = []
    for i, items in enumerate(truth):
        objects = KittiObjects.from_boxes([kind for kind, _ in items],
                                          np.array([box for _, box in items], float).reshape(-1, 4))
        images.append(types.SimpleNamespace(objects=objects, read=lambda i=i: i))
    detections = [Detections(np.array([box for _, _, box in items], float).reshape(-1, 4),
                             np.array([score for _, score, _ in items], float),
                             np.array([c for c, _, _ in items], int)) for items in found]
    return match_all(lambda i: detections[i], images, LABELS)


BOX, FAR, SMALL = [0, 0, 50, 50], [100, 0, 150, 50], [0, 100, 20, 120]


def test_perfect_detector_scores_one_even_on_one_object():
    matches = _match([[('Car', BOX)]], [[(0, 0.9, BOX)]])
    assert matches['Car'].average_precision() == 1.0
    assert np.isnan(matches['Cyclist'].average_precision())
    assert report(matches)['Cyclist']['ap50'] is None
    assert summary(report(matches)) == 'Car 1.000 (1), Pedestrian - (0), Cyclist - (0)'


def test_known_curve():
    # By score: hit, miss, hit of two objects: precision 1 at recall 1/2, 2/3 at 1.
    matches = _match([[('Car', BOX), ('Car', FAR)]],
                     [[(0, 0.9, BOX), (0, 0.8, [200, 0, 250, 50]), (0, 0.7, FAR)]])
    assert matches['Car'].average_precision() == pytest.approx((1 + 2 / 3) / 2)


def test_second_detection_of_an_object_is_a_false_alarm_and_neighbours_are_not():
    double = _match([[('Car', BOX)]], [[(0, 0.9, BOX), (0, 0.95, [100, 100, 150, 150])]])
    assert double['Car'].average_precision() == pytest.approx(0.5)
    van = _match([[('Car', BOX), ('Van', FAR)]], [[(0, 0.5, BOX), (0, 0.9, FAR)]])
    assert van['Car'].average_precision() == 1.0
    region = _match([[('Car', BOX), ('DontCare', FAR)]], [[(0, 0.5, BOX), (0, 0.9, FAR)]])
    assert region['Car'].average_precision() == 1.0


def test_objects_and_detections_under_25_px_do_not_count():
    matches = _match([[('Car', BOX), ('Car', SMALL)]], [[(0, 0.5, BOX), (0, 0.9, [60, 100, 80, 120])]])
    assert matches['Car'].objects.sum() == 1 and matches['Car'].average_precision() == 1.0


def test_interval_holds_the_figure_and_shrinks_with_more_images():
    rng = np.random.default_rng(0)

    def matches(count):
        hits = rng.random(4 * count) < 0.7
        return ClassMatches(rng.random(4 * count), hits, np.repeat(np.arange(count), 4), np.full(count, 4))
    few, many = matches(10), matches(200)
    for found in (few, many):
        low, high = found.interval()
        assert low <= found.average_precision() <= high
    assert np.diff(many.interval()) < np.diff(few.interval())
    nothing = ClassMatches(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), np.zeros(3, int))
    assert nothing.interval() is None


def test_resampling_an_image_twice_equals_doubling_it():
    matches = _match([[('Car', BOX)], [('Car', BOX)]], [[(0, 0.9, BOX)], [(0, 0.8, FAR)]])['Car']
    assert matches.average_precision(np.array([0, 0])) == 1.0
    assert matches.average_precision(np.array([1, 1])) == 0.0


def test_best_threshold_is_over_all_classes():
    car = ClassMatches(np.array([0.9, 0.6, 0.3]), np.array([True, True, False]), np.zeros(3, int),
                       np.array([2]))
    person = ClassMatches(np.array([0.5, 0.2]), np.array([True, False]), np.zeros(2, int), np.array([1]))
    assert best_threshold([car, person]) == (0.5, 1.0)
    nothing = ClassMatches(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), np.array([1]))
    score, f1 = best_threshold([nothing])
    assert np.isnan(score) and f1 == 0.0


def test_published_network_is_read_with_and_without_the_rider_rule(monkeypatch):
    pytest.importorskip('torch', reason='the training toolkit needs torch')
    from kd_perception.training.measure import published_detector
    person, bicycle, car = ([100, 100, 130, 180], [90, 140, 140, 200], [200, 100, 260, 150])
    boxes = np.array([person, bicycle, car], float)
    found = Detections(boxes, np.array([0.8, 0.6, 0.9]), np.array([0, 1, 2]))
    fake = types.SimpleNamespace(detect=lambda image, score: types.SimpleNamespace(detections=found))
    monkeypatch.setattr('kd_perception.training.measure.torch_detector', lambda network, spec: fake)
    network = types.SimpleNamespace(strides=(8, 16, 32, 64), reg_max=7)
    export = types.SimpleNamespace(score_low=0.05, nms_iou=0.6)
    settings = types.SimpleNamespace(export=export, labels=LABELS)
    plain = published_detector(network, settings, (64, 64), riders=False)(None)
    assert sorted(plain.class_ids.tolist()) == [0, 1]
    ruled = published_detector(network, settings, (64, 64), riders=True)(None)
    assert sorted(ruled.class_ids.tolist()) == [0, 2]
    np.testing.assert_array_equal(ruled.boxes_xyxy[ruled.class_ids == 2], [[90, 100, 140, 200]])
