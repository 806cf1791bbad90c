# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate drift`: how often do the drift monitors cry wolf, and how soon do they see a change?"""
import argparse
import dataclasses
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.evaluation.report.folder import report_folder, REPORT_JSON, write_report

EXIT_OK = 0
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
    from kd_perception.cli.attach_reference import add_run_arguments, add_trained_argument
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
    from kd_perception.cli.attach_reference import load_detectors, progress, sources_of
    from kd_perception.evaluation.drift.corruptions import CORRUPTIONS, corruptions
    from kd_perception.evaluation.drift.frames import measure_images
    from kd_perception.evaluation.drift.report import markdown
    settings, replay = _settings(args)
    chosen = corruptions(args.conditions)
    changes = dict(_parse_change(text) for text in args.change)
    paths = [*args.reference, *args.unchanged, *changes.values()]
    sources = sources_of(paths, args.drive, args.trained_on)
    first, last = len(args.reference), len(args.reference) + len(args.unchanged)
    reference_sets, unchanged_sets = sources[:first], sources[first:last]
    changed_sets = dict(zip(changes, ([source] for source in sources[last:])))
    detector, teacher = load_detectors((args.model, args.teacher), args.threads)
    out = Path(args.out)
    with report_folder(out) as folder:
        with progress(args.quiet, [*sources, *(len(chosen) * unchanged_sets)]) as bar:
            reference = _reference(args, detector, teacher, reference_sets, bar.update)
            unchanged = measure_images(unchanged_sets, detector, teacher, tick=bar.update)
            conditions = {name: measure_images(item, detector, teacher, tick=bar.update)
                          for name, item in changed_sets.items()}
            conditions.update({name: measure_images(unchanged_sets, detector, teacher, CORRUPTIONS[name],
                                                    bar.update) for name in chosen})
        report = _evaluate(args, reference, unchanged, conditions, settings, replay)
        report = {
            'command': ['kd_perception', *sys.argv[1:]],
            'models': {name: f'{model.spec.name}, sha256 {model.sha256}'
                       for name, model in (('model', detector), ('teacher', teacher)) if model},
            'sets': {'unchanged': unchanged.sets, **{name: item.sets for name, item in conditions.items()}},
            **report,
            'warnings': [line for item in (unchanged, *conditions.values()) for line in item.problems]}
        text = markdown(report)
        write_report(folder, _files(report, text))
    print(text)
    for line in report['warnings']:
        print(f'warning: {line}', file=sys.stderr)
    print(f'wrote {out / "report.md"}')
    return EXIT_OK


def _settings(args: argparse.Namespace) -> tuple[Any, Any]:
    from kd_perception.drift.monitor import DriftSettings
    from kd_perception.evaluation.drift.replay import ReplaySettings
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
    return settings, ReplaySettings(args.hours, args.runs, args.limit, 0, args.seed, args.share,
                                    args.audit_share)


def _parse_change(text: str) -> tuple[str, str]:
    name, separator, path = text.partition('=')
    if not (name and separator and path):
        raise ConfigError(f'--change {text!r:.60}: expected NAME=PATH')
    return name, path


def _reference(args: argparse.Namespace, detector: Any, teacher: Any, sets: list[Any], tick: Any) -> Any:
    from kd_perception.drift.reference import build_reference, DriftReference
    from kd_perception.evaluation.drift.frames import measure_images
    if not sets:
        reference = DriftReference.of_model(detector.spec, str(detector.path))
        if reference is None:
            raise ConfigError(f'{detector.path}: holds no reference statistics; give --reference')
        return reference
    measured = measure_images(sets, detector, teacher, tick=tick)
    return build_reference(measured.values, measured.drives, args.scene_frames, args.rate_hz,
                           measured.disagreements if teacher else (), {'sets': measured.sets})


def _evaluate(args: argparse.Namespace, reference: Any, unchanged: Any, conditions: dict[str, Any],
              settings: Any, replay: Any) -> dict[str, Any]:
    from kd_perception.drift.fallback_drift import AuditedRates
    from kd_perception.evaluation.drift.replay import delays, false_alarms
    lengths = [reference.scene_frames, *args.stream_scene_frames]
    with _bar(args.quiet, len(lengths) * round(args.hours * 3600 * reference.rate_hz)) as bar:
        alarms = [{'scene_frames': length, **false_alarms(
            unchanged, reference, settings, dataclasses.replace(replay, scene_frames=length), args.scorer,
            bar.update)} for length in lengths]
    found = {}
    with _bar(args.quiet, len(conditions) * replay.runs) as bar:
        for name, frames in conditions.items():
            found[name] = delays(unchanged, frames, reference, settings, replay, args.scorer, bar.update)
    rates = {}
    for name, frames in (('unchanged', unchanged), *conditions.items()) if args.teacher else ():
        audited = AuditedRates()
        for item in frames.audits:
            audited.add(item)
        rates[name] = dict(audited.values())
    return {
        'reference': {key: getattr(reference, key)
                      for key in ('frames', 'scenes', 'scene_frames', 'rate_hz', 'made')},
        'settings': {**dataclasses.asdict(settings), **dataclasses.asdict(replay), 'scorer': args.scorer},
        'false_alarms': alarms, 'conditions': found, 'rates': rates}


def _bar(quiet: bool, total: int) -> Any:
    from kd_perception.cli.evaluate_hybrid import Silent
    try:
        from tqdm import tqdm
    except ImportError:
        return Silent()
    return tqdm(total=total, desc='streams', disable=True if quiet else None)


def _files(report: dict[str, Any], text: str) -> dict[str, Any]:
    from kd_perception.evaluation.drift.report import draw
    from kd_perception.evaluation.hybrid.plots import png
    files = {'delays.png': png(draw, report)} if report['conditions'] else {}
    return {**files, 'report.md': text, REPORT_JSON: json.dumps(report, indent=1, allow_nan=False) + '\n'}
