# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Artificial changes of images that a drift monitor should notice: night, blur, lens dirt, a shifted camera.

After the idea of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), for a fixed camera: dirt stays where it
is from frame to frame. They stand in for the real thing, and are milder in some ways and cruder in others.
"""
from collections.abc import Callable, Mapping
import functools

import cv2
import numpy as np

from kd_perception.errors import ConfigError

_GAMMA = 2.2
_DIRT_SEED = 7


def night(image_bgr: np.ndarray, exposure: float = 0.06, noise: float = 4.0, seed: int = 0) -> np.ndarray:
    """
    Darken in linear light and add sensor noise.

    :param image_bgr: (H, W, 3) uint8. :param exposure: share of the light that is left.
    :param noise: standard deviation in grey levels. :param seed: of the noise.
    """
    table = (255 * exposure ** (1 / _GAMMA) * (np.arange(256) / 255)).astype(np.float32)
    dark = table[image_bgr]
    dark += np.random.default_rng(seed).normal(0, noise, image_bgr.shape).astype(np.float32)
    return np.clip(np.rint(dark), 0, 255).astype(np.uint8)


def blur(image_bgr: np.ndarray, sigma_share: float = 0.003) -> np.ndarray:
    """
    Take the lens out of focus.

    :param sigma_share: standard deviation of a Gaussian, as a share of the image's longer side.
    """
    sigma = sigma_share * max(image_bgr.shape[:2])
    return cv2.GaussianBlur(image_bgr, (0, 0), sigma)


def lens_dirt(image_bgr: np.ndarray, spots: int = 25, opacity: float = 0.85) -> np.ndarray:
    """
    Put soft-edged brown spots on the lens, the same ones on every frame of a size.

    :param spots: how many; with 25 about a quarter of the picture is covered.
    :param opacity: at a spot's centre, 0 to 1.
    """
    mask = opacity * _spots(*image_bgr.shape[:2], spots)[..., None]
    return np.rint(image_bgr * (1 - mask) + np.array((50, 65, 75)) * mask).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _spots(height: int, width: int, spots: int) -> np.ndarray:
    """Return (H, W) float32 in [0, 1]."""
    rng = np.random.default_rng(_DIRT_SEED)
    mask = np.zeros((height, width), np.float32)
    side = (height * width) ** 0.5
    for x, y, radius in zip(rng.uniform(0, width, spots), rng.uniform(0, height, spots),
                            rng.uniform(0.02, 0.09, spots) * side):
        cv2.circle(mask, (int(x), int(y)), max(1, int(radius)), 1.0, -1)
    return cv2.GaussianBlur(mask, (0, 0), max(1.0, 0.015 * side))


def shifted_camera(image_bgr: np.ndarray, down_share: float = 0.15, roll_deg: float = 4.0) -> np.ndarray:
    """
    Turn the camera up and to the side, as by a bent bracket: the scene moves down and rolls.

    :param down_share: of the image height. :param roll_deg: counter-clockwise about the centre.
    """
    height, width = image_bgr.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), roll_deg, 1.0)
    matrix[1, 2] += down_share * height
    return cv2.warpAffine(image_bgr, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)


CORRUPTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    'night': night, 'blur': blur, 'lens_dirt': lens_dirt, 'shifted_camera': shifted_camera}


def corruptions(names: str) -> tuple[str, ...]:
    """
    Read a list such as `night,blur`; empty: none.

    :raises ConfigError: an unknown name.
    """
    chosen = tuple(filter(None, names.split(',')))
    unknown = [name for name in chosen if name not in CORRUPTIONS]
    if unknown:
        raise ConfigError(f'unknown condition {unknown[0]!r:.60}; expected some of {", ".join(CORRUPTIONS)}')
    return chosen
