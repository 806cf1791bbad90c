# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What `demo` leaves: a recording, a contact sheet, a timeline, a summary, a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bags.writer import BagWriter
from kd_perception.demo import overview as demo_overview
from kd_perception.demo import timeline as demo_timeline
from kd_perception.demo.answers import (
    Answer,
    answers_of,
    detections_of,
    FROM_TEACHER,
    Key,
    Span,
    states_of,
    verified_figures,
)
from kd_perception.demo.wire import DemoRun, PROVENANCE, STUDENT
from kd_perception.detection.drawing import write_png
from kd_perception.errors import ImageError
from kd_perception.labels.detection_writers import encode_jpeg
from kd_perception.messages import build as messages
from kd_perception.messages.typestore import canonical, DETECTION_ARRAY, DIAGNOSTIC_ARRAY, LABEL_INFO
from kd_perception.output_folder import OutputFolder
from kd_perception.sources.frames import Frame, FrameSource

STAGE_ORDER = ('wait', 'decode', 'preprocess', 'inference', 'postprocess', 'publish', 'total')
RECORDING, OVERVIEW, TIMELINE, SUMMARY = 'detections.mcap', 'overview.png', 'timeline.png', 'summary.json'
FILES = (RECORDING, OVERVIEW, TIMELINE, SUMMARY)
JPEG_QUALITY = 85


def write_files(out: OutputFolder, source: FrameSource, run: DemoRun, labels: Sequence[str],
                facts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Write the recording and the pictures.

    :param labels: class names of what is shown.
    :param facts: of the summary; with `fallback` where there is one.
    :return: the summary.
    """
    answers = answers_of(run)
    per_class = write_recording(out.new(RECORDING), source, run, answers, labels, out.new(OVERVIEW))
    if 'fallback' not in facts:
        return summarise(run, per_class, facts)
    states: dict[str, list[Span]] = {}
    start_ns = min((stamp_ns for _, stamp_ns in answers), default=0)
    for camera in run.results[STUDENT]:
        own = [stamp_ns for name, stamp_ns in answers if name == camera]
        states[camera] = states_of(run, camera, start_ns, max(own)) if own else []
    if answers:
        demo_timeline.draw(out.new(TIMELINE), answers, states, start_ns, facts['fallback'])
    return summarise_hybrid(run, answers, states, per_class, facts)


def write_recording(path: Path, source: FrameSource, run: DemoRun, answers: Mapping[Key, Answer],
                    labels: Sequence[str], overview: Path) -> dict[str, int]:
    """
    Write the recording and the contact sheet.

    Images come from the source (they are what was published, by stamp), all else as it came off the wire.

    :return: shown detections per class.
    """
    chosen = demo_overview.choose_frames(answers)
    per_class: Counter = Counter()
    tiles: list[tuple[np.ndarray, str]] = []
    pending = set(answers)
    first_ns = min((stamp for _, stamp in answers), default=0)
    many = len({camera for camera, _ in answers}) > 1
    with BagWriter(path, 'mcap', overwrite=True) as writer:
        for namespace, raw in run.label_info.items():
            writer.add_topic(f'/{namespace}/label_info', LABEL_INFO, latched=True)
            writer.write_raw(f'/{namespace}/label_info', LABEL_INFO, raw, first_ns)
        for stamp_ns, raw in run.diagnostics:
            # Reports from before the replay carry no recorded time and belong to its begin.
            writer.write_raw('/diagnostics', DIAGNOSTIC_ARRAY, raw, max(stamp_ns, first_ns))
        for frame in source:
            key = frame.camera, frame.stamp_ns
            if key not in pending:
                continue
            pending.discard(key)
            try:
                image = frame.decode()
            except ImageError:
                continue
            answer = answers[key]
            shown, names = detections_of(answer.shown, labels)
            per_class.update(names)
            _write_frame(writer, frame, image, answer, labels)
            if key in chosen:
                student = None
                if answer.source in FROM_TEACHER and STUDENT in answer.raw:
                    student, _ = detections_of(answer.raw[STUDENT], labels)
                # Without a fallback the caption has always named the camera.
                named = frame.camera if many or not answer.facts else ''
                tiles.append((demo_overview.tile(image, shown, labels, answer.source, student),
                              demo_overview.caption(
                                  answer, named, (frame.stamp_ns - first_ns) / 1e9, len(names))))
            if not pending:
                break
    if tiles:
        write_png(overview, demo_overview.sheet(*map(list, zip(*tiles)), answers))
    return {label: per_class[label] for label in labels}


def _write_frame(writer: BagWriter, frame: Frame, image: np.ndarray, answer: Answer,
                 labels: Sequence[str]) -> None:
    """Write all messages of one frame, at its stamp."""
    prefix, stamp_ns = f'/{frame.camera}', frame.stamp_ns
    writer.write(f'{prefix}/image_raw/compressed', messages.compressed_image(
        *(frame.encoded() or encode_jpeg(image, JPEG_QUALITY)), stamp_ns, frame.frame_id), stamp_ns)
    for topic, raw in answer.raw.items():
        kind = DIAGNOSTIC_ARRAY if topic == PROVENANCE else DETECTION_ARRAY
        writer.write_raw(f'{prefix}/{topic}', kind, canonical(raw, kind), stamp_ns)
    _, _, boxes, scores, names = messages.parse_detection_array(answer.shown)
    writer.write(f'{prefix}/annotations', messages.image_annotations(
        boxes, scores, names, stamp_ns, labels), stamp_ns)


def summarise(run: DemoRun, per_class: dict[str, int], facts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the summary document of one model alone.

    :param facts: input, model and settings, put in front.
    """
    frames = _input_frames(run)
    figures = _node_figures(run.status['detector'], frames['in'])
    return {**facts, 'frames': {'in': frames.pop('in'), **figures['frames'], **frames},
            'detections_messages': sum(map(len, run.results[STUDENT].values())),
            'detections_per_class': per_class, 'latency_ms': figures['latency_ms'],
            'wall_s': run.replay['wall_s'], 'input_problems': run.replay['input_problems']}


def summarise_hybrid(run: DemoRun, answers: Mapping[Key, Answer], states: Mapping[str, Sequence[Span]],
                     per_class: dict[str, int], facts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the summary document of the hybrid.

    `frames` are the student's, which sees all; `teacher` counts the frames that it was sent.

    :param facts: input, models and settings, put in front.
    """
    frames, verified = _input_frames(run), verified_figures(run, answers)
    student = _node_figures(run.status['student'], frames['in'])
    summary = {
        **facts, 'frames': {'in': frames.pop('in'), **student['frames'], **frames}, 'verified': verified,
        'states_s': {camera: _durations(spans) for camera, spans in states.items()},
        'detections_per_class': per_class, 'latency_ms': student['latency_ms']}
    if 'teacher' in run.status:
        summary['teacher'] = _node_figures(run.status['teacher'], verified['sent'] + verified['probes'])
    return {**summary, 'wall_s': run.replay['wall_s'], 'input_problems': run.replay['input_problems']}


def _input_frames(run: DemoRun) -> dict[str, Any]:
    """Return what the replay tells of frames."""
    frames: dict[str, Any] = {'in': run.replay['frames'], 'left_out': run.replay['undecodable'],
                              'lost_in_input': run.replay['lost_in_input']}
    if run.replay['answers'] or run.replay['timeouts']:
        frames['unanswered_in_time'] = run.replay['timeouts']
    return frames


def _node_figures(status: Mapping[str, Mapping[str, str]], published: int) -> dict[str, Any]:
    """
    Return what became of the frames for a detector, and how long they took.

    :param status: namespace of a camera -> values of its last status.
    """
    dropped: Counter = Counter()
    for values in status.values():
        dropped.update({key.split('.', 1)[1]: int(value) for key, value in values.items()
                        if key.startswith('dropped.')})
    processed = sum(int(values.get('processed', 0)) for values in status.values())
    # Published, but neither processed nor dropped by the node: DDS did not deliver it.
    undelivered = max(0, published - processed - sum(dropped.values()))
    return {'frames': {'processed': processed, 'dropped': dict(dropped), 'undelivered': undelivered},
            'latency_ms': {camera: _latency(values) for camera, values in status.items()}}


def _durations(spans: Sequence[Span]) -> dict[str, float]:
    """Return how long each state lasted."""
    total: Counter = Counter()
    for span in spans:
        total[span.state] += span.end_ns - span.start_ns
    return {state: round(duration_ns / 1e9, 2) for state, duration_ns in total.items()}


def _latency(values: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Read `<stage>.<percentile>_ms` values of a status, in the order of the stages."""
    stages: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        stage, _, statistic = key.partition('.')
        if statistic in ('p50_ms', 'p95_ms', 'p99_ms', 'max_ms'):
            stages.setdefault(stage, {})[statistic[:-3]] = float(value)
    order = [stage for stage in STAGE_ORDER if stage in stages]
    return {stage: stages[stage] for stage in order + [stage for stage in stages if stage not in order]}
