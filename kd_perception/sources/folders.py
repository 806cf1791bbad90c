# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Folders of images as a source of frames: plain ones, KITTI raw and odometry, a sub-folder per camera."""

from __future__ import annotations

from collections.abc import Iterator
import datetime
from decimal import Decimal
import functools
import heapq
from pathlib import Path
import re

import numpy as np

from kd_perception.errors import BagError, ImageError
from kd_perception.files import natural_key, read_text
from kd_perception.images.compressed import decode_image_file
from kd_perception.images.kinds import image_kind
from kd_perception.limits import MAX_COMPRESSED_BYTES
from kd_perception.sources.folder_images import FolderImages, IMAGE_SUFFIXES, list_images
from kd_perception.sources.frames import Camera, Frame, FrameSource, NS_PER_S, one_camera, START_STAMP_NS

_JPEG_PNG = {'.jpg': 'jpeg', '.jpeg': 'jpeg', '.png': 'png'}
NO_STAMPS = 'no time stamps'
MAX_TIMESTAMP_BYTES = 2 ** 30
_DATE_LINE = re.compile(r'(\d{4})-(\d{2})-(\d{2})[ T](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?$')


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder (not of its sub-folders) in natural order of their names."""
    return list_images(folder).files


def read_image_file(path: Path) -> np.ndarray:
    """
    Decode an image file.

    :return: (H, W, 3) uint8 BGR, upright (see `images.compressed`).
    :raises ImageError: missing, too large, truncated or not an image.
    """
    return decode_image_file(read_image_bytes(path), path.name)


def read_image_bytes(path: Path) -> bytes:
    """Return the content of an image file; ImageError if it is missing, empty or too large."""
    try:
        size = path.stat().st_size
        if not size:
            raise ImageError('short_data', f'{path.name} is empty')
        if size > MAX_COMPRESSED_BYTES:
            raise ImageError(
                'too_large', f'{path.name}: {size} bytes, expected at most {MAX_COMPRESSED_BYTES}')
        return path.read_bytes()
    except OSError as error:
        raise ImageError('short_data', f'{path.name} cannot be read ({error.strerror or error})') from None


def read_timestamps(path: Path) -> list[int]:
    """
    Read a file with one stamp a line.

    :return: ns, not decreasing. Understands KITTI raw (`2011-09-26 13:02:25.964389445`, taken as UTC),
        seconds with a decimal point (KITTI odometry `times.txt`), and integer nanoseconds. A timeline that
        begins before one second is shifted by one second, since ROS takes stamp 0 as "not set".
    :raises BagError: `file:line:` and what was expected.
    """
    stamps: list[int] = []
    for number, line in enumerate(read_text(path, MAX_TIMESTAMP_BYTES, BagError).split('\n'), 1):
        text = line.strip()
        if not text:
            continue
        try:
            stamp = _parse_stamp(text)
        except (ValueError, ArithmeticError):
            raise BagError(f'{path}:{number}: expected a date with time, seconds or integer nanoseconds, '
                           f'got {text[:60]!r}') from None
        if stamps and stamp < stamps[-1]:
            raise BagError(f'{path}:{number}: the stamp is earlier than the one before')
        stamps.append(stamp)
    if stamps and stamps[0] < START_STAMP_NS:
        stamps = [stamp + START_STAMP_NS for stamp in stamps]
    return stamps


def _parse_stamp(text: str) -> int:
    match = _DATE_LINE.match(text)
    if match:
        *date, fraction = match.groups()
        year, month, day, hour, minute, second = (int(part) for part in date)
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.timezone.utc)
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        delta = moment - epoch
        return (delta.days * 86400 + delta.seconds) * NS_PER_S + int((fraction or '0').ljust(9, '0'))
    value = Decimal(text) if text.lstrip('-').isdigit() else Decimal(text) * NS_PER_S
    # Compared before it becomes an int: 1e999999 would be one of a million digits.
    if not 0 <= value < 2 ** 62:
        raise ValueError('out of range')
    return int(value)


class FolderSource(FrameSource):
    """
    Images in one folder (one camera), or in sub-folders (a camera each, merged by stamp).

    :param cameras: with one folder: the camera's name; with sub-folders: which of them, None for all.
    :param fps: frame rate for images without time stamps.
    :param timestamps: file of stamps; None looks for `timestamps.txt` or `times.txt` in the folder and, for
        KITTI raw's `image_02/data`, in its parent.
    :raises BagError: no image, unknown camera, or as many stamps as images are not there.
    """

    kind = 'folder'

    def __init__(self, path: Path, cameras=None, fps: float = 10.0, timestamps: Path | None = None):
        super().__init__(path)
        if not 0 < fps <= 10_000:
            raise BagError(f'{path}: frame rate {fps} is out of range, expected 0 < fps <= 10000')
        self._fps = fps
        # camera -> ([image], [stamp_ns])
        self._images: dict[str, tuple[list[Path], list[int]]] = {}
        folder = path.parent if path.is_file() else path
        listed = FolderImages([path]) if path.is_file() else list_images(folder)
        # KITTI raw: image_02/data, image_02/timestamps.txt
        if not listed.files and images_in_if_dir(folder / 'data'):
            folder = folder / 'data'
            listed = list_images(folder)
        if listed.files:
            self._add(one_camera(cameras, path), listed, folder, timestamps)
        else:
            self._add_subfolders(path, listed, cameras, timestamps)
        self.cameras = tuple(Camera(name, count=len(files)) for name, (files, _) in self._images.items())

    def _add_subfolders(self, path, listed, cameras, timestamps):
        found: dict[str, tuple[Path, FolderImages]] = {}
        for folder in sorted((item for item in path.iterdir() if item.is_dir()),
                             key=lambda item: natural_key(item.name)):
            inner = folder / 'data' if images_in_if_dir(folder / 'data') else folder
            images = list_images(inner)
            if images.files:
                found[folder.name] = inner, images
        listed.forget_folders(found)
        if not found:
            others = f'; left out: {listed.left_out_text()}' if listed.left_out else ''
            raise BagError(f'{path}: holds no image ({" ".join(IMAGE_SUFFIXES)}){others}')
        if cameras is None and len(found) > 1 or cameras and set(cameras) <= set(found):
            chosen = {name: found[name] for name in (cameras or found)}
        elif len(found) == 1:
            chosen = {one_camera(cameras, path): next(iter(found.values()))}
        else:
            missing = ', '.join(name for name in cameras if name not in found)
            raise BagError(f'{path}: no camera {missing}; there is {", ".join(found)}')
        if timestamps is not None and len(chosen) > 1:
            raise BagError(f'{timestamps}: one file of stamps cannot serve {len(chosen)} cameras')
        self.problems += listed.lines(path)
        for name, (folder, images) in chosen.items():
            self._add(name, images, folder, timestamps)

    def _add(self, camera, listed, folder, timestamps):
        files = listed.files
        stamps_file = Path(timestamps) if timestamps else _find_timestamps(folder)
        if stamps_file is None:
            stamps = [START_STAMP_NS + round(i * NS_PER_S / self._fps) for i in range(len(files))]
            self.note(f'{folder.name}: {NO_STAMPS}, {self._fps:g} frames a second are assumed')
        else:
            if not stamps_file.is_file():
                raise BagError(f'{stamps_file}: no such file of time stamps')
            stamps = _match_stamps(read_timestamps(stamps_file), files, stamps_file)
        for line in listed.lines(folder):
            self.note(line)
        self._images[camera] = (files, stamps)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, of several cameras in stamp order."""
        streams = [self._camera_frames(name) for name in self._images]
        try:
            yield from heapq.merge(*streams, key=lambda frame: frame.stamp_ns)
        finally:
            self.note_turned()

    def _read(self, path: Path) -> np.ndarray:
        data = read_image_bytes(path)
        self.note_orientation(path, data)
        return decode_image_file(data, path.name)

    def _camera_frames(self, camera: str) -> Iterator[Frame]:
        files, stamps = self._images[camera]
        # 000001.png beside 000001.jpg: the suffix keeps their outputs apart.
        unique = len({item.stem for item in files}) == len(files)
        for index, (path, stamp_ns) in enumerate(zip(files, stamps)):
            image_format = _JPEG_PNG.get(path.suffix.lower())
            yield Frame(
                camera, stamp_ns, camera, path.stem if unique else path.name, index, stamp_ns,
                _decode=functools.partial(self._read, path),
                _encoded=functools.partial(_read_encoded, path, image_format) if image_format else None)


def images_in_if_dir(folder: Path) -> list[Path]:
    """Return the images of a folder, none if it is not a folder."""
    return images_in(folder) if folder.is_dir() else []


def _read_encoded(path: Path, image_format: str) -> tuple[bytes, str]:
    data = read_image_bytes(path)
    kind = image_kind(data[:4096]).lower()      # a PNG may be named .jpg
    return data, kind if kind in _JPEG_PNG.values() else image_format


def _find_timestamps(folder: Path) -> Path | None:
    places = [folder / 'timestamps.txt', folder / 'times.txt']
    if folder.name == 'data':
        places.append(folder.parent / 'timestamps.txt')
    return next((place for place in places if place.is_file()), None)


def _match_stamps(stamps: list[int], files: list[Path], stamps_file: Path) -> list[int]:
    """Pair stamps with images; KITTI drives with missing images pair by the number in the name."""
    if len(stamps) == len(files):
        return stamps
    if len(stamps) > len(files) and all(item.stem.isdigit() for item in files):
        numbers = [int(item.stem) for item in files]
        if numbers[-1] < len(stamps):
            return [stamps[number] for number in numbers]
    raise BagError(f'{stamps_file}: holds {len(stamps)} stamps for {len(files)} images')
