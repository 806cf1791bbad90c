# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What is evaluated: labels and detections of the same frames, and an account of the frames left out."""
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.errors import EvaluationError, ImageError
from kd_perception.labels.label_folder import list_frames, read_label_folder
from kd_perception.labels.object_table import ObjectTable
from kd_perception.output_folder import MARKER, unfinished_run_of

# Reasons of frames.dropped; those of undecodable images are `kd_perception.images.raw.REASONS`.
NO_LABELS = 'no_labels'
NO_DETECTIONS = 'no_detections'
_SHOWN = 3


@dataclass
class FrameSet:
    """
    Frames to evaluate (F of them).

    :ivar labels, detections: tables with the same frames in the same order.
    :ivar dropped: {reason: frames} that have no result; those with labels but without detections
        (`NO_DETECTIONS`) are evaluated nevertheless: each of their objects is missed.
    :ivar warnings: one line for each thing that a reader of the figures should know.
    :ivar data_sha256: digests by name of what was read.
    :ivar images: yields (index, image (H, W, 3) uint8 BGR) for those of the given frame indices that have an
        image, in any order; None where there are no images at all.
    :ivar signals: luminance and sharpness of each frame, None for one without; None: not measured.
    :ivar image_hw: (F, 2) int64 image sizes, or None.
    :ivar stamps_ns: (F,) int64 image stamps of bags, or None.
    :ivar bags: name of each frame's bag; empty outside bags.
    :ivar lost_messages: messages of the recordings known to be lost; None where that cannot be known.
    :ivar latency_ns: {stage: (K,) float64} durations.
    :ivar model: facts of the model (name, sha256, ...), empty where finished detections were read.
    :ivar source: where labels, detections, bags came from, for the report.
    """

    labels: ObjectTable
    detections: ObjectTable
    dropped: Counter = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    data_sha256: dict[str, str] = field(default_factory=dict)
    images: Callable[[Iterable[int]], Iterator[tuple[int, np.ndarray]]] | None = None
    signals: list[Any] | None = None
    image_hw: np.ndarray | None = None
    stamps_ns: np.ndarray | None = None
    bags: list[str] = field(default_factory=list)
    lost_messages: int | None = 0
    latency_ns: dict[str, np.ndarray] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)

    @property
    def frames(self) -> dict[str, Any]:
        """Return the account: total, processed, dropped by reason."""
        processed = len(self.labels.frames) - self.dropped[NO_DETECTIONS]
        dropped = {reason: count for reason, count in sorted(self.dropped.items()) if count}
        return {'total': processed + sum(dropped.values()), 'processed': processed, 'dropped': dropped}

    def check_scores(self) -> None:
        """Warn of scores outside 0 to 1: AP needs only their order, calibration needs probabilities."""
        scores = self.detections.scores
        outside = int(((scores < 0) | (scores > 1)).sum())
        if outside:
            self.warnings.append(
                f'{outside} of {len(scores)} scores lie outside 0 to 1 ({scores.min():g} to '
                f'{scores.max():g}): average precision uses only their order, calibration is left out')


def names(items: list[str]) -> str:
    """Return the first few names and how many more there are."""
    more = f' and {len(items) - _SHOWN} more' if len(items) > _SHOWN else ''
    return ', '.join(items[:_SHOWN]) + more


def read_frame_set(labels: str | os.PathLike, detections: str | os.PathLike,
                   images: str | os.PathLike | None = None) -> FrameSet:
    """
    Read finished KITTI text files.

    Detection files of frames that have no labels are left out, frames that have no detection file count
    as frames without detections; both are counted.

    :param images: folder of the frames' images, for the gallery and for automatic condition tags.
    :raises LabelError: a folder is missing or a file malformed.
    :raises EvaluationError: no label file, no detection file, or no frame in common.
    """
    label_files, detection_files = list_frames(labels), list_frames(detections)
    if not label_files:
        raise EvaluationError(f'{labels}: no label file (*.txt)')
    if not detection_files:
        raise EvaluationError(f'{detections}: no detection file (*.txt)')
    common = [frame for frame in label_files if frame in detection_files]
    if not common:
        raise EvaluationError(f'{detections}: no file is named as one of {labels}; for example '
                              f'{next(iter(detection_files))}.txt and {next(iter(label_files))}.txt')
    hashes = {'labels': hashlib.sha256(), 'detections': hashlib.sha256()}
    truth = read_label_folder(labels, False, list(label_files), hashes['labels'])
    found = read_label_folder(detections, True, common, hashes['detections'])
    if len(common) < len(label_files):
        place = {frame: i for i, frame in enumerate(common)}
        found = found.take_frames([place.get(frame, -1) for frame in label_files])
    result = FrameSet(truth, found, data_sha256={name: item.hexdigest() for name, item in hashes.items()},
                      source={'labels': str(labels), 'detections': str(detections)})
    unknown = [frame for frame in detection_files if frame not in label_files]
    missing = [frame for frame in label_files if frame not in detection_files]
    if unknown:
        result.dropped[NO_LABELS] = len(unknown)
        result.warnings.append(f'{len(unknown)} detection files have no labels and are left out: '
                               f'{names(unknown)}')
    if missing:
        result.dropped[NO_DETECTIONS] = len(missing)
        result.warnings.append(f'{len(missing)} labelled frames have no detection file, each of their '
                               f'objects counts as missed: {names(missing)}')
    unfinished = unfinished_run_of(Path(detections))
    if unfinished is not None:
        result.warnings.append(f'{detections}: its files are of a run that has not finished '
                               f'({MARKER} in {unfinished}); the figures are not those of the whole run')
    result.check_scores()
    if images is not None:
        attach_images(result, images)
    return result


def attach_images(frames: FrameSet, folder: str | os.PathLike) -> None:
    """
    Let ``frames.images`` read ``folder``; warn of frames that have no image there.

    :raises EvaluationError: no such folder, or no image of any frame in it.
    """
    # Imported here: finished text files are evaluated without OpenCV and rosbags.
    from kd_perception.sources.folders import images_in, read_image_file
    if not Path(folder).is_dir():
        raise EvaluationError(f'{folder}: no such folder of images')
    files = {path.stem: path for path in images_in(Path(folder))}
    found = [files.get(name) for name in frames.labels.frames]
    missing = [name for name, path in zip(frames.labels.frames, found) if path is None]
    if len(missing) == len(found):
        raise EvaluationError(f'{folder}: no image is named as one of the frames, for example '
                              f'{frames.labels.frames[0]}.png')
    if missing:
        frames.warnings.append(f'{len(missing)} frames have no image: {names(missing)}')
    unreadable: list[str] = []

    def images(indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            path = found[index]
            if path is None:
                continue
            try:
                yield index, read_image_file(path)
            except ImageError as error:
                if path.name not in unreadable:
                    unreadable.append(path.name)
                    frames.warnings.append(f'{path.name}: {error}')

    frames.images = images
    frames.source['images'] = str(folder)
