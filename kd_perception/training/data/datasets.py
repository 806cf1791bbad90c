# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Labelled images under one data root, mixed into an endless, resumable stream of training samples.

Sample number i is a pure function of (seed, i): an interrupted run goes on with the very samples it
would have seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from kd_perception.boxes.detections import Detections
from kd_perception.errors import ImageError, TrainingError
from kd_perception.evaluation.metrics.class_account import KITTI_TYPES, shown_counts
from kd_perception.files import read_text
from kd_perception.labels.kitti_text import KittiObjects, read_label_file
from kd_perception.labels.label_folder import list_frames
from kd_perception.sources.folders import read_image_file
from kd_perception.training.data.augmentation import random_colours, random_crop
from kd_perception.training.data.cutouts import collect, Cutout, paste
from kd_perception.training.data.targets import for_measuring, reconcile, Targets
from kd_perception.training.losses.detection_loss import ImageTargets
from kd_perception.training.settings.run import DatasetSettings, TrainingSettings

_SUFFIXES = ('.jpg', '.jpeg', '.png')
_MAX_SPLITS_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image of a set, with its labels as written."""

    dataset: DatasetSettings
    name: str
    path: Path
    objects: KittiObjects

    def read(self) -> np.ndarray:
        """Return (H, W, 3) uint8 BGR; raise TrainingError if it cannot be decoded."""
        try:
            return read_image_file(self.path)
        except ImageError as error:
            raise TrainingError(f'{self.path}: {error}') from error


def hash_fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone; used to hold images out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], 'big') / 2 ** 48


def load_dataset(root: Path, dataset: DatasetSettings) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """
    List a set's images, as (training, development); held-out images of other sets are in neither.

    :raises TrainingError: a folder, image or split is missing; LabelError: a label file is malformed.
    """
    folder = root / dataset.folder
    if not (folder / 'label_2').is_dir():
        raise TrainingError(f'{folder / "label_2"}: no such folder of label files')
    files = list_frames(folder / 'label_2')
    names = list(files) if dataset.split == 'all' else _split(root, dataset)
    training, development = [], []
    for name in names:
        fraction = hash_fraction(name)
        kept = fraction < dataset.train_below
        if kept or (dataset.develop and fraction < dataset.develop_below):
            objects = read_label_file(files.get(name, folder / 'label_2' / f'{name}.txt'), scores=False)
            image = LabelledImage(dataset, name, _image_path(folder / 'images', name), objects)
            if kept:
                training.append(image)
            else:
                development.append(dataclasses.replace(image, objects=for_measuring(objects, dataset)))
    if not training:
        raise TrainingError(f'{folder}: no image left to train on')
    return training, development


def unknown_types(images: Sequence[LabelledImage], labels: Sequence[str]) -> str:
    """
    Name the label types of a set that mean nothing to its training, with their counts; empty: there are none.

    Their objects are background: a misspelt class is unlearned without a word.

    :param labels: the classes that are learned.
    """
    counts = Counter(kind for image in images for kind in image.objects.types)
    known = {*labels, *KITTI_TYPES, *(kind for image in images[:1] for kind in (
        *image.dataset.ignore, *image.dataset.riders_over))}
    found = {kind: count for kind, count in counts.most_common() if kind not in known}
    return shown_counts(found) if found else ''


def _image_path(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (folder / f'{name}{suffix}').is_file():
            return folder / f'{name}{suffix}'
    raise TrainingError(f'{folder / name}: no image ({", ".join(_SUFFIXES)}) for this label')


def _split(root: Path, dataset: DatasetSettings) -> list[str]:
    path = root / 'splits.json'
    try:
        names = json.loads(read_text(path, _MAX_SPLITS_BYTES, TrainingError))[dataset.folder][dataset.split]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f'{path}: holds no list {dataset.folder}.{dataset.split}') from error
    return sorted(str(name) for name in names)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One training sample: (H, W, 3) uint8 BGR and its targets."""

    image: torch.Tensor
    targets: ImageTargets


class MixedStream(torch.utils.data.Dataset):
    """
    Training samples drawn from several sets by their shares.

    Decoded images are kept in memory up to `image_cache_mib`; each worker process keeps its own.

    :param images: training images of each set, in the order of the settings' datasets.
    :param pretrained: returns the pretrained network's detections of an image (80-class ids, image px).
    """

    def __init__(self, settings: TrainingSettings, images: Sequence[Sequence[LabelledImage]],
                 pretrained: Callable[[LabelledImage], Detections]):
        self.settings = settings
        self.images = [list(group) for group in images]
        shares = np.array([dataset.share for dataset in settings.datasets])
        self.cumulative = np.cumsum(shares / shares.sum())
        self.targets: list[list[Targets]] = [
            [reconcile(image.objects, pretrained(image), settings.labels, dataset, settings.pseudo_labels)
             for image in group] for dataset, group in zip(settings.datasets, self.images)]
        self._decoded: dict[tuple[int, int], np.ndarray] = {}
        self._room = settings.image_cache_mib << 20
        self._preferred = np.array([label in settings.augmentation.prefer for label in settings.labels])
        self._cutouts = self._cut_out()

    def _cut_out(self) -> list[list[Cutout]]:
        """Return cutouts of the classes that are pasted, by class."""
        chosen = self.settings.augmentation.paste
        if chosen.probability == 0:
            return []
        classes = [self.settings.labels.index(name) for name in chosen.classes]
        found = collect(((image.read, targets) for images, group in zip(self.images, self.targets)
                         for image, targets in zip(images, group)), classes, chosen)
        return [[cutout for cutout in found if cutout.class_id == index] for index in classes]

    def _pixels(self, group: int, chosen: int) -> np.ndarray:
        """Return an image, decoded once as long as there is room."""
        key = (group, chosen)
        if key in self._decoded:
            return self._decoded[key]
        image = self.images[group][chosen].read()
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._decoded[key] = image
        return image

    def __len__(self) -> int:
        """Return the number of samples of the whole run."""
        return self.settings.steps * self.settings.batch

    def __getitem__(self, index: int) -> Sample:
        """Build sample `index`: choose a set, an image, a crop and its colours."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, index])
        group = min(int(np.searchsorted(self.cumulative, rng.random(), side='right')), len(self.images) - 1)
        chosen = int(rng.integers(len(self.images[group])))
        dataset = settings.datasets[group]
        image, targets = random_crop(self._pixels(group, chosen), self.targets[group][chosen],
                                     settings.train_hw, dataset.width_px, settings.augmentation, rng,
                                     self._preferred)
        image, targets = paste(image, targets, self._cutouts, settings.augmentation.paste, rng)
        image = random_colours(image, settings.augmentation, rng)
        labelled = torch.tensor([label in dataset.labelled for label in settings.labels])
        return Sample(torch.from_numpy(image), ImageTargets(
            torch.from_numpy(targets.boxes_xyxy), torch.from_numpy(targets.class_ids),
            torch.from_numpy(targets.ignore_xyxy), torch.from_numpy(targets.ignore_classes),
            labelled, dataset.weight, dataset.distil))


def collate(samples: Sequence[Sample]) -> tuple[torch.Tensor, list[ImageTargets]]:
    """Stack the images of a batch to (N, H, W, 3) uint8; targets stay a list."""
    return torch.stack([sample.image for sample in samples]), [sample.targets for sample in samples]
