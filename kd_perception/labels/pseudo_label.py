# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Labels that models make: of folders that nobody has labelled, or beside labels of some classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.committee import load_committee
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import ConfigError, ImageError, KdPerceptionError
from kd_perception.files import read_text, write_whole
from kd_perception.labels.kitti_text import format_objects, KittiObjects, read_label_file
from kd_perception.labels.label_folder import list_frames
from kd_perception.labels.label_merge import (
    DEFAULT_SCORES,
    DEFAULT_UNCERTAIN,
    merge_labels,
    Thresholds,
)
from kd_perception.output_folder import cannot_be_written, OutputFolder
from kd_perception.progress import progress
from kd_perception.sources.folders import images_in, read_image_file

COMMAND = 'kd_perception pseudo-label'
SUMMARY_NAME = 'pseudo_labels.json'
# A committee's score is the mean of probabilities over all its members. What a single one sees
# falls between.
COMMITTEE_SCORES = {'Car': 0.5, 'Pedestrian': 0.4, 'Cyclist': 0.3}
COMMITTEE_UNCERTAIN = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Labeller:
    """
    What labels: a model, or a committee of several.

    :param detect: (H, W, 3) uint8 BGR and the lowest score wanted -> detections.
    :param facts: for the summary.
    :param scores: default label scores of classes that have their own; `uncertain`: default of
        `--uncertain`.
    """

    labels: tuple[str, ...]
    detect: Callable[[np.ndarray, float], Detections]
    facts: dict[str, Any]
    scores: dict[str, float]
    uncertain: float


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """
    A folder to label.

    :param name: of its output folder; `folder`: holds the images.
    :param given: labels by image name, where there are any.
    :param complete: classes that the given labels cover throughout.
    """

    name: str
    folder: Path
    images: list[Path]
    given: dict[str, KittiObjects]
    complete: frozenset[str]


def model_labeller(model: str, options: ExecutionOptions) -> Labeller:
    """Return one model as a labeller; ModelError as `OnnxDetector.named`."""
    detector = OnnxDetector.named(model, options)
    facts = {'name': detector.spec.name, 'file': model, 'sha256': detector.sha256,
             'labels': list(detector.spec.labels)}
    return Labeller(detector.spec.labels,
                    lambda image, score: detector.detect(image, score_threshold=score).detections,
                    {'model': facts}, DEFAULT_SCORES, DEFAULT_UNCERTAIN)


def committee_labeller(path: Path, options: ExecutionOptions) -> Labeller:
    """Return a committee as a labeller."""
    committee = load_committee(path, options)
    facts = {'file': str(path), 'members': committee.facts(), 'labels': list(committee.labels)}
    return Labeller(committee.labels,
                    lambda image, score: committee.detect(image).detections.above(score),
                    {'committee': facts}, COMMITTEE_SCORES, COMMITTEE_UNCERTAIN)


def pseudo_label(sets: Sequence[ImageSet], labeller: Labeller, thresholds: Thresholds, out: Path,
                 link_images: bool = False, overwrite: bool = False, quiet: bool = False) -> dict[str, Any]:
    """
    Write OUT/<set>/label_2/<image>.txt, and the summary last.

    :param link_images: also link OUT/<set>/images to the images. :param overwrite: an earlier run.
    :return: the summary.
    """
    _check_places(out, sets)
    summary: dict[str, Any] = {
        'command': COMMAND, **labeller.facts, 'scores': dict(thresholds.sure),
        'uncertain': thresholds.uncertain, 'sets': []}
    with OutputFolder(out, COMMAND, lambda: _earlier_files(out)) as folder:
        folder.make_room(overwrite, alone=False)
        _prepare(folder, sets, link_images)
        total = sum(len(image_set.images) for image_set in sets)
        with progress(total=total, unit='image', quiet=quiet) as bar:
            for image_set in sets:
                summary['sets'].append(_label_set(image_set, labeller, thresholds, folder, bar.update))
        summary['files'] = folder.files
        write_whole(folder.new(SUMMARY_NAME), json.dumps(summary, indent=1) + '\n')
    return summary


def _label_set(image_set: ImageSet, labeller: Labeller, thresholds: Thresholds, out: OutputFolder,
               tick: Callable[[], object]) -> dict[str, Any]:
    labels = labeller.labels
    added, ignored, known, skipped, given = Counter(), Counter(), Counter(), [], Counter()
    for path in image_set.images:
        tick()
        try:
            image = read_image_file(path)
        except ImageError as error:
            skipped.append({'name': path.name, 'reason': error.reason, 'detail': error.detail})
            continue
        objects = image_set.given.get(path.stem)
        # An image without a label file was not labelled at all, for any class.
        complete = image_set.complete if objects is not None else frozenset()
        objects = KittiObjects.empty() if objects is None else objects
        found = labeller.detect(image, thresholds.uncertain)
        merged = merge_labels(objects, complete, found, labels, thresholds, image.shape[:2])
        write_whole(out.new(f'{image_set.name}/label_2/{path.stem}.txt'), format_objects(merged.objects))
        given.update(objects.types)
        for total, part in ((added, merged.added), (ignored, merged.ignored), (known, merged.known)):
            total.update(part)
    without_image = set(image_set.given) - {path.stem for path in image_set.images}
    return {
        'set': image_set.name, 'images': str(image_set.folder),
        'labelled_images': len(image_set.images) - len(skipped),
        'given_label_files': len(image_set.given), 'covered_classes': sorted(image_set.complete),
        'given_objects': dict(sorted(given.items())), 'added': {name: added[name] for name in labels},
        'dont_care': {name: ignored[name] for name in labels},
        'known_already': {name: known[name] for name in labels},
        'label_files_without_image': len(without_image), 'skipped': skipped}


def image_sets(folders: Sequence[Path], covered: dict[str, frozenset[str]]) -> list[ImageSet]:
    """
    List what is to be labelled, with the labels that exist.

    :raises ConfigError: a folder is missing, empty or ambiguous, or it is not said what its labels
        cover; LabelError: a label file is malformed.
    """
    names = [folder.resolve().name for folder in folders]
    unknown = set(covered) - {*names, ''}
    if unknown:
        raise ConfigError(f'--labelled {sorted(unknown)[0]}: is not among the input folders '
                          f'({", ".join(names)})')
    sets: list[ImageSet] = []
    for name, folder in zip(names, folders):
        images_folder = folder / 'images' if (folder / 'images').is_dir() else folder
        try:
            images = images_in(images_folder)
        except OSError as error:
            raise ConfigError(f'{folder}: cannot be read as a folder of images '
                              f'({error.strerror or error})') from error
        if not images:
            raise ConfigError(f'{images_folder}: holds no images')
        if any(known.name == name for known in sets):
            raise ConfigError(f'{folder}: there are two folders called {name!r}; their labels would mix')
        twice = [stem for stem, count in Counter(path.stem for path in images).items() if count > 1]
        if twice:
            raise ConfigError(f'{images_folder}: {len(twice)} names stand for two images, first {twice[0]!r}')
        files = list_frames(folder / 'label_2') if (folder / 'label_2').is_dir() else {}
        complete = covered.get(name, covered.get(''))
        if files and complete is None:
            raise ConfigError(f'{folder / "label_2"}: say with --labelled {name}:CLASS,... which classes '
                              f'these labels cover throughout (--labelled {name}: for none)')
        given = {stem: read_label_file(path, scores=False) for stem, path in files.items()}
        sets.append(ImageSet(name, images_folder, images, given, complete if files else frozenset()))
    return sets


def _check_places(out: Path, sets: Sequence[ImageSet]) -> None:
    """Refuse to write where the given labels lie."""
    for image_set in sets:
        source = image_set.folder.parent if image_set.folder.name == 'images' else image_set.folder
        if image_set.given and (source / 'label_2').resolve() == (out / image_set.name / 'label_2').resolve():
            raise ConfigError(f'{source / "label_2"}: would be replaced by its own completion; '
                              'choose another --out')


def _earlier_files(out: Path) -> list[str] | None:
    """Return what a finished run has written here, None where there is none."""
    try:
        summary = json.loads(read_text(out / SUMMARY_NAME))
        return [*map(str, summary['files']), SUMMARY_NAME] if summary['command'] == COMMAND else None
    except (KdPerceptionError, ValueError, KeyError, TypeError):
        return None


def _prepare(out: OutputFolder, sets: Sequence[ImageSet], link: bool) -> None:
    """
    Make the folders of the labels, and links to the images.

    :raises ConfigError: they hold labels that no earlier run of this command has written.
    """
    for image_set in sets:
        labels, images = (out.path / image_set.name / name for name in ('label_2', 'images'))
        try:
            labels.mkdir(parents=True, exist_ok=True)
            if list_frames(labels):
                raise ConfigError(f'{labels}: holds labels that are not of an earlier run; choose another '
                                  '--out')
            if link and not images.exists():
                images = out.new(f'{image_set.name}/images')
                images.symlink_to(image_set.folder.resolve(), target_is_directory=True)
        except OSError as error:
            raise cannot_be_written(labels.parent, error) from error
