# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`pseudo-label`: let models label images that nobody has labelled, or complete labels of some classes."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import Any

from kd_perception.cli.shared import add_run_arguments, execution_options
from kd_perception.detection.onnx_session import PROVIDERS
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.labels.label_merge import DEFAULT_SCORE, DEFAULT_SCORES, DEFAULT_UNCERTAIN, Thresholds
from kd_perception.labels.pseudo_label import (
    COMMAND,
    committee_labeller,
    COMMITTEE_SCORES,
    COMMITTEE_UNCERTAIN,
    image_sets,
    Labeller,
    model_labeller,
    pseudo_label,
    SUMMARY_NAME,
)

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

_SHOWN_PROBLEMS = 10


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
    parser.add_argument('--provider', default='cpu', choices=tuple(PROVIDERS),
                        help='where the model runs (default: cpu)')
    parser.add_argument('--overwrite', action='store_true', help="replace an earlier run's labels in OUT")
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Label; 0 unless not a single image could be read."""
    options = execution_options(args)
    labeller = (model_labeller(args.model, options) if args.committee is None
                else committee_labeller(args.committee, options))
    labels = labeller.labels
    if any(len(label.split()) != 1 for label in labels):
        raise ConfigError(f'{args.model or args.committee}: class names must be single words to be written '
                          f'as labels, got {list(labels)}')
    thresholds = _thresholds(args.score, args.uncertain, labeller)
    # All labels are read before the first image: an error in the last file should not cost an hour.
    sets = image_sets(args.input, _covered(args.labelled, labels))
    summary = pseudo_label(sets, labeller, thresholds, args.out, args.link_images, args.overwrite, args.quiet)
    return _report(summary, args.out)


def _report(summary: dict[str, Any], out: Path) -> int:
    """Say what was done and what was not."""
    done = 0
    for entry in summary['sets']:
        skipped = entry['skipped']
        for item in skipped[:_SHOWN_PROBLEMS]:
            print(f'{COMMAND}: warning: {entry["set"]}/{item["name"]}: {item["reason"]}: {item["detail"]}',
                  file=sys.stderr)
        if skipped:
            reasons = Counter(item['reason'] for item in skipped).most_common()
            print(f'{COMMAND}: warning: {entry["set"]}: {len(skipped)} images got no labels: '
                  f'{", ".join(f"{count} {reason}" for reason, count in reasons)}', file=sys.stderr)
        orphans = entry['label_files_without_image']
        if orphans:
            print(f'{COMMAND}: warning: {entry["set"]}: {orphans} label files have no image and were left '
                  'out', file=sys.stderr)
        added, unsure = (', '.join(f'{count} {name}' for name, count in entry[key].items())
                         for key in ('added', 'dont_care'))
        print(f'{entry["set"]}: {entry["labelled_images"]} images; added {added}; DontCare {unsure}')
        done += entry['labelled_images']
    if not done:
        print(f'{COMMAND}: error: not a single image could be read', file=sys.stderr)
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
