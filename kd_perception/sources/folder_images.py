# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Which files of a folder are its images: content decides, and what looks like an image is read or named.

A file with the suffix of an image is one, whatever it holds: if it cannot be decoded it is counted as such
and keeps its place beside the time stamps. Every other file is an image if its first bytes say so, unless it
goes with one (a thumbnail, `a.jpg.bak`, exiftool's `a.jpg_original`).
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from pathlib import Path

from kd_perception.errors import BagError
from kd_perception.files import natural_key
from kd_perception.images.kinds import image_kind, READ_KINDS

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.pgm', '.ppm', '.tif', '.tiff', '.webp')
MAX_IMAGES = 10_000_000
_HEAD_BYTES = 512
_NAMES_SHOWN = 5
# What cameras and editors write that is not read, told by suffix where the first bytes do not tell.
_OTHER_SUFFIXES = {
    **dict.fromkeys(('.arw', '.cr2', '.cr3', '.dng', '.nef', '.orf', '.raf', '.rw2'), 'raw photograph'),
    '.gif': 'GIF', '.heic': 'HEIC', '.heif': 'HEIC', '.avif': 'AVIF', '.jxl': 'JPEG XL', '.jp2': 'JPEG 2000',
    '.psd': 'Photoshop', '.exr': 'OpenEXR'}

_SUB_FOLDER = 'sub-folder with images'


@dataclasses.dataclass
class FolderImages:
    """
    The images of a folder, not of its sub-folders.

    :ivar files: in natural order of their names.
    :ivar by_content: names of those among them that no suffix gives away.
    :ivar left_out: what looks like an image or holds images and is not read: reason -> names.
    """

    files: list[Path] = dataclasses.field(default_factory=list)
    by_content: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def lines(self, folder: Path) -> list[str]:
        """Return one line each for what was read by content, and for what was left out."""
        lines = []
        if self.by_content:
            lines.append(f'{folder.name}: {len(self.by_content)} images by their content, not their names, '
                         f'are read too: {_shown(self.by_content)}')
        if self.left_out:
            lines.append(f'{folder.name}: left out: {self.left_out_text()}')
        return lines

    def forget_folders(self, names: Iterable[str]) -> None:
        """Name these sub-folders no more: they are read."""
        rest = [name for name in self.left_out.pop(_SUB_FOLDER, []) if name not in set(names)]
        if rest:
            self.left_out[_SUB_FOLDER] = rest

    def left_out_text(self) -> str:
        """Return counts, reasons and some names; empty where nothing was left out."""
        return ', '.join(f'{len(names)} {reason} ({_shown(names)})'
                         for reason, names in sorted(self.left_out.items()))


def list_images(folder: Path) -> FolderImages:
    """
    Sort the entries of a folder.

    :raises OSError: it cannot be read. :raises BagError: it holds more than `MAX_IMAGES`.
    """
    found = FolderImages()
    unnamed: list[Path] = []
    for item in sorted(folder.iterdir(), key=lambda item: natural_key(item.name)):
        reason = _sort(item, found.files, unnamed)
        if reason:
            found.left_out.setdefault(reason, []).append(item.name)
    _take_by_content(unnamed, found)
    if len(found.files) > MAX_IMAGES:
        raise BagError(f'{folder}: holds {len(found.files)} images, expected at most {MAX_IMAGES}')
    return found


def is_image_file(path: Path) -> bool:
    """Tell whether a file is an image, by suffix or content."""
    return path.suffix.lower() in IMAGE_SUFFIXES or path.is_file() and image_kind(_head(path)) in READ_KINDS


def _sort(item: Path, files: list[Path], unnamed: list[Path]) -> str:
    """
    Add an entry to the images by suffix or to those by content.

    :return: why it is left out; nothing if it is taken or no image.
    """
    hidden = item.name.startswith('.')
    if item.is_dir():
        return _SUB_FOLDER if not hidden and _holds_images(item) else ''
    # A link to nowhere has its place among the frames as a damaged image has; a pipe or socket has none.
    if not item.is_file() and not item.is_symlink():
        return ''
    if not hidden and item.suffix.lower() in IMAGE_SUFFIXES:
        files.append(item)
        return ''
    kind = image_kind(_head(item)) or _OTHER_SUFFIXES.get(item.suffix.lower(), '')
    if hidden:
        return 'hidden' if kind else ''
    # A raw photograph begins as a TIFF does.
    if kind == 'TIFF':
        return _OTHER_SUFFIXES.get(item.suffix.lower(), 'TIFF of another suffix')
    if kind in READ_KINDS:
        unnamed.append(item)
        return ''
    return kind


def _take_by_content(unnamed: list[Path], found: FolderImages) -> None:
    """Take images that no suffix gives away, but for those that go with one that has it."""
    known = {name for item in found.files for name in (item.stem, item.name)}
    for item in unnamed:
        if item.stem in known:
            found.left_out.setdefault('beside an image of that name', []).append(item.name)
        else:
            found.files.append(item)
            found.by_content.append(item.name)
    if found.by_content:
        found.files.sort(key=lambda item: natural_key(item.name))


def _holds_images(folder: Path) -> bool:
    """Tell whether a sub-folder holds an image by its suffix; one that cannot be read counts as none."""
    try:
        return any(item.suffix.lower() in (*IMAGE_SUFFIXES, *_OTHER_SUFFIXES) for item in folder.iterdir())
    except OSError:
        return False


def _head(path: Path) -> bytes:
    try:
        with path.open('rb') as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b''


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:_NAMES_SHOWN]) + (', ...' if len(names) > _NAMES_SHOWN else '')
