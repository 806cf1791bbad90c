# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What `demo` leaves: a recording, a contact sheet, a summary, a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kd_perception.bags import messages
from kd_perception.bags.frames import FrameSource
from kd_perception.bags.typestore import canonical, DETECTION_ARRAY, DIAGNOSTIC_ARRAY, LABEL_INFO
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.demo_run import DemoRun
from kd_perception.cli.detection_writers import encode_jpeg
from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import contact_sheet, draw_detections
from kd_perception.errors import ImageError

STAGE_ORDER = ('wait', 'decode', 'preprocess', 'inference', 'postprocess', 'publish', 'total')
OVERVIEW_TILES, TILE_WIDTH_PX = 9, 640
JPEG_QUALITY = 85


def write_recording(path: Path, source: FrameSource, run: DemoRun, labels: tuple[str, ...],
                    overview: Path) -> dict[str, int]:
    """
    Write the recording and the contact sheet.

    Images come from the source (they are what was published, by stamp), detections as they came off the wire.

    :return: detections per class.
    """
    answers = {(camera, messages.parse_header(raw)[0]): raw
               for camera, raws in run.detections.items() for raw in raws}
    chosen = _choose_frames(answers)
    per_class: Counter = Counter()
    tiles: list[tuple[np.ndarray, str]] = []
    pending = set(answers)
    first_ns = min((stamp for _, stamp in answers), default=0)
    with BagWriter(path, 'mcap', overwrite=True) as writer:
        for camera, raw in run.label_info.items():
            writer.add_topic(f'/{camera}/label_info', LABEL_INFO, latched=True)
            writer.write_raw(f'/{camera}/label_info', LABEL_INFO, raw, first_ns)
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
            _, _, boxes, scores, names = messages.parse_detection_array(answers[key])
            per_class.update(names)
            prefix, stamp_ns = f'/{frame.camera}', frame.stamp_ns
            writer.write(f'{prefix}/image_raw/compressed', messages.compressed_image(
                *(frame.encoded() or encode_jpeg(image, JPEG_QUALITY)), stamp_ns, frame.frame_id), stamp_ns)
            writer.write_raw(f'{prefix}/detections', DETECTION_ARRAY,
                             canonical(answers[key], DETECTION_ARRAY), stamp_ns)
            writer.write(f'{prefix}/annotations', messages.image_annotations(
                boxes, scores, names, stamp_ns, labels), stamp_ns)
            if key in chosen:
                ids = [labels.index(name) if name in labels else len(labels) for name in names]
                drawn = _tile(image, Detections(boxes, scores, np.array(ids, np.int64)), labels)
                caption = f'{frame.camera} {(stamp_ns - first_ns) / 1e9:.1f} s: {len(names)} objects'
                tiles.append((drawn, caption))
            if not pending:
                break
    if tiles:
        sheet = contact_sheet([image for image, _ in tiles], [caption for _, caption in tiles],
                              tile_width=TILE_WIDTH_PX)
        cv2.imwrite(str(overview), sheet)
    return {label: per_class[label] for label in labels}


def _tile(image: np.ndarray, detections: Detections, labels: tuple[str, ...]) -> np.ndarray:
    """Draw at the size of a tile, where captions stay readable."""
    scale = TILE_WIDTH_PX / image.shape[1]
    size_wh = TILE_WIDTH_PX, max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return draw_detections(
        small, Detections(detections.boxes_xyxy * scale, detections.scores, detections.class_ids), labels)


def _choose_frames(answers: dict[tuple[str, int], bytes]) -> set[tuple[str, int]]:
    """Split the time into equal parts; of each take the middle frame, not the best: this is no trailer."""
    keys = sorted(answers, key=lambda key: (key[1], key[0]))
    parts = np.array_split(np.arange(len(keys)), min(OVERVIEW_TILES, len(keys))) if keys else []
    return {keys[part[len(part) // 2]] for part in parts}


def summarise(run: DemoRun, per_class: dict[str, int], facts: dict[str, Any]) -> dict[str, Any]:
    """
    Return the summary document.

    :param facts: input, model and settings, put in front.
    """
    frames: dict[str, Any] = {'in': run.replay['frames'], 'processed': 0, 'dropped': {}, 'undelivered': 0}
    latency = {}
    dropped: Counter = Counter()
    for camera, values in run.status.items():
        frames['processed'] += int(values.get('processed', 0))
        dropped.update({key.split('.', 1)[1]: int(value) for key, value in values.items()
                        if key.startswith('dropped.')})
        latency[camera] = _latency(values)
    frames['dropped'] = dict(dropped)
    # Published, but neither processed nor dropped by the node: DDS did not deliver it.
    frames['undelivered'] = max(0, frames['in'] - frames['processed'] - sum(dropped.values()))
    frames['left_out'] = run.replay['undecodable']
    frames['lost_in_input'] = run.replay['lost_in_input']
    if run.replay['answers'] or run.replay['timeouts']:
        frames['unanswered_in_time'] = run.replay['timeouts']
    return {**facts, 'frames': frames, 'detections_messages': sum(map(len, run.detections.values())),
            'detections_per_class': per_class, 'latency_ms': latency, 'wall_s': run.replay['wall_s'],
            'input_problems': run.replay['input_problems']}


def _latency(values: dict[str, str]) -> dict[str, dict[str, float]]:
    """Read `<stage>.<percentile>_ms` values of a status, in the order of the stages."""
    stages: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        stage, _, statistic = key.partition('.')
        if statistic in ('p50_ms', 'p95_ms', 'p99_ms', 'max_ms'):
            stages.setdefault(stage, {})[statistic[:-3]] = float(value)
    order = [stage for stage in STAGE_ORDER if stage in stages]
    return {stage: stages[stage] for stage in order + [stage for stage in stages if stage not in order]}


def table(summary: dict[str, Any], out: Path) -> str:
    """Return the summary for a terminal."""
    frames, model, source = summary['frames'], summary['model'], summary['input']
    dropped = ', '.join(f'{count} {reason}' for reason, count in frames['dropped'].items()) or 'none'
    if frames['undelivered']:
        dropped += f', {frames["undelivered"]} not delivered'
    rows = [
        ('input', source['title'] + (' [RENDERED, NOT FOOTAGE]' if source['rendered'] else '')),
        ('origin', source['origin']),
        ('model', f'{model["name"]}, sha256 {model["sha256"][:12]}'),
        ('frames', f'{frames["in"]} published, {frames["processed"]} processed in {summary["wall_s"]:.1f} s'),
        ('dropped', dropped),
        ('found', ', '.join(f'{count} {label}' for label, count in summary['detections_per_class'].items())),
    ]
    lines = [f'{name:<9}{text}' for name, text in rows]
    for camera, stages in summary['latency_ms'].items():
        lines.append(f'\n{"latency of " + camera + " [ms]":<28}{"median":>8}{"95 %":>8}{"99 %":>8}{"max":>8}')
        lines += [f'  {stage:<26}' + ''.join(f'{values.get(key, float("nan")):>8.1f}'
                                             for key in ('p50', 'p95', 'p99', 'max'))
                  for stage, values in stages.items()]
    lines += [f'\n{out / "overview.png"}      annotated frames',
              f'{out / "detections.mcap"}   images, detections, annotations: open it in Foxglove',
              f'{out / "summary.json"}      these figures']
    return '\n'.join(lines)
