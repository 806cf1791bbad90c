# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Recordings made for tests: every image tells its camera and number."""

import cv2
import numpy as np

from kd_perception.bags.writer import BagWriter
from kd_perception.messages import build as messages

PERIOD_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


def numbered_image(number, hw=(24, 32), camera=0):
    """Return an (H, W, 3) uint8 image whose pixels hold its number."""
    image = np.zeros((*hw, 3), np.uint8)
    image[..., 0] = number
    image[..., 1] = camera
    image[..., 2] = np.arange(hw[1])
    return image


def stamp_of(number):
    """Return the stamp of image `number`."""
    return START_NS + number * PERIOD_NS


def write_bag(path, count=10, cameras=('front',), hw=(24, 32), storage=None, compressed=False,
              log_delay_ns=0):
    """Write `count` images for each camera; log times are `log_delay_ns` behind the stamps."""
    with BagWriter(path, storage) as writer:
        for number in range(count):
            for index, camera in enumerate(cameras):
                image = numbered_image(number, hw, index)
                stamp_ns = stamp_of(number) + index
                if compressed:
                    data = cv2.imencode('.png', image)[1].tobytes()
                    message = messages.compressed_image(data, 'png', stamp_ns, f'{camera}_optical')
                else:
                    message = messages.raw_image(image, stamp_ns, f'{camera}_optical')
                topic = f'/{camera}/image_raw' + ('/compressed' if compressed else '')
                writer.write(topic, message, stamp_ns + log_delay_ns)
    return path
