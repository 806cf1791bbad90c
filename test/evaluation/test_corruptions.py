# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Artificial changes do what their names say, the same on every call, and leave their input alone."""
import numpy as np
import pytest

from kd_perception.errors import ConfigError
from kd_perception.evaluation.drift.corruptions import (
    blur,
    CORRUPTIONS,
    corruptions,
    lens_dirt,
    night,
    shifted_camera,
)
from kd_perception.images.scene import measure_scene


@pytest.fixture
def image():
    """Texture of all grey levels, and a bright band below the middle."""
    image = np.random.default_rng(0).integers(60, 200, (120, 200, 3), dtype=np.uint8)
    image[80:90] = 255
    return image


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_shape_type_and_input_stay(image, name):
    before = image.copy()
    first, second = CORRUPTIONS[name](image), CORRUPTIONS[name](image)
    assert first.shape == image.shape and first.dtype == np.uint8
    assert np.array_equal(first, second) and np.array_equal(image, before)
    assert not np.array_equal(first, image)


def test_night_is_dark_and_noisy(image):
    dark = measure_scene(night(image))
    assert dark.luminance == pytest.approx(measure_scene(image).luminance * 0.06 ** (1 / 2.2), rel=0.02)
    flat = np.full((100, 100, 3), 180, np.uint8)
    assert night(flat).std() == pytest.approx(4, rel=0.1) and night(flat, noise=0).std() == 0


def test_blur_takes_sharpness_and_leaves_the_light(image):
    before, after = measure_scene(image), measure_scene(blur(image, 0.01))
    assert after.sharpness < 0.1 * before.sharpness
    assert after.luminance == pytest.approx(before.luminance, abs=1)


def test_dirt_stays_where_it_is(image):
    other = np.full_like(image, 200)
    touched = [(lens_dirt(item).astype(int) - item).any(axis=2) for item in (image, other)]
    # An image's pixel may have the dirt's very colour: nearly all of the same places.
    assert (touched[0] == touched[1]).mean() > 0.95 and 0.1 < touched[1].mean() < 0.7


def test_a_shifted_camera_moves_the_scene(image):
    moved = shifted_camera(image, down_share=0.1, roll_deg=0)
    assert np.array_equal(moved[12:], image[:-12])
    assert not np.array_equal(shifted_camera(image, 0, 4), image)


def test_names_are_checked():
    assert corruptions('blur,night') == ('blur', 'night') and corruptions('') == ()
    with pytest.raises(ConfigError, match="'snow'; expected some of night, blur"):
        corruptions('night,snow')
