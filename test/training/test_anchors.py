# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Anchor clustering with distance 1 - IoU."""

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason='training needs torch')

from kd_perception.errors import TrainingError
from kd_perception.training.anchors import cluster_anchors, label_sizes, main, mean_best_iou, size_iou
from kd_perception.training.data.datasets import load_dataset
from kd_perception.training.settings.run import DatasetSettings

CENTRES = np.array([[12.0, 30.0], [40.0, 25.0], [110.0, 70.0], [300.0, 200.0]])


def blobs(spread=0.05, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([c * rng.normal(1, spread, (60, 2)) for c in CENTRES])


def test_iou_of_sizes():
    assert size_iou(np.array([[2.0, 4.0]]), np.array([[4.0, 2.0], [2.0, 4.0]])).tolist() == [[4 / 12, 1.0]]


def test_finds_the_clusters():
    found = cluster_anchors(blobs(), 4)
    assert np.allclose(found, CENTRES, rtol=0.03)
    assert mean_best_iou(blobs(), found) > 0.9


def test_large_boxes_do_not_outweigh_small_ones():
    """Euclidean k-means would split the scattered large boxes and merge the two small kinds."""
    rng = np.random.default_rng(1)
    sizes = np.concatenate([np.tile([10.0, 30.0], (50, 1)), np.tile([30.0, 10.0], (50, 1)),
                            rng.uniform(400, 500, (50, 2))])
    found = cluster_anchors(sizes, 3)
    assert sorted(found[:2].tolist()) == [[10.0, 30.0], [30.0, 10.0]]


def test_repeatable_and_better_with_more():
    sizes = blobs(0.4, 3).clip(1)
    assert np.array_equal(cluster_anchors(sizes, 3, seed=5), cluster_anchors(sizes, 3, seed=5))
    scores = [mean_best_iou(sizes, cluster_anchors(sizes, count)) for count in (1, 2, 4, 8)]
    assert scores == sorted(scores) and scores[-1] > scores[0]
    assert cluster_anchors(np.array([[3.0, 4.0]] * 5), 1).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize('sizes,count', [([[1, 1]] * 5, 2), ([[1, 1]], 0), (np.zeros((0, 2)), 1),
                                         ([[1, -1], [2, 2]], 1), ([[1, np.nan], [2, 2]], 1)])
def test_refusals(sizes, count):
    with pytest.raises(TrainingError, match='anchors'):
        cluster_anchors(np.array(sizes, float), count)


@pytest.fixture
def data(tmp_path):
    for name in ('label_2', 'images'):
        (tmp_path / 'site' / name).mkdir(parents=True)
    tail = '0 0 0 0 0 0 0'
    for name in 'ab':
        cv2.imwrite(str(tmp_path / 'site' / 'images' / f'{name}.png'), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / 'site' / 'label_2' / 'a.txt').write_text(
        f'Car 0 0 0 10 20 50 40 {tail}\nPedestrian 0 0 0 10 20 30 80 {tail}\n'
        f'DontCare -1 -1 -10 0 0 9 9 {tail}\n')
    (tmp_path / 'site' / 'label_2' / 'b.txt').write_text(f'Car 0 0 0 0 0 100 100 {tail}\n')
    (tmp_path / 'splits.json').write_text('{"site": {"train": ["a"]}}')
    return tmp_path


def test_sizes_are_those_of_the_letterboxed_input(data):
    images, _ = load_dataset(data, DatasetSettings('site', (1, 1)))
    sizes = label_sizes(images, (50, 200), ('Car', 'Pedestrian'))
    assert sizes.tolist() == [[20.0, 10.0], [10.0, 30.0], [50.0, 50.0]]  # halved: the height decides
    assert label_sizes(images, (50, 200), ('Tram',)).shape == (0, 2)


def test_command(data, capsys):
    arguments = ['--data', str(data), '--folder', 'site', '--split', 'train', '--input', '200x50']
    assert main([*arguments, '--count', '2']) == 0
    assert capsys.readouterr().out == (
        'anchors_px: [[20.0, 10.0], [10.0, 30.0]]  # 2 boxes, mean best IoU 1.000\n')
    assert main([*arguments, '--count', '9']) == 2
    assert main(['--data', 'x', '--folder', 'y', '--input', '12']) == 2
    assert 'expected WIDTHxHEIGHT' in capsys.readouterr().err
    assert main(['--data', 'x', '--folder', 'y']) == 2
