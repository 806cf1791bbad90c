# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Scene signals on images whose values are known beforehand."""

import cv2
import numpy as np
import pytest

from kd_perception.images.scene import DARK_BELOW, measure_scene, SATURATED_FROM


def flat(level, hw=(60, 80)):
    return np.full((*hw, 3), level, dtype=np.uint8)


def test_flat_image():
    scene = measure_scene(flat(100))
    assert scene.luminance == pytest.approx(100)
    assert (scene.contrast, scene.sharpness, scene.dark_share, scene.saturated_share) == (0, 0, 0, 0)


@pytest.mark.parametrize('level,dark', [(DARK_BELOW - 1, 1.0), (DARK_BELOW, 0.0)])
def test_dark_limit(level, dark):
    assert measure_scene(flat(level)).dark_share == dark


@pytest.mark.parametrize('level,saturated', [(SATURATED_FROM, 1.0), (SATURATED_FROM - 1, 0.0)])
def test_one_clipped_channel_is_enough(level, saturated):
    image = flat(10)
    image[..., 1] = level
    assert measure_scene(image).saturated_share == saturated


def test_halves():
    image = flat(0)
    image[:, 40:] = 255
    scene = measure_scene(image)
    assert scene.luminance == pytest.approx(127.5)
    assert scene.contrast == pytest.approx(127.5)
    assert (scene.dark_share, scene.saturated_share) == (0.5, 0.5)


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    scene = measure_scene(np.repeat(grey[..., None], 3, axis=2))
    padded = np.pad(grey.astype(np.int64), 1, mode='reflect')
    laplacian = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
                 - 4 * grey.astype(np.int64))
    assert scene.sharpness == pytest.approx(laplacian.var())


def test_blur_lowers_sharpness_and_nothing_much_else():
    image = np.random.default_rng(1).integers(60, 200, (375, 1242, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    sharp, blurred = measure_scene(image), measure_scene(cv2.GaussianBlur(image, (0, 0), 8))
    assert blurred.sharpness < 0.3 * sharp.sharpness
    assert blurred.luminance == pytest.approx(sharp.luminance, abs=1)


def test_resolution_does_not_decide_sharpness():
    """The same picture from a camera of twice the resolution measures about the same."""
    small = cv2.GaussianBlur(
        np.random.default_rng(2).integers(0, 256, (200, 480, 3)).astype(np.uint8), (0, 0), 4)
    large = cv2.resize(small, (960, 400), interpolation=cv2.INTER_CUBIC)
    assert measure_scene(large).sharpness == pytest.approx(measure_scene(small).sharpness, rel=0.25)


def test_tiny_and_long_images():
    assert measure_scene(flat(7, (1, 1))).luminance == pytest.approx(7)
    assert measure_scene(flat(7, (1, 5000))).luminance == pytest.approx(7)


@pytest.mark.parametrize('image', [
    np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8),
    np.zeros((5, 5, 3))])
def test_refuses_other_arrays(image):
    with pytest.raises(ValueError, match='expected'):
        measure_scene(image)
