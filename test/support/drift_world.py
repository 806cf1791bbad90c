# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Streams of made-up frames whose correlation is known."""
import numpy as np

from kd_perception.drift.reference import build_reference


def correlated(frames, time, rng):
    """Return a Gaussian process (frames,) of variance 1; correlation falls by e in `time` frames, 0: none."""
    rho = np.exp(-1 / time) if time else 0.0
    noise = rng.normal(size=frames) * np.sqrt(1 - rho ** 2)
    values = np.empty(frames)
    last = rng.normal()
    for i, step in enumerate(noise):
        last = values[i] = rho * last + step
    return values


def frames_of(values, boxes=None):
    """Return frames with one scene quantity and, of `boxes` (F lists), one of boxes."""
    frames = [{'luminance': float(100 + 10 * value)} for value in values]
    for frame, heights in zip(frames, boxes if boxes is not None else ()):
        frame['height'] = np.asarray(heights, dtype=np.float64)
    return frames


def reference_of(frames, scene_frames=20, drives=None, **more):
    """Return the reference of one drive."""
    drives = [0] * len(frames) if drives is None else drives
    return build_reference(frames, drives, scene_frames, 10.0, **more)
