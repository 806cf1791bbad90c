# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`check-labels`: list what is wrong with folders of labelled images (docs/how-to/operations.md)."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.labels.label_check import check_labels, CLASSES, FolderCheck
from kd_perception.labels.label_folder import list_frames
from kd_perception.progress import progress

HELP = ('Check folders of labelled images before training on them: every wrong line, missing or broken image '
        'and doubtful box, each with file and line.')
EXAMPLES = """\
  kd_perception check-labels --input data/site                data/site/images and data/site/label_2
  kd_perception check-labels --input data/site data/old --class Car --class Pedestrian
  kd_perception check-labels --input data/site --quiet && kd_perception train ...
                                                              exit code 1 where there is an error"""

_SHOWN_WARNINGS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--input', required=True, nargs='+', type=Path, metavar='FOLDER',
                        help='data sets: folders with images/ and label_2/')
    parser.add_argument('--class', action='append', dest='classes', metavar='NAME',
                        help=f'class that is learned (default: {", ".join(CLASSES)}); may be repeated')
    parser.add_argument('--all-warnings', action='store_true',
                        help=f'print every warning, not {_SHOWN_WARNINGS} of each folder')
    parser.add_argument('--quiet', action='store_true', help='no progress bar, and no warnings')


def run(args: argparse.Namespace) -> int:
    """Check; 1 where a label or image is wrong."""
    failed = 0
    for folder in args.input:
        labels = folder / 'label_2'
        with progress(total=len(list_frames(labels)), unit='file', description='check labels',
                      quiet=args.quiet) as bar:
            found = check_labels(folder / 'images', labels, args.classes or CLASSES, bar.update)
        failed += _print(folder, found, args)
    return EXIT_CHECK_FAILED if failed else EXIT_OK


def _print(folder: Path, found: FolderCheck, args: argparse.Namespace) -> int:
    for line in found.errors:
        print(f'error: {line}')
    shown = len(found.warnings) if args.all_warnings else _SHOWN_WARNINGS
    for line in found.warnings[:0 if args.quiet else shown]:
        print(f'warning: {line}')
    left = len(found.warnings) - shown
    if left > 0 and not args.quiet:
        print(f'warning: {folder}: {left} more (--all-warnings)')
    objects = ', '.join(f'{count} {name}' for name, count in found.objects.most_common()) or 'no objects'
    print(f'{folder}: {found.label_files} label files, {found.images} images, {objects}; '
          f'{len(found.errors)} errors, {len(found.warnings)} warnings, {len(found.usable)} frames without '
          'an error')
    return len(found.errors)
