# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A rendered street for `demo` where no real footage can be had.

It shows that topics, stamps and recordings work. It says nothing about how well a model detects: the figures
are drawn, not filmed, and everything that reports on it names it as rendered.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kd_perception.detection.drawing import write_png

SIZE_HW = (375, 1242)  # a KITTI camera
FPS = 10.0
_HORIZON_Y, _FOCAL_PX, _CAMERA_HEIGHT_M = 175, 720.0, 1.65
# (x [m], z [m], colour), and for people how far they walk [m]
_CARS = ((-1.8, 18.0, (60, 60, 170)), (1.9, 34.0, (150, 120, 60)), (5.2, 22.0, (190, 190, 190)))
_PEOPLE = ((-4.5, 14.0, (50, 70, 90), 1.0), (-5.0, 26.0, (120, 60, 60), -0.8),
           (7.5, 17.0, (40, 90, 60), -1.2))


def write_scene(folder: Path, frames: int = 100) -> Path:
    """
    Draw the scene as PNG files `000000.png`, ... in `folder`; returns it.

    :param frames: number of images, at `FPS` frames a second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*.png'):
        old.unlink()
    for number in range(frames):
        write_png(folder / f'{number:06d}.png', draw_frame(number / FPS))
    return folder


def draw_frame(time_s: float) -> np.ndarray:
    """Return the scene at a time, (375, 1242, 3) uint8 BGR."""
    height, width = SIZE_HW
    image = np.empty((height, width, 3), np.uint8)
    image[:_HORIZON_Y] = np.linspace((235, 200, 160), (245, 235, 225), _HORIZON_Y)[:, None]
    image[_HORIZON_Y:] = np.linspace((100, 100, 100), (80, 80, 80), height - _HORIZON_Y)[:, None]
    for side in (-1, 1):
        corners = [_project(side * 9.0, z) for z in (4.0, 80.0)]
        edge = 0 if side < 0 else width
        verge = np.array([*corners, (edge, _HORIZON_Y), (edge, height)])
        cv2.fillPoly(image, [verge], (130, 150, 150))
    for mark in range(12):
        near = 4.0 + (mark * 6.0 - 8.0 * time_s) % 72.0
        cv2.line(image, _project(0.2, near), _project(0.2, near + 2.5), (230, 230, 230), 2, cv2.LINE_AA)
    figures = [(z + 8.0 * np.sin(0.25 * time_s + x), x, _draw_car, colour) for x, z, colour in _CARS]
    figures += [(z, x + way * np.sin(0.4 * time_s), _draw_person, colour) for x, z, colour, way in _PEOPLE]
    for z, x, draw, colour in sorted(figures, key=lambda item: -item[0]):
        draw(image, x, max(z, 5.0), colour, time_s)
    text = f'rendered scene, not footage   {time_s:5.1f} s'
    cv2.putText(image, text, (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (60, 60, 60), 1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (3, 3), 0)


def _project(x_m: float, z_m: float, y_m: float = 0.0) -> tuple[int, int]:
    """Project a point: x to the right, y above the ground, z ahead."""
    return (round(SIZE_HW[1] / 2 + _FOCAL_PX * x_m / z_m),
            round(_HORIZON_Y + _FOCAL_PX * (_CAMERA_HEIGHT_M - y_m) / z_m))


def _draw_car(image, x, z, colour, time_s):
    dark = tuple(int(v * 0.45) for v in colour)
    (x0, y0), (x1, y1) = _project(x - 0.9, z, 0.95), _project(x + 0.9, z, 0.25)
    roof = ((-0.85, 0.9), (-0.6, 1.5), (0.6, 1.5), (0.85, 0.9))
    glass = ((-0.7, 0.95), (-0.52, 1.4), (0.52, 1.4), (0.7, 0.95))
    for shape, paint in ((roof, colour), (glass, (70, 60, 50))):
        cv2.fillPoly(image, [np.array([_project(x + dx, z, y) for dx, y in shape])], paint, cv2.LINE_AA)
    cv2.rectangle(image, (x0, y0), (x1, y1), colour, cv2.FILLED)
    for side in (-1, 1):
        wheel_x = x + side * 0.72
        cv2.rectangle(image, _project(wheel_x - 0.14, z, 0.4), _project(wheel_x + 0.14, z), dark, cv2.FILLED)
        lamp = sorted((_project(x + side * 0.62, z, 0.85), _project(x + side * 0.85, z, 0.72)))
        cv2.rectangle(image, lamp[0], lamp[1], (40, 40, 220), cv2.FILLED)
    cv2.rectangle(image, _project(x - 0.26, z, 0.6), _project(x + 0.26, z, 0.48), (225, 225, 225), cv2.FILLED)


def _draw_person(image, x, z, colour, time_s):
    scale = _FOCAL_PX / z
    step = 0.22 * np.sin(6.0 * time_s + x)
    for side, swing in ((-1, step), (1, -step)):
        cv2.line(image, _project(x, z, 0.85), _project(x + 0.06 * side + swing, z), (50, 45, 45),
                 max(1, round(0.15 * scale)), cv2.LINE_AA)
        cv2.line(image, _project(x + 0.2 * side, z, 1.4), _project(x + 0.24 * side - swing, z, 0.85), colour,
                 max(1, round(0.1 * scale)), cv2.LINE_AA)
    cv2.rectangle(image, _project(x - 0.2, z, 1.45), _project(x + 0.2, z, 0.8), colour, cv2.FILLED)
    cv2.circle(image, _project(x, z, 1.6), max(1, round(0.13 * scale)), (150, 175, 215), cv2.FILLED,
               cv2.LINE_AA)
