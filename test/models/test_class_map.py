# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Class maps and the rider rule: known scenes, and the rule spelt out as a loop."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.overlap import box_intersection_over_area
from kd_perception.boxes.riders import joined_boxes, ridden_machines
from kd_perception.models.class_map import ClassMap, RiderRule

NAMES = ('person', 'bicycle', 'car', 'motorcycle', '', 'man', 'truck')
LABELS = ('Car', 'Pedestrian', 'Cyclist', 'Truck')
RULE = RiderRule('Cyclist', ('person', 'man'), ('bicycle',), ('motorcycle',))
MAP = ClassMap(NAMES, {'car': 'Car', 'person': 'Pedestrian', 'man': 'Pedestrian', 'truck': 'Truck'}, RULE)
MAN, BELOW, ELSEWHERE = [10, 10, 30, 60], [5, 40, 35, 80], [200, 10, 220, 60]


def scene(*rows):
    """Return detections of (box, score, network class)."""
    return Detections(*(np.array(column) for column in zip(*rows)))


def answer(found, threshold=.3, classes=MAP):
    result = classes.finished(classes.relabelled(found, LABELS), LABELS, threshold)
    return [(LABELS[i], round(float(s), 2), box.tolist())
            for i, s, box in zip(result.class_ids, result.scores, result.boxes_xyxy)]


@pytest.mark.parametrize('rows, expected', [
    ([(MAN, .9, 0), (BELOW, .5, 1)], [('Cyclist', .9, [5, 10, 35, 80])]),
    ([(MAN, .9, 5), (BELOW, .15, 1)], [('Cyclist', .9, [5, 10, 35, 80])]),     # a doubtful bicycle is one too
    ([(MAN, .9, 0), (BELOW, .05, 1)], [('Pedestrian', .9, MAN)]),             # but for a very doubtful one
    ([(MAN, .9, 0), (BELOW, .5, 3)], []),                                     # a motorcyclist is neither
    ([(MAN, .9, 0), (BELOW, .5, 1), (BELOW, .8, 3)], []),                     # the likelier machine counts
    ([(MAN, .9, 0), (ELSEWHERE, .5, 1)], [('Pedestrian', .9, MAN)]),
    ([(BELOW, .9, 1), (MAN, .8, 2), (ELSEWHERE, .7, 6)], [('Car', .8, MAN), ('Truck', .7, ELSEWHERE)]),
    ([(MAN, .2, 0), (MAN, .9, 4)], []),                                       # below the threshold; no class
])
def test_known_scenes(rows, expected):
    assert answer(scene(*rows)) == expected


def test_without_a_rule_machines_keep_their_labels():
    plain = ClassMap(NAMES, {'person': 'Pedestrian', 'bicycle': 'Cyclist'})
    assert answer(scene((MAN, .9, 0), (BELOW, .5, 1)), classes=plain) == [
        ('Pedestrian', .9, MAN), ('Cyclist', .5, BELOW)]
    assert plain.least_score(.4) == .4 and MAP.least_score(.4) == .1 and MAP.least_score(.05) == .05


def test_the_like_suppress_each_other():
    ids = MAP.relabelled(scene((MAN, .9, 0), (MAN, .8, 5), (BELOW, .5, 1)), LABELS).class_ids.tolist()
    assert ids[0] == ids[1] != ids[2]      # person and man; the bicycle apart


BOXES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 50), st.integers(1, 50)),
                 max_size=6)


def corners(rows):
    rows = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)


@settings(max_examples=200)
@given(BOXES, BOXES)
def test_the_rule_agrees_with_a_loop(people, machines):
    people, machines = corners(people), corners(machines)
    scores = np.linspace(.3, .9, len(machines)) if len(machines) else np.zeros(0)
    found = ridden_machines(people, machines, scores)
    for person, which in zip(people, found):
        reach = person.copy()
        reach[3] += 0.3 * (reach[3] - reach[1])
        fits = [i for i, machine in enumerate(machines)
                if box_intersection_over_area(machine[None], reach[None])[0, 0] > 0.25
                and reach[0] < (machine[0] + machine[2]) / 2 < reach[2] and machine[1] > person[1]]
        assert which == (max(fits, key=lambda i: scores[i]) if fits else -1)
    pairs = joined_boxes(people[found >= 0], machines[found[found >= 0]])
    riding = people[found >= 0]
    assert (pairs[:, :2] <= riding[:, :2]).all() and (pairs[:, 2:] >= riding[:, 2:]).all()


@settings(max_examples=100)
@given(BOXES, st.integers(0, 2**32 - 1), st.floats(.1, .9))
def test_a_higher_threshold_only_drops(rows, seed, threshold):
    """Whoever looks at a part of the scores sees the same objects as who looks at all of them."""
    random = np.random.default_rng(seed)
    found = Detections(corners(rows), random.uniform(.05, 1, len(rows)), random.integers(0, 7, len(rows)))
    low, high = answer(found, .05), answer(found.above(MAP.least_score(threshold)), threshold)
    assert high == [entry for entry in low if entry in high] and len(high) == sum(
        score >= threshold for _, score, _ in low if abs(score - threshold) > .01) + sum(
        entry in high for entry in low if abs(entry[1] - threshold) <= .01)


@pytest.mark.parametrize('change, message', [
    ({'to': {'cat': 'Car'}}, 'the network has no class cat'),
    ({'to': {}}, 'none of the classes is mapped'),
    ({'names': ('car', 'car')}, 'names must differ'),
    ({'rider': RiderRule('Cyclist', ('person',), ('bike',))}, 'the network has no class bike'),
])
def test_bad_maps_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ClassMap(**{'names': NAMES, 'to': {'car': 'Car'}, 'rider': RULE, **change})
    with pytest.raises(ValueError, match='Truck is none of the labels'):
        MAP.check_labels(LABELS[:3])
