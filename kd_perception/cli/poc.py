# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`poc`: before and after on your own labelled images, in one page. See docs/how-to/poc.md."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
import importlib.util
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK

HELP = ('Proof of concept on a few hundred labelled frames of your own: accuracy before and after adapting, '
        'by '
        'class and condition; speed, memory and cores for N cameras on this computer; the share of frames '
        'worth '
        'sending to the teacher; and what is missing. One page, OUT/poc.html, and OUT/poc.json.')
EXAMPLES = """\
  kd_perception poc --images site/images --labels site/label_2 --out poc       the shipped student, 300 steps
  kd_perception poc --images site/images --labels site/label_2 --out poc --minutes 20 --cameras 6
  kd_perception poc --images site/images --labels site/label_2 --out poc --no-train      before only, no torch
  kd_perception poc ... --old data/proven       also what is lost on the frames the model was proved on
Interrupted, it goes on where it stopped: give the same command again."""

PAGE_NAME, DOCUMENT_NAME = 'poc.html', 'poc.json'
DEFAULT_STEPS = 300
ROUNDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    data = parser.add_argument_group('frames')
    data.add_argument('--images', required=True, type=Path, metavar='DIR', help='folder of images')
    data.add_argument('--labels', required=True, type=Path, metavar='DIR',
                      help='folder of KITTI label files named as the images; only type and box matter')
    data.add_argument('--old', type=Path, metavar='DIR',
                      help='data set (images/, label_2/) that the model was proved on, to see what is lost '
                           'there')
    data.add_argument('--held-out', type=float, default=0.4, metavar='SHARE',
                      help='share of the frames to measure on (default: 0.4)')
    data.add_argument('--block', type=int, metavar='N',
                      help='consecutive frames that stay together (default: by their number, 4 to 20)')
    data.add_argument('--gap', type=int, default=2, metavar='N',
                      help='frames left out between a part to train on and one to measure on (default: 2)')
    data.add_argument('--seed', type=int, default=0, help='of the choice of blocks (default: 0)')
    models = parser.add_argument_group('models and training')
    models.add_argument('--model', default='student', help='ONNX file, or a name of the shipped manifest '
                                                           '(default: student)')
    models.add_argument('--teacher', default='teacher', help='the same for the teacher (default: teacher)')
    length = models.add_mutually_exclusive_group()
    length.add_argument('--steps', type=int, default=DEFAULT_STEPS, metavar='N',
                        help=f'training steps (default: {DEFAULT_STEPS})')
    length.add_argument('--minutes', type=float, metavar='M', help='train for about so long instead')
    length.add_argument('--no-train', action='store_true', help='before only; needs no torch')
    models.add_argument('--config', type=Path, help='a file like config/training/adapt.yaml, which is the '
                                                    'default for a student')
    cost = parser.add_argument_group('cost')
    cost.add_argument('--cameras', type=int, default=4, metavar='N', help='how many cameras (default: 4)')
    cost.add_argument('--camera-hz', type=float, default=10.0, metavar='HZ', help='their rate (default: 10)')
    parser.add_argument('--out', required=True, type=Path, help=f'folder for {PAGE_NAME} and all that led '
                                                                'to it')
    parser.add_argument('--title', default='Proof of concept', help='title of the page')
    parser.add_argument('--overwrite', action='store_true', help='replace what other settings made in OUT')
    parser.add_argument('--quiet', action='store_true', help='no progress bars')


def run(args: argparse.Namespace, execute: Any = None) -> int:
    """
    Measure, adapt, measure again, and write the page.

    :param execute: as `poc_steps.run_process`, which is the default; a seam for tests.
    """
    # Here, not at the top: --help needs neither models nor plots.
    from kd_perception.detection.onnx_detector import OnnxDetector
    from kd_perception.models.manifest import resolve_model
    from kd_perception.poc import steps as poc_steps
    from kd_perception.poc.camera_cost import CameraPlan
    from kd_perception.poc.report import Findings, write_page
    from kd_perception.poc.site_gaps import count_objects
    from kd_perception.resources import models_folder
    _check(args)
    plan = CameraPlan(args.cameras, args.camera_hz)
    student, teacher = (OnnxDetector.named(name) for name in (args.model, args.teacher))
    models = {name: resolve_model(path, models_folder()).resolve()
              for name, path in (('before', args.model), ('teacher', args.teacher))}
    check, split, signals = _site(args, student.spec.labels)
    with poc_steps.Steps(args.out, _settings(args, student, teacher), args.quiet, args.overwrite,
                         execute or poc_steps.run_process) as steps:
        poc_steps.link_parts(steps, split, args.images.resolve(), args.labels.resolve())
        print(f'{len(check.usable)} frames in {split.sequences} sequences: {len(split.train)} to train on, '
              f'{len(split.held_out)} held out in {split.held_out_blocks} blocks, {len(split.left_out)} left '
              'out beside these', flush=True)
        folders, footprint = _measure(args, steps, student.spec, models)
        write_page(Findings(
            args.out, folders, split, check, signals, count_objects(check.labels, split.train,
                                                                    student.spec.labels),
            footprint, plan, args.title, ['kd_perception', 'poc', *_words()], steps.state, models),
            args.out / PAGE_NAME, args.out / DOCUMENT_NAME)
    return EXIT_OK


def _site(args: argparse.Namespace, classes: Sequence[str]) -> tuple[Any, Any, list[Any]]:
    """Check the frames and split them; return (`FolderCheck`, `SiteSplit`, signals of the usable frames)."""
    from kd_perception.images.scene import measure_scene
    from kd_perception.labels.label_check import check_labels
    from kd_perception.labels.label_folder import list_frames
    from kd_perception.poc.site_split import split_site
    from kd_perception.progress import progress
    signals: dict[str, Any] = {}
    with progress(total=len(list_frames(args.labels)), unit='file', description='check labels',
                  quiet=args.quiet) as bar:
        check = check_labels(args.images, args.labels, classes, bar.update,
                             lambda name, pixels: signals.update({name: measure_scene(pixels)}))
    if not check.usable:
        first = f', first: {check.errors[0]}' if check.errors else ''
        raise ConfigError(f'{args.labels}: no frame without an error{first}')
    objects = {name: Counter(kind for kind in check.labels[name].types if kind in classes)
               for name in check.usable}
    split = split_site(check.usable, objects, args.held_out, args.block, args.gap, args.seed)
    return check, split, [signals.get(name) for name in check.usable]


def _measure(args: argparse.Namespace, steps: Any, spec: Any, models: dict[str, Path]) -> tuple[Any, Any]:
    """Run the steps; return reports' folders and footprint by role. Adds the adapted model to `models`."""
    from kd_perception.poc import steps as poc_steps
    from kd_perception.resources import share_folder
    held_out = args.out / 'data' / poc_steps.HELD_OUT
    folders = {name: poc_steps.evaluate(steps, name, models[name], held_out)
               for name in ('before', 'teacher')}
    if not args.no_train:
        configs = share_folder() / 'config' / 'training'
        teacher = models.pop('teacher')
        models['after'] = poc_steps.adapt(
            steps, args.config or poc_steps.configuration_for(spec, configs), spec, models['before'], teacher,
            args.steps, args.minutes)
        models['teacher'] = teacher  # the page shows them in this order
        folders['after'] = poc_steps.evaluate(steps, 'after', models['after'], held_out)
    if args.old:
        for name in ('before', 'after')[:1 if args.no_train else 2]:
            folders[f'old_{name}'] = poc_steps.evaluate(steps, f'old_{name}', models[name],
                                                        args.old.resolve(), blocks=False)
    last = models.get('after', models['before'])
    images, labels = held_out / 'images', held_out / 'label_2'
    steps.run('hybrid', 'what sending frames to the teacher buys', 'evaluate', 'hybrid', '--images', images,
              '--labels', labels, '--student', last, '--teacher', models['teacher'], '--out',
              args.out / 'hybrid')
    steps.run('benchmark', 'speed', 'benchmark', 'models', '--model', models['teacher'], '--model', last,
              '--input', images, '--rounds', ROUNDS, '--threads', 1, '--out', args.out / 'benchmark')
    footprint = {name: json.loads(steps.run(
        f'footprint_{name}', f'processor and memory of the {name}', poc_steps.FOOTPRINT, '--model', path,
        '--images', images)) for name, path in (('student', last), ('teacher', models['teacher']))}
    return folders, footprint


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before an hour is spent."""
    if not args.no_train and importlib.util.find_spec('torch') is None:
        raise ConfigError('adapting needs the Python package torch (`make env-train`); --no-train measures '
                          'without')
    if not 0.1 <= args.held_out <= 0.9 or args.gap < 0 or (args.block is not None and args.block < 1):
        raise ConfigError('--held-out 0.1 to 0.9, --gap not below 0 and --block not below 1 expected')
    if not 1 <= args.steps <= 1_000_000 or (args.minutes is not None and not 0 < args.minutes <= 10_000):
        raise ConfigError('--steps 1 to 1000000 and --minutes above 0 to 10000 expected')


def _words() -> list[str]:
    words = sys.argv[1:]
    return words[1:] if words[:1] == ['poc'] else words


def _settings(args: argparse.Namespace, student: Any, teacher: Any) -> dict[str, Any]:
    """Return what the figures depend on."""
    from kd_perception.labels.label_folder import list_frames
    from kd_perception.poc import steps as poc_steps
    length = {'no_train': True} if args.no_train else (
        {'minutes': args.minutes} if args.minutes is not None else {'steps': args.steps})
    config = args.config.read_text(encoding='utf-8') if args.config else 'default'
    old = poc_steps.digest(args.old / 'images', args.old / 'label_2') if args.old and list_frames(
        args.old / 'label_2') else ''
    return {'frames': poc_steps.digest(args.images, args.labels), 'old': old, 'held_out': args.held_out,
            'block': args.block, 'gap': args.gap, 'seed': args.seed, 'model': student.sha256,
            'teacher': teacher.sha256, 'config': config, **length}
