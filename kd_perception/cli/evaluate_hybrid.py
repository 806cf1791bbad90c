# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate hybrid`: what does sending frames to the teacher buy, and which gate chooses them best?"""
import argparse
from collections.abc import Sequence
import json
import os
from pathlib import Path
import sys
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.evaluation.report.folder import report_folder, REPORT_HTML, REPORT_JSON, write_report

EXIT_OK = 0
HELP = ('Average precision against the share of frames sent to the teacher, for the learned gate, each '
        'signal, random and the oracle; and the gate as it runs online.')
EXAMPLES = """\
examples:
  kd_perception evaluate hybrid --images image_2 --labels label_2 --student student --teacher teacher \\
      --out report
  kd_perception evaluate hybrid --bag drive --labels /front/ground_truth --student student \\
      --teacher teacher --out report --share 0.1 --bootstrap 200
A folder's images are taken as unrelated unless --drive is given; a recording's frames follow one another, and
only then do boxes that appear and vanish count. docs/how-to/hybrid_evaluation.md explains every figure."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the sub-command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = HELP, EXAMPLES
    source = parser.add_argument_group('what to evaluate')
    source.add_argument('--labels', required=True, metavar='DIR|TOPIC',
                        help='folder of KITTI label files <frame>.txt; with --bag also the topic of labels')
    source.add_argument('--images', metavar='DIR', help='folder of the images')
    source.add_argument('--bag', metavar='BAG', help='recording (rosbag2) in place of --images')
    source.add_argument('--camera', help='with --bag: name of the camera, where there are several')
    source.add_argument('--drive', action='store_true',
                        help='the images of --images are consecutive frames of one camera')
    source.add_argument('--student', required=True, help='ONNX file, or a name of the shipped manifest')
    source.add_argument('--teacher', required=True, help='ONNX file, or a name of the shipped manifest')
    parser.add_argument('--out', required=True, metavar='DIR',
                        help='folder for report.json, report.html and three pictures (PNG)')
    how = parser.add_argument_group('how to evaluate')
    how.add_argument('--share', type=float, default=0.2, metavar='S',
                     help='share of frames that the headline figures are for (default: 0.2)')
    how.add_argument('--merge', choices=('replace', 'union'), default='replace',
                     help="the teacher's boxes alone, or the student's confident ones too (default: replace)")
    how.add_argument('--class', action='append', dest='classes', metavar='NAME=IOU[:IGNORED,...]',
                     help="class to evaluate in place of KITTI's three; may be repeated")
    how.add_argument('--bootstrap', type=int, default=0, metavar='N',
                     help='resamples of frames for 95 %% intervals (default: 0, none)')
    how.add_argument('--burst', type=float, default=3.0, metavar='N',
                     help='frames that the simulated gate may send in a row after a quiet time (default: 3)')
    how.add_argument('--phases', type=int, default=5, metavar='N',
                     help='replays of each way, each begun at another frame (default: 5)')
    how.add_argument('--teacher-ms', type=float, default=60.0, metavar='MS',
                     help='what the simulated teacher of the replay takes for an image (default: 60)')
    how.add_argument('--seed', type=int, default=0, help='of all that is left to chance (default: 0)')
    how.add_argument('--threads', type=int, default=0, metavar='N',
                     help='threads of each model; default 0: one for each core that the process may use')
    how.add_argument('--title', default='Hybrid', help='title of report.html')
    how.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    """Run `evaluate hybrid`."""
    from kd_perception.cli.evaluate import parse_class
    from kd_perception.evaluation.hybrid.frames import run_both, Source
    from kd_perception.evaluation.hybrid.gates import HybridOptions
    from kd_perception.evaluation.hybrid.replay import ReplayOptions
    from kd_perception.evaluation.hybrid.report import evaluate_hybrid
    from kd_perception.evaluation.metrics.kitti_eval import KITTI_CLASSES
    from kd_perception.fallback.estimator import Estimator
    from kd_perception.fallback.merge import MergeSettings
    if bool(args.images) == bool(args.bag):
        raise ConfigError('either --images or --bag is needed')
    if not 0 < args.share < 1 or not 0 <= args.bootstrap <= 100_000 or not (
            1 <= args.burst <= 1000 and 1 <= args.phases <= 100 and 0 < args.teacher_ms <= 10_000):
        raise ConfigError('--share above 0 and below 1, --bootstrap 0 to 100000, --burst 1 to 1000, '
                          '--phases 1 to 100, --teacher-ms above 0 and at most 10000 expected')
    classes = tuple(parse_class(text) for text in args.classes) if args.classes else KITTI_CLASSES
    with report_folder(Path(args.out)) as folder:
        student, teacher, facts = load_models(args.student, args.teacher, args.threads)
        estimator = Estimator.of_model(student.spec, args.student)
        source = Source(args.bag or args.images, args.labels, args.drive or bool(args.bag), args.camera)
        with progress(args.quiet, [source]) as bar:
            frames = run_both([source], student, teacher, bar.update)
        facts['data'] = {'images': source.images, 'labels': source.labels}
        replay = ReplayOptions(teacher_ns=round(args.teacher_ms * 1e6), phases=args.phases,
                               shares=tuple(sorted({*ReplayOptions.shares, args.share})))
        options = HybridOptions(args.share, MergeSettings(policy=args.merge), args.bootstrap, args.seed,
                                args.burst, replay=replay)
        report = evaluate_hybrid(frames, estimator, options, classes, facts, ['kd_perception', *sys.argv[1:]])
        write_report(folder, _files(report, args.title))
    _print(report)
    print(f'wrote {Path(args.out) / "report.html"}')
    return EXIT_OK


def load_models(student: str, teacher: str, threads: int) -> tuple[Any, Any, dict[str, Any]]:
    """
    Load both models; a manifest's digest is checked where one pins the file.

    :return: student and teacher (`OnnxDetector`), and {'models': facts}.
    :raises ModelError: as `OnnxDetector.load`. :raises ConfigError: threads out of range.
    """
    from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
    try:
        options = ExecutionOptions(threads=threads)
    except ValueError as error:
        raise ConfigError(f'--threads: {error}') from None
    loaded = [OnnxDetector.named(name, options) for name in (student, teacher)]
    facts = {role: f'{model.spec.name}, sha256 {model.sha256}'
             for role, model in zip(('student', 'teacher'), loaded)}
    return loaded[0], loaded[1], {'models': facts}


class Silent:
    """A progress bar where there is none."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count=1):
        pass


def progress(quiet: bool, sources: Sequence[Any]):
    """Return a progress bar over labelled frames, with `update()`; silent unless stderr is a terminal."""
    from kd_perception.labels.label_folder import list_frames
    folders = [source.labels for source in sources]
    # A topic does not say beforehand how many of its labels have an image.
    total = sum(len(list_frames(folder)) for folder in folders) if all(map(os.path.isdir, folders)) else None
    try:
        from tqdm import tqdm
    except ImportError:
        return Silent()
    return tqdm(total=total, unit='frame', desc='both models', disable=True if quiet else None)


def _files(report: dict[str, Any], title: str) -> dict[str, Any]:
    from kd_perception.evaluation.hybrid import plots
    from kd_perception.evaluation.hybrid.page import render
    metric = next(iter(report['metrics'].values()))
    replay = next(iter(report['replay'].values()))
    return {'ap_share.png': plots.png(plots.ap_share, metric, report['share']),
            'ap_share_in_time.png': plots.png(plots.ap_share_in_time, metric, replay, report['share']),
            'risk_coverage.png': plots.png(plots.risk_coverage, metric), REPORT_HTML: render(report, title),
            REPORT_JSON: json.dumps(report, indent=1, allow_nan=False) + '\n'}


def _cell(value: Any, digits: int = 1, scale: float = 1.0) -> str:
    return '-' if value is None else f'{scale * value:.{digits}f}'


def _print(report: dict[str, Any]) -> None:
    """Print the main figures."""
    for key, metric in report['metrics'].items():
        print(f'{metric["text"]}, mean of {", ".join(metric["mean_over"])}: AP {metric["student_ap"]:.1f} '
              f'student, {metric["teacher_ap"]:.1f} teacher')
        shown: list[float] = [share for share in metric['shares'] if 0 < share < 1]
        print(f'  {"gate":<14}' + ''.join(f'{f"{100 * share:g} %":>7}' for share in shown)
              + f'{"recovered":>11}{"area":>7}{"AUROC":>7}')
        for name, gate in metric['gates'].items():
            values = dict(zip(metric['shares'], gate['ap']))
            pair = gate.get('recovered_ci95')
            print(f'  {name:<14}' + ''.join(f'{_cell(values[share]):>7}' for share in shown)
                  + f'{_cell(gate["recovered_at_share"], 0, 100):>9} %{_cell(gate["relative_area"], 2):>7}'
                  + f'{_cell(gate["auroc_above_median"], 2):>7}'
                  + (f'  {100 * pair[0]:.0f} to {100 * pair[1]:.0f} %' if pair else ''))
        for item in report['online'][key]:
            print(f'  online, {item["gate"]}, {item["threshold"]} threshold: {item["share_sent"]:.1%} sent, '
                  f'AP {item["ap"]:.1f}, {_cell(item["recovered"], 0, 100)} % recovered '
                  f'(random: {_cell(item["random_recovered_at_that_share"], 0, 100)} %)')
        _print_replay(report['replay'][key])
    for line in report['warnings']:
        print(f'warning: {line}', file=sys.stderr)


def _print_replay(replay: dict[str, Any]) -> None:
    """Print what each way recovers as the node decides, in time."""
    print(f'  in time, scorer {replay["scorer"]}, teacher {replay["teacher_ms"]:g} ms; recovered [%], mean '
          f'and range of {replay["phases"]} phases')
    print(f'    {"budget":<18}' + ''.join(f'{f"{100 * share:g} %":>16}' for share in replay['shares']))
    for name, way in replay['ways'].items():
        cells = (f'{_cell(mean, 0, 100)} [{_cell(low, 0, 100)}, {_cell(high, 0, 100)}]'
                 for mean, (low, high) in zip(way['recovered'], way['recovered_range']))
        print(f'    {name:<18}' + ''.join(f'{cell:>16}' for cell in cells))
