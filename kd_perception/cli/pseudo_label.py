# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`pseudo-label`: let models label images that nobody has labelled, or complete labels of some classes."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.detection.committee import load_committee
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector, PROVIDERS
from kd_perception.errors import ConfigError, ImageError, KdPerceptionError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.files import read_text, write_whole
from kd_perception.labels.kitti_text import format_objects, KittiObjects, read_label_file
from kd_perception.labels.label_folder import list_frames
from kd_perception.labels.label_merge import (
    DEFAULT_SCORE,
    DEFAULT_SCORES,
    DEFAULT_UNCERTAIN,
    merge_labels,
    Thresholds,
)
from kd_perception.output_folder import cannot_be_written, OutputFolder
from kd_perception.sources.folders import images_in, read_image_file

HELP = "Write KITTI labels of a model's sure detections; doubtful ones become DontCare regions."
EXAMPLES = """\
  kd_perception pseudo-label --model teacher --input drives/site_a drives/site_b --out labelled --link-images
                      labelled/site_a/label_2/<image>.txt; `labelled` is a data folder for training
  kd_perception pseudo-label --model teacher --input data/trafficcam data/walkers --out labelled \\
                      --labelled trafficcam:Car --labelled walkers:Pedestrian
                      both sets have labels of one class: keep these, add the others
  kd_perception pseudo-label --committee committee.yaml --input drive --out labelled
                      several models vote
  kd_perception pseudo-label --model big.onnx --input drive --out labelled --score Car=0.6 --uncertain 0.3"""

SUMMARY_NAME = 'pseudo_labels.json'
# A committee's score is the mean of probabilities over all its members. What a single one sees
# falls between.
COMMITTEE_SCORES = {'Car': 0.5, 'Pedestrian': 0.4, 'Cyclist': 0.3}
COMMITTEE_UNCERTAIN = 0.1
_COMMAND = 'kd_perception pseudo-label'
_SHOWN_PROBLEMS = 10


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


def _shown(scores: dict[str, float]) -> str:
    return ', '.join(f'{name}={score:g}' for name, score in scores.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--model', help='path of an ONNX file, or a name of the shipped manifest')
    source.add_argument('--committee', type=Path, metavar='FILE',
                        help='YAML file that names several models, whose boxes are fused (docs/how-to)')
    parser.add_argument('--input', required=True, nargs='+', type=Path, metavar='FOLDER',
                        help='folders of images, or data sets with images/ and perhaps label_2/')
    parser.add_argument('--out', required=True, type=Path,
                        help=f'writes OUT/<folder>/label_2/<image>.txt and OUT/{SUMMARY_NAME}')
    parser.add_argument('--labelled', action='append', default=[], metavar='[FOLDER:]CLASS,...',
                        help='classes that label_2/ of this folder (or of all) covers throughout; its labels '
                             'are kept and only other classes added. FOLDER: alone: no class is covered')
    parser.add_argument('--score', action='append', default=[], metavar='CLASS=S',
                        help=f'least score of a label (default: Car={DEFAULT_SCORES["Car"]:g}, other classes '
                             f'{DEFAULT_SCORE:g}; of a committee {_shown(COMMITTEE_SCORES)}); '
                             'repeat for several')
    parser.add_argument('--uncertain', type=float, metavar='S',
                        help='from this score, and below its label score, a detection is written as DontCare '
                             f'(default: {DEFAULT_UNCERTAIN:g}, of a committee {COMMITTEE_UNCERTAIN:g})')
    parser.add_argument('--link-images', action='store_true',
                        help='also link OUT/<folder>/images to the images, so that OUT is a data folder')
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='threads of the model; default 0: one for each core that the process may use')
    parser.add_argument('--provider', default='cpu', choices=tuple(PROVIDERS),
                        help='where the model runs (default: cpu)')
    parser.add_argument('--overwrite', action='store_true', help="replace an earlier run's labels in OUT")
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    """Label; 0 unless not a single image could be read."""
    try:
        options = ExecutionOptions(threads=args.threads, provider=args.provider)
    except ValueError as error:
        raise ConfigError(f'--threads, --provider: {error}') from error
    labeller = _labeller(args, options)
    labels = labeller.labels
    if any(len(label.split()) != 1 for label in labels):
        raise ConfigError(f'{args.model or args.committee}: class names must be single words to be written '
                          f'as labels, got {list(labels)}')
    thresholds = _thresholds(args.score, args.uncertain, labeller)
    # All labels are read before the first image: an error in the last file should not cost an hour.
    sets = _image_sets(args.input, _covered(args.labelled, labels))
    _check_places(args.out, sets)
    summary = {
        'command': _COMMAND,
        **labeller.facts,
        'scores': dict(thresholds.sure), 'uncertain': thresholds.uncertain, 'sets': []}
    with OutputFolder(args.out, _COMMAND, lambda: _earlier_files(args.out)) as out:
        out.make_room(args.overwrite, alone=False)
        _prepare(out, sets, args.link_images)
        with _progress(sum(len(image_set.images) for image_set in sets), args.quiet) as bar:
            for image_set in sets:
                summary['sets'].append(_label_set(image_set, labeller, thresholds, out, bar))
        summary['files'] = out.files
        write_whole(out.new(SUMMARY_NAME), json.dumps(summary, indent=1) + '\n')
    return _report(summary, args.out)


def _labeller(args: argparse.Namespace, options: ExecutionOptions) -> Labeller:
    if args.committee is not None:
        committee = load_committee(args.committee, options)
        facts = {'file': str(args.committee), 'members': committee.facts(), 'labels': list(committee.labels)}
        return Labeller(committee.labels,
                        lambda image, score: committee.detect(image).detections.above(score),
                        {'committee': facts}, COMMITTEE_SCORES, COMMITTEE_UNCERTAIN)
    detector = OnnxDetector.named(args.model, options)
    facts = {'name': detector.spec.name, 'file': str(args.model), 'sha256': detector.sha256,
             'labels': list(detector.spec.labels)}
    return Labeller(detector.spec.labels,
                    lambda image, score: detector.detect(image, score_threshold=score).detections,
                    {'model': facts}, DEFAULT_SCORES, DEFAULT_UNCERTAIN)


def _label_set(image_set: ImageSet, labeller: Labeller, thresholds: Thresholds, out: OutputFolder,
               bar) -> dict:
    labels = labeller.labels
    added, ignored, known, skipped, given = Counter(), Counter(), Counter(), [], Counter()
    for path in image_set.images:
        bar.update()
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


def _report(summary: dict, out: Path) -> int:
    """Say what was done and what was not."""
    done = 0
    for entry in summary['sets']:
        skipped = entry['skipped']
        for item in skipped[:_SHOWN_PROBLEMS]:
            print(f'{_COMMAND}: warning: {entry["set"]}/{item["name"]}: {item["reason"]}: {item["detail"]}',
                  file=sys.stderr)
        if skipped:
            reasons = Counter(item['reason'] for item in skipped).most_common()
            print(f'{_COMMAND}: warning: {entry["set"]}: {len(skipped)} images got no labels: '
                  f'{", ".join(f"{count} {reason}" for reason, count in reasons)}', file=sys.stderr)
        orphans = entry['label_files_without_image']
        if orphans:
            print(f'{_COMMAND}: warning: {entry["set"]}: {orphans} label files have no image and were left '
                  'out', file=sys.stderr)
        added, unsure = (', '.join(f'{count} {name}' for name, count in entry[key].items())
                         for key in ('added', 'dont_care'))
        print(f'{entry["set"]}: {entry["labelled_images"]} images; added {added}; DontCare {unsure}')
        done += entry['labelled_images']
    if not done:
        print(f'{_COMMAND}: error: not a single image could be read', file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f'labels under {out}, counts in {out / SUMMARY_NAME}')
    return EXIT_OK


def _thresholds(texts: Sequence[str], uncertain: float | None, labeller: Labeller) -> Thresholds:
    labels = labeller.labels
    uncertain = labeller.uncertain if uncertain is None else uncertain
    sure = {label: labeller.scores.get(label, DEFAULT_SCORE) for label in labels}
    for text in texts:
        name, _, number = text.partition('=')
        if name not in sure:
            raise ConfigError(f'--score {text}: expected CLASS=S with a class of the model '
                              f'({", ".join(labels)})')
        try:
            sure[name] = float(number)
        except ValueError:
            raise ConfigError(f'--score {text}: {number!r} is not a number') from None
    for name, score in sure.items():
        if not 0 < uncertain <= score <= 1:
            raise ConfigError(f'expected 0 < uncertain score <= label score <= 1, got {uncertain:g} and '
                              f'{name}={score:g}')
    return Thresholds(sure, uncertain)


def _covered(texts: Sequence[str], labels: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return covered classes by folder name; the key '' stands for every other folder."""
    covered: dict[str, frozenset[str]] = {}
    for text in texts:
        folder, colon, classes = text.rpartition(':')
        names = frozenset(filter(None, classes.split(',')))
        if names - set(labels) or (not colon and not names):
            raise ConfigError(f'--labelled {text}: expected [FOLDER:]CLASS,... with classes of the model '
                              f'({", ".join(labels)})')
        if folder in covered:
            raise ConfigError(f'--labelled {text}: given twice for {folder or "all folders"}')
        covered[folder] = names
    return covered


def _image_sets(folders: Sequence[Path], covered: dict[str, frozenset[str]]) -> list[ImageSet]:
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
        return [*map(str, summary['files']), SUMMARY_NAME] if summary['command'] == _COMMAND else None
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


class _Silent:
    """Stands for the progress bar where tqdm is not installed."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def update(self) -> None:
        """Show nothing."""


def _progress(total: int, quiet: bool):
    try:
        from tqdm import tqdm
    except ImportError:
        return _Silent()
    # disable=None: silent unless stderr is a terminal.
    return tqdm(total=total, unit='image', disable=True if quiet else None)
