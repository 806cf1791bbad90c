# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the fallback looks at in an image, decoded once and only where somebody looks. Free of ROS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kd_perception.errors import ImageError
from kd_perception.fallback.flow import flow_image, FlowImage
from kd_perception.images.compressed import decode_compressed
from kd_perception.images.raw import decode_raw
from kd_perception.images.scene import measure_scene, SceneSignals
from kd_perception.messages.wire import SerializedImage


class FrameViews:
    """
    Views of one serialised image.

    :param bad: called once, with the reason, where the image cannot be decoded; its views are then None.
    """

    def __init__(self, image: SerializedImage, bad: Callable[[str], None]):
        """Decode nothing yet."""
        self._image, self._bad = image, bad
        self._bgr: np.ndarray | None = None
        self._tried = False

    def scene(self) -> SceneSignals | None:
        """Return the signals of the scene."""
        bgr = self._decoded()
        return None if bgr is None else measure_scene(bgr)

    def flow(self) -> FlowImage | None:
        """Return the image as boxes are carried through it."""
        bgr = self._decoded()
        return None if bgr is None else flow_image(bgr)

    def _decoded(self) -> np.ndarray | None:
        if not self._tried:
            self._tried = True
            try:
                self._bgr = self._decode()
            except ImageError as error:
                self._bad(str(error))
        return self._bgr

    def _decode(self) -> np.ndarray:
        image = self._image
        if image.height is None:
            return decode_compressed(np.frombuffer(image.data, np.uint8), image.encoding)
        return decode_raw(
            image.encoding, image.height, image.width, image.step, image.is_bigendian, image.data)
