# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Fit an image into a fixed input size, as the model's training did, and map boxes both ways."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from kd_perception.models.spec import Placement

# Below this scale bilinear sampling skips source pixels and small objects alias away.
_AREA_BELOW_SCALE = 0.5


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """
    A resize into `target_hw`: by default aspect-preserving and centred, the rest padded.

    The resized image has whole pixels, so the two axes' scales differ at least by a rounding; boxes are
    mapped with the true scale of each axis, which makes `to_image` the exact inverse of
    `to_model`. Build it with `Letterbox.fit`.

    :param source_hw: (height, width) px of the image.
    :param target_hw: (height, width) px of the model input.
    :param resized_hw: (height, width) px of the image inside the model input.
    :param offset_xy: (left, top) px of that image inside the model input.
    """

    source_hw: tuple[int, int]
    target_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    offset_xy: tuple[int, int]

    @classmethod
    def fit(cls, source_hw: tuple[int, int], target_hw: tuple[int, int],
            placement: Placement = 'centre') -> Letterbox:
        """
        Find the largest placement of an image in the model input.

        :param placement: `centre` or `top_left` keep the aspect and pad; `stretch` fills the input.
        :raises ValueError: a side is not positive.
        """
        source_hw = int(source_hw[0]), int(source_hw[1])
        target_hw = int(target_hw[0]), int(target_hw[1])
        if min(source_hw + target_hw) <= 0:
            raise ValueError(f'sizes must be positive, got {source_hw} and {target_hw}')
        if placement == 'stretch':
            return cls(source_hw, target_hw, target_hw, (0, 0))
        scale = min(target_hw[0] / source_hw[0], target_hw[1] / source_hw[1])
        height, width = (min(t, max(1, round(s * scale))) for s, t in zip(source_hw, target_hw))
        resized_hw = height, width
        if placement == 'top_left':
            return cls(source_hw, target_hw, resized_hw, (0, 0))
        offset_xy = ((target_hw[1] - resized_hw[1]) // 2, (target_hw[0] - resized_hw[0]) // 2)
        return cls(source_hw, target_hw, resized_hw, offset_xy)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Model px per source px along x and y."""
        return self.resized_hw[1] / self.source_hw[1], self.resized_hw[0] / self.source_hw[0]

    def apply(self, image: np.ndarray, pad_value: int = 114, out: np.ndarray | None = None) -> np.ndarray:
        """
        Resize and pad an image.

        :param image: (H, W, 3) uint8 of `source_hw`; rows may be strided.
        :param pad_value: grey level of the padding (114, as the YOLO family pads).
        :param out: (target height, target width, 3) uint8 C-contiguous buffer to fill and return.
        :raises ValueError: the image is not of `source_hw`.
        """
        if image.shape[:2] != self.source_hw:
            raise ValueError(f'image is {image.shape[:2]}, expected {self.source_hw} (height, width)')
        height, width = self.resized_hw
        left, top = self.offset_xy
        if out is None:
            out = np.empty((*self.target_hw, image.shape[2]), dtype=np.uint8)
        out[:top] = pad_value
        out[top + height:] = pad_value
        out[top:top + height, :left] = pad_value
        out[top:top + height, left + width:] = pad_value
        inner = out[top:top + height, left:left + width]
        if self.resized_hw == self.source_hw:
            inner[...] = image
        else:
            area = min(self.scale_xy) < _AREA_BELOW_SCALE
            inner[...] = cv2.resize(
                image, (width, height), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
        return out

    def to_model(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Map boxes (N, 4) from source px to model px; float64."""
        scale, offset = self._affine()
        return np.asarray(boxes_xyxy, dtype=np.float64) * scale + offset

    def to_image(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Map boxes (N, 4) from model px to source px; float64, not clipped."""
        scale, offset = self._affine()
        return (np.asarray(boxes_xyxy, dtype=np.float64) - offset) / scale

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.scale_xy * 2), np.array(self.offset_xy * 2, dtype=np.float64)
