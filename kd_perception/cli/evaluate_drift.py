# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate drift`: how often do the drift monitors cry wolf, and how soon do they see a change?"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from kd_perception.cli.shared import add_run_arguments, add_trained_argument, image_sets, load_detectors
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK

HELP = ('False alarms of the drift monitors on unchanged frames, and their delay after changes: fog or '
        'whatever else there are images of, and artificial night, blur, lens dirt and a shifted camera.')
EXAMPLES = """\
examples:
  kd_perception evaluate drift --model student.onnx --unchanged drive.mcap --out report
                      against the reference in the model's file
  kd_perception evaluate drift --model student --teacher teacher --reference a/images b.mcap \\
      --unchanged stills/images drive.mcap --change fog=fog/images --out report --hours 10
Frames of the reference must be others than those of --unchanged.
Every figure: docs/explanation/drift.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the sub-command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = HELP, EXAMPLES
    source = parser.add_argument_group('what to evaluate')
    source.add_argument('--model', required=True, help='ONNX file, or a name of the shipped manifest')
    source.add_argument('--teacher', help='ask this model, too: disagreement and rates of audited frames')
    source.add_argument('--reference', nargs='+', default=[], metavar='PATH',
                        help="compute the reference of these in place of the model's own")
    source.add_argument('--unchanged', required=True, nargs='+', metavar='PATH',
                        help='folders of images, recordings or videos in which nothing has changed')
    source.add_argument('--change', nargs='+', default=[], metavar='NAME=PATH',
                        help='folder or recording in which something has')
    source.add_argument('--conditions', default='night,blur,lens_dirt,shifted_camera', metavar='NAME,...',
                        help='artificial changes of the unchanged frames (default: all four); empty: none')
    source.add_argument('--drive', nargs='+', default=[], metavar='SET',
                        help='folders whose images are consecutive frames of one camera')
    add_trained_argument(parser)
    parser.add_argument('--out', required=True, metavar='DIR',
                        help='folder for report.json, report.md and delays.png')
    how = parser.add_argument_group('how to evaluate')
    how.add_argument('--window', type=int, default=1800, metavar='N', help='as drift_window (default: 1800)')
    how.add_argument('--false-alarms-per-hour', type=float, default=0.1, metavar='R',
                     help='as drift_false_alarms_per_hour (default: 0.1)')
    how.add_argument('--hours', type=float, default=4.0, metavar='H', help='of unchanged frames (default: 4)')
    how.add_argument('--runs', type=int, default=20, metavar='N', help='changes of each kind (default: 20)')
    how.add_argument('--limit', type=int, default=9000, metavar='N',
                     help='frames after a change that are waited for (default: 9000)')
    how.add_argument('--scene-frames', type=int, default=70, metavar='N',
                     help='of a reference that is computed (default: 70)')
    how.add_argument('--rate-hz', type=float, default=10.0, metavar='HZ',
                     help='of a reference that is computed (default: 10)')
    how.add_argument('--stream-scene-frames', type=int, nargs='+', default=[], metavar='N',
                     help='also count false alarms on streams of scenes of this length')
    how.add_argument('--share', type=float, default=0.2, help='as of fallback_node (default: 0.2)')
    how.add_argument('--audit-share', type=float, default=0.01, help='as of fallback_node (default: 0.01)')
    how.add_argument('--scorer', choices=('signals', 'learned'), default='signals',
                     help='as of fallback_node (default: signals)')
    how.add_argument('--seed', type=int, default=0, help='of all that is left to chance (default: 0)')
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run `evaluate drift`."""
    from kd_perception.evaluation.drift.corruptions import corruptions
    from kd_perception.evaluation.drift.report import markdown
    from kd_perception.evaluation.drift.run import evaluate_drift, report_files, Sets
    from kd_perception.evaluation.report.folder import report_folder, write_report
    options, chosen = _options(args), corruptions(args.conditions)
    changes = dict(_parse_change(text) for text in args.change)
    sources = image_sets([*args.reference, *args.unchanged, *changes.values()], args.drive, args.trained_on)
    first, last = len(args.reference), len(args.reference) + len(args.unchanged)
    sets = Sets(sources[:first], sources[first:last],
                {name: [source] for name, source in zip(changes, sources[last:])}, chosen)
    detector, teacher = load_detectors(args, args.model, args.teacher)
    out = Path(args.out)
    with report_folder(out) as folder:
        report = {'command': ['kd_perception', *sys.argv[1:]],
                  **evaluate_drift(sets, detector, teacher, options, args.quiet)}
        write_report(folder, report_files(report))
    print(markdown(report))
    for line in report['warnings']:
        print(f'warning: {line}', file=sys.stderr)
    print(f'wrote {out / "report.md"}')
    return EXIT_OK


def _options(args: argparse.Namespace) -> Any:
    from kd_perception.drift.monitor import DriftSettings
    from kd_perception.evaluation.drift.replay import ReplaySettings
    from kd_perception.evaluation.drift.run import DriftOptions
    if not 0 < args.hours <= 10_000 or not 1 <= args.runs <= 10_000 or not 1 <= args.limit <= 10_000_000:
        raise ConfigError('--hours above 0, --runs 1 to 10000, --limit 1 to 10000000 expected')
    if not 0 < args.share < 1 or not 0 <= args.audit_share <= args.share:
        raise ConfigError('--share above 0 and below 1, --audit-share 0 to --share expected')
    if min(args.stream_scene_frames, default=1) < 1 or not 1 <= args.scene_frames <= 10_000:
        raise ConfigError('--scene-frames and --stream-scene-frames: 1 or more expected')
    try:
        settings = DriftSettings(window=args.window, false_alarms_per_hour=args.false_alarms_per_hour)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    replay = ReplaySettings(args.hours, args.runs, args.limit, 0, args.seed, args.share, args.audit_share)
    return DriftOptions(settings, replay, args.scene_frames, args.rate_hz, tuple(args.stream_scene_frames),
                        args.scorer)


def _parse_change(text: str) -> tuple[str, str]:
    name, separator, path = text.partition('=')
    if not (name and separator and path):
        raise ConfigError(f'--change {text!r:.60}: expected NAME=PATH')
    return name, path
