# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`poc`: before and after on your own labelled images, in one page. See docs/poc.md."""

from __future__ import annotations

import argparse
from collections import Counter
import importlib.util
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.cli.main import EXIT_OK, run_command
from kd_perception.errors import ConfigError

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


def run(args: argparse.Namespace) -> int:
    """Measure, adapt, measure again, and write the page."""
    # Here, not at the top: --help needs neither models nor plots.
    from kd_perception.cli import poc_steps
    from kd_perception.cli.check_labels import label_progress
    from kd_perception.detection.manifest import resolve_model
    from kd_perception.detection.onnx_detector import OnnxDetector
    from kd_perception.evaluation.camera_cost import CameraPlan
    from kd_perception.evaluation.label_check import check_labels
    from kd_perception.evaluation.label_folder import list_frames
    from kd_perception.evaluation.site_gaps import count_objects
    from kd_perception.evaluation.site_split import split_site
    from kd_perception.fallback.scene import measure_scene
    from kd_perception.resources import models_folder, share_folder
    _check(args)
    plan = CameraPlan(args.cameras, args.camera_hz)
    student, teacher = (OnnxDetector.named(name) for name in (args.model, args.teacher))
    paths = [resolve_model(name, models_folder()).resolve() for name in (args.model, args.teacher)]
    classes = student.spec.labels
    signals: dict[str, Any] = {}
    with label_progress(len(list_frames(args.labels)), args.quiet) as tick:
        check = check_labels(args.images, args.labels, classes, tick,
                             lambda name, pixels: signals.update({name: measure_scene(pixels)}))
    if not check.usable:
        first = f', first: {check.errors[0]}' if check.errors else ''
        raise ConfigError(f'{args.labels}: no frame without an error{first}')
    objects = {name: Counter(check.labels[name].types) for name in check.usable}
    split = split_site(check.usable, {name: Counter({kind: found[kind] for kind in classes if found[kind]})
                                      for name, found in objects.items()},
                       args.held_out, args.block, args.gap, args.seed)
    settings = _settings(args, student, teacher, poc_steps)
    steps = poc_steps.Steps(args.out, settings, args.quiet, args.overwrite)
    poc_steps.link_parts(steps, split, args.images.resolve(), args.labels.resolve())
    held_out = args.out / 'data' / poc_steps.HELD_OUT
    print(f'{len(check.usable)} frames in {split.sequences} sequences: {len(split.train)} to train on, '
          f'{len(split.held_out)} held out in {split.held_out_blocks} blocks, {len(split.left_out)} left out '
          'between them', flush=True)
    folders = {'before': poc_steps.evaluate(steps, 'before', paths[0], held_out),
               'teacher': poc_steps.evaluate(steps, 'teacher', paths[1], held_out)}
    model = paths[0]
    if not args.no_train:
        configs = share_folder() / 'config' / 'training'
        model = poc_steps.adapt(steps, args.config or poc_steps.configuration_for(student.spec, configs),
                                student.spec, paths[0], paths[1], args.steps, args.minutes)
        folders['after'] = poc_steps.evaluate(steps, 'after', model, held_out)
    if args.old:
        for name, which in (('old_before', paths[0]), ('old_after', model))[:1 if args.no_train else 2]:
            folders[name] = poc_steps.evaluate(steps, name, which, args.old.resolve(), blocks=False)
    steps.run('hybrid', 'what sending frames to the teacher buys', 'evaluate', 'hybrid', '--images',
              held_out / 'images', '--labels', held_out / 'label_2', '--student', model,
              '--teacher', paths[1], '--out', args.out / 'hybrid')
    steps.run('benchmark', 'speed', 'benchmark', 'models', '--model', paths[1], '--model', model, '--input',
              held_out / 'images', '--rounds', ROUNDS, '--threads', 1, '--out', args.out / 'benchmark')
    memory = {name: json.loads(steps.run(f'memory_{name}', 'memory of the '
                                                           f'{name}', 'poc_memory', '--model', path,
                                         '--images', held_out / 'images'))
              for name, path in (('student', model), ('teacher', paths[1]))}
    from kd_perception.cli.poc_report import Findings, write_page
    write_page(Findings(
        args.out, folders, split, check, [signals.get(name) for name in check.usable],
        count_objects(check.labels, split.train, classes), memory, plan, args.title,
        ['kd_perception', 'poc', *_words()], steps.state,
        {'before': paths[0], **({} if args.no_train else {'after': model}), 'teacher': paths[1]}),
        args.out / PAGE_NAME,
        args.out / DOCUMENT_NAME)
    return EXIT_OK


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


def _settings(args: argparse.Namespace, student: Any, teacher: Any, poc_steps: Any) -> dict[str, Any]:
    """Return what the figures depend on."""
    from kd_perception.evaluation.label_folder import list_frames
    length = {'no_train': True} if args.no_train else (
        {'minutes': args.minutes} if args.minutes is not None else {'steps': args.steps})
    config = args.config.read_text(encoding='utf-8') if args.config else 'default'
    old = poc_steps.digest(args.old / 'images', args.old / 'label_2') if args.old and list_frames(
        args.old / 'label_2') else ''
    return {'frames': poc_steps.digest(args.images, args.labels), 'old': old, 'held_out': args.held_out,
            'block': args.block, 'gap': args.gap, 'seed': args.seed, 'model': student.sha256,
            'teacher': teacher.sha256, 'config': config, **length}


def main() -> int:
    """Run as an executable of its own."""
    return run_command('poc')


if __name__ == '__main__':
    sys.exit(main())
