# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Frames replayed through the fallback's own logic, on a made-up drive whose motion and answers are known."""
import dataclasses

import numpy as np
import pytest

from hybrid_world import world
from kd_perception.boxes.detections import Detections
from kd_perception.evaluation.hybrid.curve import HybridAp, make_metrics
from kd_perception.evaluation.hybrid.replay import (
    class_ap,
    compare_ways,
    node_settings,
    replay,
    ReplayOptions,
    SimulatedTeacher,
)
from kd_perception.fallback.ambiguity import FeatureSettings
from kd_perception.fallback.flow import flow_image
from kd_perception.fallback.judge import Judge
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.object_table import ObjectTable

COUNT, STEP_PX = 60, 4
MS = 1_000_000
BOXES = np.array([[20, 50, 100, 110], [200, 60, 280, 120]], dtype=float)
JUDGE = Judge.of_scorer('signals', FeatureSettings())


@pytest.fixture(scope='module')
def drive():
    """Two cars go right with the whole picture; the student is blind, the teacher perfect."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (25, 120), dtype=np.uint8), np.ones((8, 8), np.uint8))
    frames, _ = world(COUNT, drive=True)
    boxes = [BOXES + [STEP_PX * i, 0, STEP_PX * i, 0] for i in range(COUNT)]
    seen = tuple(Detections(item, [0.9, 0.8], [0, 0]) for item in boxes)
    return dataclasses.replace(
        frames, teacher=seen, student=(Detections([[500, 0, 560, 60]], [0.2], [0]),) * COUNT,
        labels=ObjectTable.from_objects([KittiObjects.from_boxes(['Car'] * 2, item) for item in boxes],
                                        frames.names),
        views=tuple(flow_image(picture[:, 300 - STEP_PX * i:][:, :600].copy()) for i in range(COUNT)))


@pytest.fixture(scope='module')
def ap(drive):
    answers = drive.answers()
    return HybridAp(answers, make_metrics(answers)[0])


def recovered(drive, ap, share, **changes):
    options = ReplayOptions(shares=(share,), phases=1, **changes)
    found = compare_ways(drive, [ap], JUDGE, node_settings(JUDGE), options)[0]['ways']
    for way in found.values():
        assert way['sent'][0] <= share + 6 / COUNT
    return {name: way['recovered'][0] for name, way in found.items()}


def test_what_is_carried_is_worth_more_than_what_is_replaced(drive, ap):
    found = recovered(drive, ap, 1.0)
    assert found['regular, replaced'] == found['regular, carried'] == pytest.approx(1)
    assert found['gated, replaced'] == found['gated, carried'] == pytest.approx(1)
    found = recovered(drive, ap, 0.2)
    assert 0.15 < found['regular, replaced'] < 0.35 and found['regular, carried'] > 0.9


def test_late_answers_are_carried_and_replace_nothing(drive, ap):
    """A teacher that needs three frames' time, with a deadline of one and a half."""
    outputs = replay(drive, Judge.of_scorer('periodic', FeatureSettings()), node_settings(JUDGE),
                     ReplayOptions(teacher_ns=250 * MS))
    told = [output.provenance for output in outputs]
    assert all(item.deadline_met for item in told)
    assert not any(item.source.value == 'teacher' for item in told)
    assert sum(item.source.value == 'carried' for item in told) > COUNT / 4
    # Three frames have come meanwhile: the answer is never younger.
    assert min(item.carried_frames for item in told if item.carried) >= 2


def test_outputs_are_those_of_the_node(drive, ap):
    outputs = replay(drive, JUDGE, node_settings(JUDGE), ReplayOptions())
    assert [output.context for output in outputs] == list(range(COUNT)) == [o.sequence for o in outputs]
    assert {output.provenance.teacher_ns for output in outputs} == {None, 60 * MS}
    again = replay(drive, JUDGE, node_settings(JUDGE), ReplayOptions())
    assert all(np.array_equal(a.detections.boxes_xyxy, b.detections.boxes_xyxy)
               for a, b in zip(outputs, again))
    everything = np.ones(COUNT, dtype=bool)
    assert class_ap(drive, ap, drive.teacher) == pytest.approx(ap.of(everything))
    assert class_ap(drive, ap, drive.student) == pytest.approx(ap.of(~everything))
    skipped = replay(drive, JUDGE, node_settings(JUDGE), ReplayOptions(), skip=3)
    assert skipped[:3] == [None] * 3 and all(skipped[3:])


def test_lone_images_are_only_replaced():
    frames, _ = world(40)
    answers = frames.answers()
    options = ReplayOptions(shares=(0.3,), phases=2)
    aps = [HybridAp(answers, metric) for metric in make_metrics(answers)]
    for found in compare_ways(frames, aps, JUDGE, node_settings(JUDGE), options):
        assert set(found['ways']) == {'regular, replaced', 'gated, replaced'}
        assert found['ways']['gated, replaced']['recovered'][0] > 0


def test_the_simulated_teacher_works_on_one_image_and_keeps_the_newest():
    teacher = SimulatedTeacher(100)
    assert teacher.next_ns() is None
    for frame, now in ((1, 0), (2, 10), (3, 20)):
        teacher.ask(frame, now)
    assert teacher.next_ns() == 100 and teacher.answer() == 1
    assert teacher.next_ns() == 200 and teacher.answer() == 3 and teacher.next_ns() is None
    teacher.ask(4, 500)
    assert teacher.next_ns() == 600 and teacher.busy_ns == 300
