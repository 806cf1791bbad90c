# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Data sets, splits, augmentation and the sample stream."""

import dataclasses
import json

import cv2
import numpy as np
from PIL import Image
import pytest

pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.boxes.detections import Detections
from kd_perception.errors import LabelError, TrainingError
from kd_perception.training.data.augmentation import random_colours, random_crop
from kd_perception.training.data.datasets import hash_fraction, load_dataset, MixedStream
from kd_perception.training.data.rendered import render_dataset, render_scene
from kd_perception.training.data.targets import Targets
from kd_perception.training.settings.run import (
    AugmentationSettings,
    DatasetSettings,
    InitSettings,
    TrainingSettings,
)

PLAIN = AugmentationSettings(flip=0, around_object=0, brightness=0, contrast=0, gamma=0, saturation=0,
                             hue_deg=0, grey=0, blur=0, noise=0)


@pytest.fixture
def root(tmp_path):
    render_dataset(tmp_path / 'scenes', 8, seed=1)
    return tmp_path


def _settings(*datasets, **values):
    return TrainingSettings(('Car', 'Pedestrian', 'Cyclist'), (96, 128), (192, 384), datasets,
                            **{'steps': 4, 'batch': 2, 'init': InitSettings('random'), **values})


def _targets(boxes):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Targets(boxes, np.zeros(len(boxes), np.int64), np.zeros((0, 4), np.float32),
                   np.zeros((0, 3), bool))


def test_rendered_scene_is_the_same_for_a_seed_and_stays_inside():
    image, objects = render_scene(np.random.default_rng(5))
    again, _ = render_scene(np.random.default_rng(5))
    assert np.array_equal(image, again) and len(objects) >= 1
    assert (objects.boxes_xyxy >= 0).all() and (objects.boxes_xyxy <= [384, 192, 384, 192]).all()


def test_held_out_images_are_development_or_unread(root):
    share = sorted(hash_fraction(f'{i:06d}') for i in range(8))[4]
    training, development = load_dataset(root, DatasetSettings('scenes', (96, 128), train_below=share))
    assert len(training) == 4 and development == []
    developing = DatasetSettings('scenes', (96, 128), train_below=share, develop=True)
    training, development = load_dataset(root, developing)
    below = sorted(hash_fraction(f'{i:06d}') for i in range(8))[6]
    part = load_dataset(root, dataclasses.replace(developing, develop_below=below))[1]
    assert {image.name for image in part} < {image.name for image in development} and len(part) == 2
    names = [image.name for image in training], [image.name for image in development]
    assert len(names[0]) == 4 and len(names[1]) == 4 and not set(names[0]) & set(names[1])


def test_split_file_limits_the_names(root):
    (root / 'splits.json').write_text(json.dumps({'scenes': {'train': ['000003', '000001']}}))
    training, _ = load_dataset(root, DatasetSettings('scenes', (96, 128), split='train'))
    assert [image.name for image in training] == ['000001', '000003']
    with pytest.raises(TrainingError, match='splits.json: holds no list scenes.val'):
        load_dataset(root, DatasetSettings('scenes', (96, 128), split='val'))


def test_bad_data_is_one_clear_line(root):
    with pytest.raises(TrainingError, match='label_2: no such folder'):
        load_dataset(root, DatasetSettings('nothing', (96, 128)))
    (root / 'scenes' / 'images' / '000002.png').unlink()
    with pytest.raises(TrainingError, match='000002: no image'):
        load_dataset(root, DatasetSettings('scenes', (96, 128)))
    (root / 'scenes' / 'label_2' / '000002.txt').write_text('Car 0 0 nonsense\n')
    with pytest.raises(LabelError, match=r'000002.txt:1: '):
        load_dataset(root, DatasetSettings('scenes', (96, 128)))


def test_a_damaged_image_stops_training_with_its_name(root):
    training, _ = load_dataset(root, DatasetSettings('scenes', (96, 128)))
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    data = cv2.imencode('.jpg', noise)[1].tobytes()
    training[0].path.write_bytes(data[:20_000] + data[22_000:])
    with pytest.raises(TrainingError, match=f'{training[0].name}.*: corrupt_compressed'):
        training[0].read()


def test_training_sees_an_image_as_everybody_sees_it(root):
    training, _ = load_dataset(root, DatasetSettings('scenes', (96, 128)))
    path = training[0].path
    pixels, exif = Image.open(path).convert('RGB'), Image.Exif()
    exif[0x0112] = 6
    pixels.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert np.array_equal(training[0].read(), np.asarray(pixels)[..., ::-1])


def test_crop_keeps_boxes_on_their_pixels():
    rng = np.random.default_rng(0)
    for seed in range(30):
        image = np.zeros((200, 400, 3), np.uint8)
        x, y = rng.integers(20, 300), rng.integers(20, 120)
        w, h = rng.integers(40, 80), rng.integers(40, 70)
        image[y:y + h, x:x + w] = 255
        settings = AugmentationSettings(flip=0.5)
        crop, moved = random_crop(image, _targets([[x, y, x + w, y + h]]), (128, 256), (200, 700), settings,
                                  np.random.default_rng(seed))
        assert crop.shape == (128, 256, 3)
        for box in np.concatenate([moved.boxes_xyxy, moved.ignore_xyxy]):
            ys, xs = np.nonzero(crop[..., 0] > 180)
            found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            np.testing.assert_allclose(found, box, atol=1.6)


def test_windows_are_put_around_preferred_classes():
    image = np.zeros((100, 1000, 3), np.uint8)
    targets = dataclasses.replace(_targets([[x, 40, x + 20, 80] for x in (50, 250, 450, 900)]),
                                  class_ids=np.array([0, 0, 0, 1]))
    settings = AugmentationSettings(flip=0, around_object=1, prefer=('Pedestrian',), preference=0.8)
    preferred = np.array([False, True, False])
    seen = [1 in random_crop(image, targets, (96, 96), (1000, 1000), settings, np.random.default_rng(seed),
                             preferred)[1].class_ids for seed in range(200)]
    assert 0.75 < np.mean(seen) < 0.95, '0.8, and a quarter of the rest'
    nobody = dataclasses.replace(targets, class_ids=np.zeros(4, int))
    assert len(random_crop(image, nobody, (96, 96), (1000, 1000), settings, np.random.default_rng(0),
                           preferred)[1].class_ids)


def test_hardly_visible_boxes_become_ignored():
    image = np.zeros((100, 100, 3), np.uint8)
    settings = AugmentationSettings(flip=0, around_object=0, min_visible=0.5, min_height_px=10)
    targets = _targets([[0, 0, 100, 100], [40, 40, 60, 44]])
    _, moved = random_crop(image, targets, (32, 32), (100, 100), settings, np.random.default_rng(0))
    assert len(moved.boxes_xyxy) == 0
    assert (moved.ignore_classes == [True, False, False]).all() and len(moved.ignore_xyxy) >= 1


def test_image_smaller_than_the_window_is_padded_with_the_letterbox_grey():
    image = np.zeros((20, 20, 3), np.uint8)
    crop, moved = random_crop(image, _targets([[0, 0, 20, 20]]), (96, 96), (20, 20), PLAIN,
                              np.random.default_rng(3))
    assert (crop == 114).all(-1).sum() >= 96 * 96 - 22 * 22
    np.testing.assert_allclose(moved.boxes_xyxy[0, 2:] - moved.boxes_xyxy[0, :2], 20, atol=1e-3)


def test_colours_change_nothing_when_turned_off_and_something_otherwise():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(random_colours(image, PLAIN, np.random.default_rng(0)), image)
    changed = random_colours(image, AugmentationSettings(), np.random.default_rng(0))
    assert changed.dtype == np.uint8 and changed.shape == image.shape and not np.array_equal(changed, image)


def test_stream_depends_on_seed_and_index_alone(root):
    dataset = DatasetSettings('scenes', (256, 512))
    groups = [load_dataset(root, dataset)[0]]
    first = MixedStream(_settings(dataset), groups, lambda image: Detections.empty())
    again = MixedStream(_settings(dataset), groups, lambda image: Detections.empty())
    other = MixedStream(_settings(dataset, seed=1), groups, lambda image: Detections.empty())
    _ = first[0]
    assert len(first) == 8
    assert np.array_equal(first[5].image, again[5].image)
    assert not np.array_equal(first[5].image, first[4].image)
    assert not np.array_equal(first[5].image, other[5].image)


def test_shares_decide_how_often_a_set_is_drawn(root):
    (root / 'scenes').rename(root / 'a')
    render_dataset(root / 'b', 2, seed=9)
    for path in (root / 'b' / 'images').iterdir():  # tell the sets apart by a colour
        cv2.imwrite(str(path), np.full((192, 384, 3), 255, np.uint8))
    datasets = DatasetSettings('a', (384, 384), share=3.0), DatasetSettings('b', (384, 384), share=1.0)
    settings = _settings(*datasets, steps=100, augmentation=PLAIN)
    groups = [load_dataset(root, dataset)[0] for dataset in datasets]
    stream = MixedStream(settings, groups, lambda image: Detections.empty())
    white = np.mean([bool((stream[i].image == 255).all()) for i in range(200)])
    assert 0.15 < white < 0.35
