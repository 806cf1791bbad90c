# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Copies of people and riders: what is cut out, where it lands, what is labelled."""

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.boxes.overlap import box_intersection_over_area
from kd_perception.training.data.cutouts import collect, cut_out, Cutout, paste
from kd_perception.training.data.targets import Targets
from kd_perception.training.settings.run import PasteSettings

SETTINGS = PasteSettings(probability=1.0, classes=('Pedestrian',), most=3)
BOX = np.array([60.0, 40.0, 100.0, 140.0])


def targets(boxes, ids):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Targets(boxes, np.array(ids, np.int64), np.zeros((0, 4), np.float32), np.zeros((0, 3), bool))


@pytest.fixture(scope='module')
def scene():
    """A red ellipse that fills BOX, before green noise."""
    image = np.random.default_rng(0).integers(0, 60, (200, 200, 3)).astype(np.uint8)
    image[..., 1] += 120
    cv2.ellipse(image, (80, 90), (20, 50), 0, 0, 360, (20, 20, 220), -1)
    return image


def test_an_object_is_separated_from_its_background(scene):
    cutout = cut_out(scene, BOX, 1)
    assert cutout.class_id == 1 and cutout.bgr.shape == (100, 40, 3) and cutout.alpha.shape == (100, 40)
    truth = np.zeros((200, 200), np.float32)
    cv2.ellipse(truth, (80, 90), (20, 50), 0, 0, 360, 1, -1)
    assert np.abs(cutout.alpha - truth[40:140, 60:100]).mean() < 0.05
    assert cutout.alpha[0, 0] < 0.2 and cutout.alpha[50, 20] > 0.9


def test_no_outline_no_cutout():
    assert cut_out(np.full((200, 200, 3), 90, np.uint8), BOX, 1) is None


def test_only_large_whole_unhidden_objects_of_the_classes_are_taken(scene):
    reads = []

    def reader():
        reads.append(1)
        return scene
    small, cut, hidden = [60, 40, 70, 60], [160, 40, 200, 140], [90, 60, 130, 150]
    taken = collect([(reader, targets([BOX], [1]))], [1], SETTINGS)
    assert [c.class_id for c in taken] == [1]
    reads.clear()
    assert collect([(reader, targets([small], [1])), (reader, targets([BOX], [0]))], [1], SETTINGS) == []
    assert not reads, 'images without use are not even read'
    images = [(reader, targets([cut], [1])), (reader, targets([BOX, hidden], [1, 0]))]
    assert collect(images, [1], SETTINGS) == []


def test_copies_are_labelled_where_they_are_seen_and_hide_little():
    white = Cutout(1, np.full((80, 40, 3), 255, np.uint8), np.ones((80, 40), np.float32))
    grey = np.full((192, 320, 3), 100, np.uint8)
    car = [100.0, 100.0, 200.0, 180.0]
    for seed in range(40):
        image, new = paste(grey, targets([car], [0]), [[white]], SETTINGS, np.random.default_rng(seed))
        own, copies = new.boxes_xyxy[:1], new.boxes_xyxy[1:]
        assert own.tolist() == [car] and set(new.class_ids[1:]) <= {1} and len(copies) <= 3
        changed = (image != grey).any(-1)
        inside = np.zeros_like(changed)
        for left, top, right, bottom in copies.astype(int):
            assert 15 <= bottom - top <= 60 and 0 <= left < right <= 320 and bottom <= 192
            inside[top:bottom, left:right] = True
        assert (changed == inside).all()
        if len(copies):
            assert box_intersection_over_area(copies, own).max() <= 0.31
    assert (grey == 100).all(), 'the image itself is kept'


def test_switched_off_nothing_is_drawn_from_the_generator():
    rng = np.random.default_rng(0)
    image = np.zeros((8, 8, 3), np.uint8)
    same, _ = paste(image, targets([], []), [], PasteSettings(), rng)
    assert same is image and rng.random() == np.random.default_rng(0).random()
