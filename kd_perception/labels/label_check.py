# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Everything that is wrong with a folder of labelled images, each with file and line, in one pass."""
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd_perception.boxes.overlap import box_iou, clip_boxes
from kd_perception.errors import ImageError, LabelError
from kd_perception.images.compressed import decode_image_file, orientation_of
from kd_perception.labels.kitti_text import (
    decode_label_bytes,
    KittiObjects,
    parse_label_lines,
    read_label_bytes,
)
from kd_perception.labels.label_folder import list_frames
from kd_perception.labels.object_table import fold_case
from kd_perception.sources.folder_images import list_images
from kd_perception.sources.folders import read_image_bytes

CLASSES = ('Car', 'Pedestrian', 'Cyclist')
# The other types of KITTI's label files: they are neither right nor wrong, or neighbours of a class.
OTHER_TYPES = ('DontCare', 'Van', 'Truck', 'Tram', 'Misc', 'Person_sitting')
# What training reads; evaluation reads more.
_TRAINING_SUFFIXES = ('.jpg', '.jpeg', '.png')
# Boxes drawn to the border of an image end on its last pixel or behind it.
BORDER_PX = 1.5
_SAME_IOU = 0.9
_MIN_SIDE_PX = 1.0


@dataclass
class FolderCheck:
    """
    What was found.

    :ivar errors: ``place: what`` where training or evaluation stops, or a label is lost.
    :ivar warnings: ``place: what`` worth a look.
    :ivar images, label_files: counts. :ivar objects: number of labels by type.
    :ivar usable: names of the frames with an image that can be decoded and a label file without errors.
    :ivar image_hw: {name: (height, width)} of the images that could be decoded.
    :ivar labels: {name: the right lines of its label file}.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    images: int = 0
    label_files: int = 0
    objects: Counter = field(default_factory=Counter)
    usable: list[str] = field(default_factory=list)
    image_hw: dict[str, tuple[int, int]] = field(default_factory=dict)
    labels: dict[str, KittiObjects] = field(default_factory=dict)


def check_labels(images: Path, labels: Path, classes: Sequence[str] = CLASSES,
                 tick: Callable[[], object] = lambda: None,
                 look: Callable[[str, np.ndarray], object] | None = None) -> FolderCheck:
    """
    Check every label file and image of a data set.

    :param images, labels: folders of images and of label files `<image name>.txt`.
    :param classes: what is learned; other types than these and KITTI's are pointed out.
    :param tick: called for each label file, for a progress bar.
    :param look: called with name and pixels (H, W, 3) uint8 BGR of each labelled image that can be decoded.
    :raises LabelError: a folder is missing, or holds neither images nor labels.
    """
    result = FolderCheck()
    try:
        listed = list_images(images)
    except OSError as error:
        raise LabelError(f'{images}: cannot be read as a folder of images ({error.strerror})') from None
    found = listed.files
    result.warnings += listed.lines(images)
    files: dict[str, Path] = {}
    for path in found:
        twin = files.setdefault(path.stem, path)
        if twin is not path:
            result.errors.append(f'{path}: {twin.name} has the same name, and labels name no suffix')
    frames = list_frames(labels)
    if not frames or not found:
        raise LabelError(f'{labels}: no label file (*.txt)' if found else f'{images}: holds no image')
    result.images, result.label_files = len(found), len(frames)
    unknown: Counter = Counter()
    turned = 0
    for name, path in frames.items():
        before = len(result.errors)
        objects, numbers = _read(path, result)
        result.labels[name] = objects
        result.objects.update(objects.types)
        _check_types(path, objects, numbers, classes, result, unknown)
        image = files.get(name)
        if image is None:
            result.errors.append(f'{path}: no image {images / name}{"|".join(_TRAINING_SUFFIXES)}')
        else:
            if image.suffix not in _TRAINING_SUFFIXES:
                result.errors.append(f'{image}: training reads {" ".join(_TRAINING_SUFFIXES)} only')
            try:
                data = read_image_bytes(image)
                pixels = decode_image_file(data, image.name)
            except ImageError as error:
                result.errors.append(f'{image}: {error}')
            else:
                turned += orientation_of(data) != 1
                result.image_hw[name] = (int(pixels.shape[0]), int(pixels.shape[1]))
                _check_boxes(path, objects, numbers, result.image_hw[name], result)
                if look is not None:
                    look(name, pixels)
        if len(result.errors) == before:
            result.usable.append(name)
        tick()
    for kind, count in sorted(unknown.items()):
        result.warnings.append(f'{labels}: type {kind!r}, {count} objects, is neither a class nor one of '
                               "KITTI's: background in training, unless the configuration ignores it")
    for name in classes if tuple(classes) != CLASSES else ():
        if not result.objects[name]:
            result.warnings.append(f'{labels}: class {name!r}: no label has it')
    if turned:
        result.warnings.append(f'{images}: {turned} images are turned upright, as their EXIF data say; '
                               'their boxes must be those of the upright image')
    unlabelled = [path.name for stem, path in files.items() if stem not in frames]
    if unlabelled:
        result.warnings.append(f'{images}: {len(unlabelled)} images have no label file and are not used, '
                               f'first {unlabelled[0]}')
    return result


def _read(path: str, result: FolderCheck) -> tuple[KittiObjects, list[int]]:
    try:
        text = decode_label_bytes(read_label_bytes(path), path)
    except LabelError as error:
        result.errors.append(str(error))
        return KittiObjects.empty(), []
    objects, numbers, wrong = parse_label_lines(text, path)
    result.errors += wrong
    return objects, numbers


def _check_types(path: str, objects: KittiObjects, numbers: Sequence[int], classes: Sequence[str],
                 result: FolderCheck, unknown: Counter) -> None:
    spelled = {fold_case(name): name for name in (*OTHER_TYPES, *classes)}
    for name, number in zip(objects.types, numbers):
        meant = spelled.get(fold_case(name))
        if meant is None:
            unknown[name] += 1
        elif meant != name:
            result.errors.append(f'{path}:{number}: type is {name!r}, training reads {meant!r}')


def _check_boxes(path: str, objects: KittiObjects, numbers: Sequence[int], image_hw: tuple[int, int],
                 result: FolderCheck) -> None:
    boxes = objects.boxes_xyxy
    if not len(boxes):
        return
    height, width = image_hw
    inside = clip_boxes(boxes, image_hw)
    beyond = np.abs(boxes - inside).max(axis=1)
    sides = (inside[:, 2:] - inside[:, :2]).min(axis=1)
    for i, number in enumerate(numbers):
        shown = ' '.join(f'{value:g}' for value in boxes[i])
        if (boxes[i, 2:] <= 0).any() or boxes[i, 0] >= width or boxes[i, 1] >= height:
            result.errors.append(f'{path}:{number}: box {shown} lies outside its image of '
                                 f'{width}x{height} px')
        elif beyond[i] > BORDER_PX:
            result.warnings.append(f'{path}:{number}: box {shown} ends {beyond[i]:.0f} px outside its image '
                                   f'of {width}x{height} px')
        elif sides[i] < _MIN_SIDE_PX:
            result.warnings.append(f'{path}:{number}: box {shown} is under {_MIN_SIDE_PX:g} px wide or '
                                   'high')
    overlap = np.triu(box_iou(boxes, boxes), 1)
    for i, j in zip(*np.nonzero(overlap >= _SAME_IOU)):
        if objects.types[i] == objects.types[j]:
            result.warnings.append(f'{path}:{numbers[j]}: the same {objects.types[i]} as in line '
                                   f'{numbers[i]} (IoU {overlap[i, j]:.2f})')
