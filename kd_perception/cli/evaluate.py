# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`evaluate`: how good a detector is, with a report."""
import argparse
from concurrent.futures import ProcessPoolExecutor
import dataclasses
import json
import multiprocessing
import os
from pathlib import Path
import resource
import sys
import time
from typing import Any

# Before numpy is loaded: the matrix products here are small, and on a busy computer the threads that OpenBLAS
# starts for them spend more time waiting for one another than computing.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import numpy as np

from kd_perception.cli import evaluate_compare, evaluate_drift, evaluate_hybrid
from kd_perception.errors import ConfigError
from kd_perception.evaluation.conditions import automatic_tags, condition_masks, load_frame_info, scene_groups
from kd_perception.evaluation.frame_set import FrameSet, read_frame_set
from kd_perception.evaluation.metrics.class_account import account_of_renames
from kd_perception.evaluation.metrics.kitti_eval import ClassProtocol, KITTI_CLASSES
from kd_perception.evaluation.report.content import evaluate_frames, Evaluation, EvaluationOptions
from kd_perception.evaluation.report.folder import report_folder, REPORT_HTML, REPORT_JSON, write_report
from kd_perception.output_folder import OutputFolder
from kd_perception.processes.cores import thread_count

HELP = ('Average precision (KITTI, COCO), log-average miss rate and calibration of finished detections, or '
        'of a model on a recording; writes report.json and report.html.')
EXAMPLES = """\
  kd_perception evaluate --labels label_2 --detections out --out report
  kd_perception evaluate --labels label_2 --detections out --images image_2 --out report
                                                   with pictures of the worst mistakes
  kd_perception evaluate --labels label_2 --detections out --out report --class Car=0.7:Van \\
      --class Truck=0.7
  kd_perception evaluate --bag drive --labels /camera/ground_truth --model teacher --out report
  kd_perception evaluate compare before/report.json after/report.json \\
      --metric results.Car.moderate.ap_r40=0.5 --metric miss_rate.reasonable=0.01
                                                   exit code 1 if a metric became worse by more
  kd_perception evaluate compare site_old/report.json site_new/report.json \\
      --also val_old/report.json val_new/report.json --verdict compare.json
                                                   may the new model take the old one's place?
  kd_perception evaluate hybrid --help             student and teacher together
  kd_perception evaluate drift --help              false alarms and delay of the drift monitors"""

EXIT_OK = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest='action', metavar='[compare|hybrid|drift]')
    source = parser.add_argument_group('what to evaluate')
    source.add_argument('--labels', metavar='DIR|TOPIC',
                        help='folder of KITTI label files <frame>.txt; with --bag also the topic of labels')
    source.add_argument('--detections', metavar='DIR|TOPIC',
                        help='folder of KITTI text files <frame>.txt with the score as 16th column; with '
                             '--bag a recorded topic of detections')
    source.add_argument('--images', metavar='DIR',
                        help='folder of the images, for gallery and automatic conditions')
    source.add_argument('--bag', action='append', metavar='BAG', help='recording (rosbag2); may be repeated')
    source.add_argument('--model', help='run this on the bag or on --images: ONNX file, or a name of the '
                                        'shipped manifest')
    source.add_argument('--rename', action='append', metavar='FROM=TO',
                        help='class of the detections that goes by another name in the labels, such as '
                             'person=Pedestrian; may be repeated')
    source.add_argument('--camera', help='with --bag: name of the camera, where there are several')
    source.add_argument('--recorded', metavar='BAG',
                        help='with one --bag: recording that holds the topic of detections, where that is '
                             'not the bag itself (see launch/replay_evaluation.launch.py)')
    source.add_argument('--jobs', type=int, default=1, metavar='N',
                        help='with several --bag: worker processes; 0: one for each core that '
                             'the process may use (default: 1)')
    parser.add_argument('--out', metavar='DIR', help='folder for report.json and report.html')
    protocol = parser.add_argument_group('how to evaluate')
    protocol.add_argument('--class', action='append', dest='classes', metavar='NAME=IOU[:IGNORED,...]',
                          help="class to evaluate, instead of KITTI's Car=0.7:Van, "
                               'Pedestrian=0.5:Person_sitting and Cyclist=0.5; may be repeated')
    protocol.add_argument('--frame-info', metavar='YAML', help='conditions and scene groups of frames')
    protocol.add_argument('--bootstrap', type=int, default=200, metavar='N',
                          help='resamples for 95 %% intervals, 0 for none (default: 200)')
    protocol.add_argument('--seed', type=int, default=0, help='of the resampling (default: 0)')
    protocol.add_argument('--coco', choices=('auto', 'on', 'off'), default='auto',
                          help='COCO AP by pycocotools (default: up to 100,000 detections)')
    protocol.add_argument('--score-threshold', type=float, metavar='S',
                          help="working threshold for counts and gallery (default: the model's, else 0.5)")
    protocol.add_argument('--gallery', type=int, default=8, metavar='N',
                          help='pictures of misses and of false alarms for each class (default: 8)')
    protocol.add_argument('--no-html', action='store_true', help='write report.json only')
    protocol.add_argument('--title', default='Evaluation', help='title of report.html')
    evaluate_compare.add_arguments(actions.add_parser(
        'compare', help='differences of two reports; exit code 1 for a worse metric or a verdict of no'))
    evaluate_hybrid.add_arguments(actions.add_parser(
        'hybrid', help='AP against the share of frames sent to a teacher, gate by gate'))
    evaluate_drift.add_arguments(actions.add_parser(
        'drift', help='false alarms and delay of the drift monitors'))


def run(args: argparse.Namespace) -> int:
    """Run `evaluate`, `evaluate compare`, `evaluate hybrid` or `evaluate drift`."""
    if args.action == 'compare':
        return evaluate_compare.run(args)
    if args.action == 'hybrid':
        return evaluate_hybrid.run(args)
    if args.action == 'drift':
        return evaluate_drift.run(args)
    options = _options(args)
    with report_folder(Path(args.out)) as folder:
        return _evaluate(args, options, folder)


def _evaluate(args: argparse.Namespace, options: EvaluationOptions, folder: OutputFolder) -> int:
    started = time.monotonic()
    frames = _frame_set(args)
    renamed = dict(parse_rename(text) for text in args.rename or ())
    if renamed:
        frames.warnings += account_of_renames(frames.detections, renamed)
        frames.detections = frames.detections.renamed(renamed)
    if args.score_threshold is None and 'score_threshold' in frames.model:
        options = dataclasses.replace(options, score_threshold=frames.model['score_threshold'])
    info = load_frame_info(args.frame_info) if args.frame_info else None
    conditions = _automatic_conditions(frames)
    groups = None
    if info:
        names = frames.labels.frames
        conditions.update(condition_masks(info, names, frames.stamps_ns, frames.bags))
        groups = scene_groups(info, names)
    evaluation = evaluate_frames(frames, options, conditions, groups, ['kd_perception', *_command()])
    evaluation.report['runtime'] = _runtime(started)
    write_report(folder, _files(args, frames, options, evaluation))
    _print_summary(evaluation.report, Path(args.out))
    return EXIT_OK


def _command() -> list[str]:
    """Return the command line as typed, `evaluate` first."""
    words = sys.argv[1:]
    return words if words[:1] == ['evaluate'] else ['evaluate', *words]


def _runtime(started: float) -> dict[str, float]:
    """Return what the figures cost, workers included: wall and processor time [s], peak memory [MiB]."""
    own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
    return {'wall_s': round(time.monotonic() - started, 3), 'cpu_s': round(cpu_s, 3),
            'peak_memory_mib': round(max(own.ru_maxrss, workers.ru_maxrss) / 1024, 1)}  # Linux counts in KiB


def _options(args: argparse.Namespace) -> EvaluationOptions:
    if not args.labels or not args.out:
        raise ConfigError('--labels and --out are needed')
    if bool(args.model) == bool(args.detections):
        raise ConfigError('either --detections or --model is needed')
    if args.model and not args.bag and not args.images:
        raise ConfigError('--model needs a --bag or a folder of --images')
    if args.recorded and (not args.detections or len(args.bag or ()) != 1):
        raise ConfigError('--recorded needs exactly one --bag, and --detections with the topic')
    if args.bag and args.images:
        raise ConfigError('--bag brings its own images, --images is not for it')
    if args.bootstrap < 0 or args.bootstrap > 100_000 or args.gallery < 0 or args.jobs < 0:
        raise ConfigError('--bootstrap 0 to 100000, --gallery not below 0 and --jobs not below 0 expected')
    classes = tuple(parse_class(text) for text in args.classes) if args.classes else KITTI_CLASSES
    threshold = 0.5 if args.score_threshold is None else args.score_threshold
    return EvaluationOptions(classes, bootstrap=args.bootstrap, seed=args.seed, coco=args.coco,
                             score_threshold=threshold)


def parse_rename(text: str) -> tuple[str, str]:
    """Read ``FROM=TO``; ConfigError otherwise."""
    old, equals, new = text.partition('=')
    if not (old and equals and new):
        raise ConfigError(f'--rename {text!r}: FROM=TO expected, such as person=Pedestrian')
    return old, new


def parse_class(text: str) -> ClassProtocol:
    """Read ``NAME=IOU[:IGNORED,...]``; ConfigError otherwise."""
    name, equals, rest = text.partition('=')
    iou, _, ignored = rest.partition(':')
    try:
        if not equals:
            raise ValueError
        return ClassProtocol(name.strip(), float(iou), tuple(item for item in ignored.split(',') if item))
    except ValueError:
        raise ConfigError(f'--class {text!r}: NAME=IOU[:IGNORED,...] expected, such as Car=0.7:Van') from None


def _frame_set(args: argparse.Namespace) -> FrameSet:
    sources = args.bag or ([args.images] if args.model else [])
    if not sources:
        return read_frame_set(args.labels, args.detections, args.images)
    # Imported here: finished text files are evaluated without OpenCV, onnxruntime and rosbags.
    from kd_perception.evaluation.replay import replay_frame_set, ReplayJob
    from kd_perception.models.manifest import pinned_sha256, resolve_model
    from kd_perception.resources import models_folder
    model = str(resolve_model(args.model, models_folder())) if args.model else ''
    sha256 = pinned_sha256(model) if model else None
    jobs = [ReplayJob(str(source), args.labels, model, sha256, args.detections or '', args.camera,
                      args.recorded or '')
            for source in sources]
    workers = min(thread_count(args.jobs), len(jobs))
    if workers == 1:
        return replay_frame_set(jobs)
    # Not forked: onnxruntime's and OpenCV's threads do not survive a fork.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return replay_frame_set(jobs, pool.map)


def _automatic_conditions(frames: FrameSet) -> dict[str, Any]:
    """Return tags by luminance and sharpness where there are images; note the images' sizes, too."""
    if frames.signals is None:
        if frames.images is None:
            return {}
        from kd_perception.images.scene import measure_scene
        count = len(frames.labels.frames)
        found, sizes = {}, {}
        for index, image in frames.images(range(count)):
            found[index], sizes[index] = measure_scene(image), image.shape[:2]
        frames.signals = [found.get(index) for index in range(count)]
        if len(sizes) == count:
            frames.image_hw = np.array([sizes[index] for index in range(count)])
    return automatic_tags(frames.signals)


def _files(args: argparse.Namespace, frames: FrameSet, options: EvaluationOptions,
           evaluation: Evaluation) -> dict[str, str]:
    """Return the report's files by name."""
    files = {}
    if not args.no_html:
        from kd_perception.evaluation.report.page import render
        gallery = {}
        if args.gallery and frames.images:
            from kd_perception.evaluation.report.gallery import make_gallery
            gallery = make_gallery(frames, evaluation.evaluator, options.classes, evaluation.points,
                                   args.gallery)
        files[REPORT_HTML] = render(evaluation.report, gallery, args.title)
    files[REPORT_JSON] = json.dumps(evaluation.report, indent=1, allow_nan=False) + '\n'
    return files


def _shown(value: Any, scale: float = 1.0, digits: int = 2) -> str:
    return '-' if value is None else f'{scale * value:.{digits}f}'


def _print_summary(report: dict[str, Any], out: Path) -> None:
    """Print the main figures."""
    print(f'{"class":<16}{"difficulty":<12}{"AP R40":>8}{"95 % interval":>18}{"AP R11":>8}{"valid":>8}')
    for name, levels in report['results'].items():
        for level, item in levels.items():
            interval = f'{item["ci95"][0]:.2f} to {item["ci95"][1]:.2f}' if item['ci95'] else ''
            few = ' (few)' if item['few_ground_truths'] else ''
            note = f' {item["reason"]}' if item.get('reason') else ''
            print(f'{name:<16}{level:<12}{_shown(item["ap_r40"]):>8}{interval:>18}{_shown(item["ap_r11"]):>8}'
                  f'{item["valid_ground_truths"]:>8}{few}{note}')
    for name, value in report['miss_rate'].items():
        count = report['miss_rate_details'][name]['valid_ground_truths']
        print(f'log-average miss rate, {name}: {_shown(value, 100)} % ({count} ground truths)')
    for name, item in report['calibration'].items():
        print(f'D-ECE, {name}: ' + (f'{_shown(item["d_ece"], 100)} %' if item['d_ece'] is not None
                                    else item['reason']))
    frames = report['frames']
    lost = ', '.join(f'{count} {reason}' for reason, count in frames['dropped'].items())
    print(f'frames: {frames["total"]} in all, {frames["processed"]} with a result'
          + (f'; {lost}' if lost else ''))
    runtime = report['runtime']
    print(f'{runtime["wall_s"]:.1f} s, {runtime["cpu_s"]:.1f} s of processor time, '
          f'{runtime["peak_memory_mib"]:.0f} MiB')
    for line in report['warnings']:
        print(f'warning: {line}', file=sys.stderr)
    print(f'wrote {out / REPORT_JSON}')


def main() -> int:
    """Run as an executable of its own."""
    from kd_perception.cli.main import run_command
    return run_command('evaluate')


if __name__ == '__main__':
    sys.exit(main())
