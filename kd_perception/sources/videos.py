# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A video file as a source of frames."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path

import cv2
import numpy as np

from kd_perception.errors import BagError, ImageError
from kd_perception.images.compressed import decode_compressed
from kd_perception.limits import MAX_IMAGE_PIXELS
from kd_perception.sources.frames import (
    Camera,
    DEFAULT_FPS,
    Frame,
    FrameSource,
    NS_PER_S,
    one_camera,
    START_STAMP_NS,
)


class VideoSource(FrameSource):
    """
    The frames of a video, one camera.

    Stamps are the container's presentation times, counted from one second; where they are missing or do not
    rise, the frame rate stands in for them, and `problems` says so. Pixels are decoded while iterating (video
    cannot be decoded out of order), so a frame holds its own image. Motion JPEG is taken apart into its JPEG
    images, which are decoded as all others are: FFmpeg would conceal damage.

    :param cameras: at most one name.
    :param fps: frame rate to use instead of the file's stamps.
    :raises BagError: OpenCV cannot read it, or its size is absurd.
    """

    kind = 'video'

    def __init__(self, path: Path, cameras=None, fps: float | None = None):
        super().__init__(path)
        self._fps = fps
        capture = self._open()
        try:
            width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
            height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            rate = capture.get(cv2.CAP_PROP_FPS)
            turn = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
        finally:
            capture.release()
        if width <= 0 or height <= 0 or width * height > MAX_IMAGE_PIXELS:
            raise BagError(f'{path}: frames of {width}x{height}, expected 1 to {MAX_IMAGE_PIXELS} pixels')
        if not 0 < rate <= 1000:
            rate = DEFAULT_FPS
            self.note(f'the file gives no frame rate, {DEFAULT_FPS:g} frames a second are assumed')
        if turn:
            self.note(f'the frames are turned by {turn} degrees, as the video says')
        self.fps = fps or rate
        self.cameras = (Camera(one_camera(cameras, path), count=count if count > 0 else None),)
        self._jpeg = self._is_jpeg(height, width)

    def _is_jpeg(self, height: int, width: int) -> bool:
        """Tell whether each frame is one JPEG image, stored upright."""
        capture = self._open()
        try:
            code = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, 'little')
            if code.upper() != b'MJPG' or capture.get(cv2.CAP_PROP_ORIENTATION_META) != 0:
                return False
            whole, packet = capture.set(cv2.CAP_PROP_FORMAT, -1) and capture.read() or (False, None)
            # Interlaced Motion JPEG holds two images of half the height in a frame.
            return whole and decode_compressed(packet).shape[:2] == (height, width)
        except ImageError as error:
            return error.reason == 'corrupt_compressed'
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        # Restricted to FFmpeg: OpenCV's other backends take a name such as `img_%03d.png` for a pattern.
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            capture.release()
            raise BagError(f'{self.path}: not a video that OpenCV can read')
        return capture

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order of the file."""
        camera = self.cameras[0]
        capture = self._open()
        if self._jpeg:
            capture.set(cv2.CAP_PROP_FORMAT, -1)    # packets as they are stored
        served, last_ns = 0, None
        try:
            while True:
                whole, image = capture.read()
                if not whole:
                    break
                even_ns = START_STAMP_NS + round(served * NS_PER_S / self.fps)
                stamp_ns = even_ns
                if self._fps is None:
                    stamp_ns = START_STAMP_NS + round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1_000_000)
                    if last_ns is not None and stamp_ns <= last_ns:
                        stamp_ns = last_ns + round(NS_PER_S / self.fps)
                        self.note('presentation times are missing or do not rise; the frame rate stands in')
                last_ns = stamp_ns
                yield Frame(camera.name, stamp_ns, camera.name, f'{served:06d}', served, stamp_ns,
                            **self._pixels(image))
                served += 1
        finally:
            capture.release()
        # The container's count is an estimate for some formats; one frame off is no loss.
        self.lost = max(0, camera.count - served) if camera.count is not None else None
        if self.lost is not None and self.lost <= 1:
            self.lost = 0
        if self.lost:
            self.note(f'{self.lost} of {camera.count} frames cannot be read')
        if not served:
            raise BagError(f'{self.path}: no frame of this video can be read')

    def _pixels(self, image: np.ndarray) -> dict:
        """Return how a frame is decoded, and how it is had as it is stored."""
        if not self._jpeg:
            return {'_decode': lambda: image}
        data = image.tobytes()
        return {'_decode': functools.partial(decode_compressed, data, 'jpeg'),
                '_encoded': lambda: (data, 'jpeg')}
