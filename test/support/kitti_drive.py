# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Small KITTI folders of drawn rectangles, which the rectangle model finds to the pixel."""
import cv2

from kd_perception.benchmark.rectangle_model import draw_rectangles

HW = (96, 128)
REST = '1.50 1.60 3.90 1.00 1.60 20.00 0.10'
PROJECTION = '100.0 0.0 64.0 4.5 0.0 100.0 48.0 -0.3 0.0 0.0 1.0 0.005'
# Frame: rectangles (class, box, brightness), and what the label says; the third frame's car is a miss.
CAR, BIKE = (0, (16, 24, 60, 70), 200), (2, (80, 10, 110, 60), 150)
FRAMES = (([CAR], ['Car 0.00 0 -1.57 16.00 24.00 60.00 70.00']),
          ([CAR, BIKE], ['Car 0.10 1 1.00 16.00 24.00 60.00 70.00',
                         'Cyclist 0.00 0 0.00 80.00 10.00 110.00 60.00',
                         'DontCare -1 -1 -10 1.00 1.00 9.25 9.50']),
          ([], ['Car 0.00 2 -1.57 16.00 24.00 60.00 70.00']),
          ([BIKE], []))
TEXTS = tuple(''.join(f'{line} {REST}\n' for line in lines) for _, lines in FRAMES)


def write_images(folder, suffix='.png', digits=6):
    """Write the frames' images."""
    folder.mkdir(parents=True)
    for i, (shapes, _) in enumerate(FRAMES):
        cv2.imwrite(str(folder / f'{i:0{digits}d}{suffix}'), draw_rectangles(HW, *shapes))
    return folder


def write_object(root, suffix='.png'):
    """Write a folder in the layout of the object set."""
    write_images(root / 'training' / 'image_2', suffix)
    for name in ('label_2', 'calib'):
        (root / 'training' / name).mkdir()
    for i, text in enumerate(TEXTS):
        (root / 'training' / 'label_2' / f'{i:06d}.txt').write_text(text)
        (root / 'training' / 'calib' / f'{i:06d}.txt').write_text(f'P0: {"0 " * 12}\nP2: {PROJECTION}\n')
    return root


def write_raw(root):
    """Write a folder in the layout of the raw data, with the calibration one folder up."""
    drive = root / '2011_09_26_drive_0005_sync'
    write_images(drive / 'image_02' / 'data', digits=10)
    stamps = [f'2011-09-26 13:02:25.{950000000 + i * 100000:09d}' for i in range(len(FRAMES))]
    (drive / 'image_02' / 'timestamps.txt').write_text('\n'.join(stamps) + '\n')
    (root / 'calib_cam_to_cam.txt').write_text(f'calib_time: x\nP_rect_00: 1\nP_rect_02: {PROJECTION}\n')
    return drive


def write_tracking(root):
    """Write a folder in the layout of the tracking set; the last frame has no line."""
    write_images(root / 'image_02' / '0007')
    for name in ('label_02', 'calib'):
        (root / name).mkdir()
    lines = []
    for i, (_, labels) in enumerate(FRAMES):
        for track, line in enumerate(labels):
            name, truncation, *rest = line.split()
            level = {'0.00': '0', '0.10': '1', '-1': '-1'}[truncation]
            lines.append(' '.join([str(i), str(track), name, level, *rest, REST]))
    (root / 'label_02' / '0007.txt').write_text('\n'.join(lines) + '\n')
    (root / 'calib' / '0007.txt').write_text(f'P2: {PROJECTION}\n')
    return root
