# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
KITTI folders: object, raw (synced and rectified) and tracking, as they are unpacked.

========  ===================================  ==========================  ==========================
layout    images                               labels                      calibration
========  ===================================  ==========================  ==========================
object    image_2/ or images/                  label_2/<frame>.txt         calib/<frame>.txt
raw       image_02/data/, timestamps.txt       label_2/<frame>.txt if any  calib_cam_to_cam.txt, here
                                                                           or one folder up
tracking  image_02/<sequence>/                 label_02/<sequence>.txt     calib/<sequence>.txt
========  ===================================  ==========================  ==========================

A folder ``training`` inside is entered. Sources: the readme.txt of the three development kits.
"""
from dataclasses import dataclass, field
import math
from pathlib import Path

import numpy as np

from kd_perception.errors import ConfigError, LabelError
from kd_perception.labels.kitti_text import decode_label_bytes, read_label_bytes

LAYOUTS = ('object', 'raw', 'tracking')
# Tracking labels give truncation as 0 (none), 1 (partly), 2 (largely) where the object labels give a share.
# These shares keep the levels inside the limits of KITTI's difficulties (0.15, 0.30, 0.50).
TRACKING_TRUNCATION = {'0': '0.00', '1': '0.30', '2': '0.60'}
_TRACKING_COLUMNS = 17


@dataclass(frozen=True)
class FrameLabel:
    """
    The label of one frame.

    :ivar text: in the format of label_2.
    :ivar track_ids: of each line, for tracking labels.
    :ivar original: the lines of a tracking file; empty where ``text`` is the file's own content.
    """

    text: str
    track_ids: tuple = ()
    original: str = ''


@dataclass(frozen=True)
class KittiFolder:
    """
    What was found.

    :ivar images: folder of the images.
    :ivar labels: by frame name, or None where the folder has no labels at all.
    :ivar calibration: folder of one file a frame, or one file.
    :ivar camera: KITTI's number of the camera (2 is the left colour camera).
    """

    layout: str
    images: Path
    camera: int
    labels: dict[str, FrameLabel] | None = None
    calibration: Path | None = None
    _cache: dict[Path, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def projection(self, frame: str) -> np.ndarray | None:
        """Return the rectified camera's projection matrix (3, 4) for a frame, None where there is none."""
        if self.calibration is None:
            return None
        path = self.calibration / f'{frame}.txt' if self.calibration.is_dir() else self.calibration
        if not path.is_file():
            return None
        if self.calibration.is_dir():
            return read_projection(path, self.camera)
        if path not in self._cache:
            self._cache[path] = read_projection(path, self.camera)
        return self._cache[path]


def read_projection(path: Path, camera: int) -> np.ndarray:
    """
    Read ``P2:`` (object, tracking) or ``P_rect_02:`` (raw) of a calibration file.

    :return: (3, 4) float64.
    :raises ConfigError: no such line, not 12 finite numbers, or no focal length.
    """
    names = (f'P{camera}', f'P_rect_{camera:02d}')
    try:
        text = decode_label_bytes(read_label_bytes(path), str(path))
    except LabelError as error:
        raise ConfigError(str(error)) from None
    for number, line in enumerate(text.split('\n'), 1):
        name, _, rest = line.strip().replace(':', ' ', 1).partition(' ')
        if name in names:
            try:
                values = [float(item) for item in rest.split()]
            except ValueError:
                values = []
            if len(values) != 12 or not all(map(math.isfinite, values)) or values[0] <= 0 or values[5] <= 0:
                raise ConfigError(f'{path}:{number}: {name} is no projection matrix of 12 numbers')
            return np.array(values).reshape(3, 4)
    raise ConfigError(f'{path}: no line {names[0]}: or {names[1]}:')


def read_tracking_labels(path: Path) -> dict[str, FrameLabel]:
    """
    Read a tracking label file as one label_2 text a frame, ``000000`` and so on.

    :raises LabelError: ``file:line: what``.
    """
    lines: dict[int, list[list[str]]] = {}
    text = decode_label_bytes(read_label_bytes(path), str(path))
    for number, line in enumerate(text.split('\n'), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != _TRACKING_COLUMNS:
            raise LabelError(f'{path}:{number}: {len(columns)} columns, {_TRACKING_COLUMNS} expected')
        if not (columns[0].isascii() and columns[0].isdigit()):
            raise LabelError(f'{path}:{number}: frame is {columns[0][:40]!r}, a number expected')
        lines.setdefault(int(columns[0]), []).append(columns)
    labels = {}
    for frame, rows in lines.items():
        out = [' '.join([row[2], TRACKING_TRUNCATION.get(row[3], row[3]), *row[4:]]) for row in rows]
        labels[f'{frame:06d}'] = FrameLabel('\n'.join(out) + '\n', tuple(row[1] for row in rows),
                                            '\n'.join(' '.join(row) for row in rows) + '\n')
    return labels


def read_frame_labels(folder: Path) -> dict[str, FrameLabel]:
    """Read a folder of label_2 files; the text stays as it is."""
    from kd_perception.labels.label_folder import list_frames
    return {name: FrameLabel(decode_label_bytes(read_label_bytes(path), path))
            for name, path in list_frames(folder).items()}


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def find_layout(root: Path, camera: int) -> str:
    """Return the layout of a folder; ConfigError where it is none of the three."""
    if (root / f'image_{camera:02d}' / 'data').is_dir():
        return 'raw'
    if (root / f'image_{camera:02d}').is_dir() and (root / f'label_{camera:02d}').is_dir():
        return 'tracking'
    if (root / f'image_{camera}').is_dir() or (root / 'images').is_dir():
        return 'object'
    raise ConfigError(f'{root}: no image_{camera}, images, image_{camera:02d}/data, or image_{camera:02d} '
                      f'with label_{camera:02d}; a KITTI object, raw or tracking folder expected')


def open_kitti_folder(root: Path, layout: str = 'auto', camera: int = 2, sequence: str | None = None,
                      labels: Path | None = None, calibration: Path | None = None) -> KittiFolder:
    """
    Find images, labels and calibration of a KITTI folder.

    :param sequence: of a tracking folder, such as 0000; may be left out where there is only one.
    :param labels: folder of label files (or a tracking label file) in place of the usual one.
    :param calibration: calibration file or folder in place of the usual one.
    :raises ConfigError: not such a folder, no such sequence, or an override that does not exist.
    :raises LabelError: a label file is malformed.
    """
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(f'{root}: no such folder')
    if (root / 'training').is_dir():
        root = root / 'training'
    if layout == 'auto':
        layout = find_layout(root, camera)
    elif layout not in LAYOUTS:
        raise ConfigError(f'layout {layout!r}: one of {", ".join(LAYOUTS)} expected')
    if layout == 'object':
        images = _first(root / f'image_{camera}', root / 'images')
        usual_labels = _first(root / f'label_{camera}', root / 'label_2')
        usual_calibration = _first(root / 'calib', root / 'calib_cam_to_cam.txt')
        # Drives cut into single frames come with the drive's calibration.
        if (root / 'calib_cam_to_cam.txt').is_file() and not (root / 'calib').is_dir():
            usual_calibration = root / 'calib_cam_to_cam.txt'
    elif layout == 'raw':
        images = _first(root / f'image_{camera:02d}')
        usual_labels = _first(root / f'label_{camera}', root / 'label_2')
        usual_calibration = _first(root / 'calib_cam_to_cam.txt', root.parent / 'calib_cam_to_cam.txt')
    else:
        folder = root / f'image_{camera:02d}'
        if sequence is None:
            found = sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []
            if len(found) != 1:
                raise ConfigError(f'{folder}: {len(found)} sequences, name one of '
                                  f'{", ".join(found[:5]) or "none"}')
            sequence = found[0]
        images = _first(folder / sequence)
        usual_labels = _first(root / f'label_{camera:02d}' / f'{sequence}.txt')
        usual_calibration = _first(root / 'calib' / f'{sequence}.txt')
    if images is None or not images.is_dir():
        raise ConfigError(f'{root}: no images of camera {camera} in the {layout} layout')
    for override in (labels, calibration):
        if override is not None and not Path(override).exists():
            raise ConfigError(f'{override}: no such file or folder')
    chosen = Path(labels) if labels else usual_labels
    texts = None
    if chosen is not None:
        texts = read_frame_labels(chosen) if chosen.is_dir() else read_tracking_labels(chosen)
    return KittiFolder(layout, images, camera, texts, Path(calibration) if calibration else usual_calibration)
