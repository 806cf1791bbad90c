# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`review --edit`: correct the labels of hard frames in a browser. See docs/how-to/review.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import hashlib
from pathlib import Path
import sys
from typing import Any

from kd_perception.errors import ConfigError, ImageError
from kd_perception.progress import progress
from kd_perception.recording.disagreement import Disagreement, WorkingScores
from kd_perception.recording.recorded import Boxes, RecordedFrame
from kd_perception.review.kitti_export import image_file, propose_labels
from kd_perception.review.label_server import EditFrame, LabelServer
from kd_perception.review.label_store import checked_boxes, LabelBox, LabelStore
from kd_perception.review.selection import chosen_frames, record, Selection

FIRST_CLASSES, LAST_CLASS = ('Car', 'Pedestrian', 'Cyclist'), 'DontCare'
_MAX_CLASS = 40
_FACTS = ('bag', 'camera', 'stamp_ns', 'frame_id', 'source', 'reason', 'ambiguity', 'disagreement')


def edit(selection: Selection, out: Path, labels_from: str | None = None, classes: Sequence[str] = (),
         port: int = 0, quiet: bool = False, note: Callable[[Sequence[str]], None] = lambda lines: None,
         started: Callable[[LabelServer], None] = lambda server: None) -> None:
    """
    Serve the editor until it is finished or interrupted; all is saved in both cases.

    :param out: folder of the labels. :param labels_from: whose boxes are proposed first; None: of the
        teacher, or what was verified.
    :param classes: offered beside ours and those recorded. :param port: 0: a free one.
    :param note: takes lines on what could not be read.
    :param started: called with the server before it serves; a seam for tests.
    :raises BagError: the input holds no hard frames. :raises ConfigError: the folder or port cannot be had.
    """
    store = LabelStore(out)
    store.open()
    try:
        with prepare(selection, store, labels_from, classes, port, quiet, note) as server:
            started(server)
            print(f'{len(server.frames)} frames, {_counts(server)}. Open {server.url}\n'
                  'Every change is saved at once; end with Finish in the page, or with Ctrl-C here.',
                  flush=True)
            try:
                server.serve_forever(poll_interval=0.2)
            except KeyboardInterrupt:
                print(file=sys.stderr)
            _report(server)
    finally:
        store.close()


def prepare(selection: Selection, store: LabelStore, labels_from: str | None = None,
            classes: Sequence[str] = (), port: int = 0, quiet: bool = False,
            note: Callable[[Sequence[str]], None] = lambda lines: None) -> LabelServer:
    """Read the frames and keep their images in the open store; return the server, not yet running."""
    found, frames, differences = chosen_frames(selection)
    names, repeated = _names(frames)
    frames = [frame for frame in frames if frame.key in names]
    offered = _classes(frames, classes)
    ready: dict[Any, EditFrame] = {}
    problems = list(found.problems)
    if repeated:
        problems.append(f'{repeated} frames are in two recordings and shown once')
    for frame, image in progress(found.images(frames), total=len(frames), unit='frame', quiet=quiet):
        name = names[frame.key]
        if image is None:
            problems.append(f'{name}: its image is missing; left out')
            continue
        try:
            pixels = image.decode()
        except ImageError as error:
            problems.append(f'{name}: {error}; left out')
            continue
        path = store.image(name) or store.add_image(name, *image_file(image, pixels))
        hw = pixels.shape[:2]
        facts = record(frame, differences[frame.key])
        ready[frame.key] = EditFrame(
            name, path, (int(hw[0]), int(hw[1])), {key: facts[key] for key in _FACTS},
            _model_boxes(frame, differences[frame.key], selection.scores),
            _proposal(frame, labels_from, offered, hw))
    note(problems)
    others = len(store.names() - set(names.values()))
    if others:
        note([f'{others} frames decided earlier are not among these; their labels stay'])
    shown = [ready[frame.key] for frame in frames if frame.key in ready]
    if not shown:
        raise ConfigError(f'{selection.input}: none of its frames has an image that can be decoded')
    return LabelServer(store, shown, offered, port)


def _names(frames: Sequence[RecordedFrame]) -> tuple[dict[Any, str], int]:
    """
    Name frames so that a frame keeps its name whatever else is in the input.

    :return: {frame key: name}, and how many frames are left out as copies of one in another recording.
    """
    cameras: dict[str, set[str]] = {}
    for frame in frames:
        cameras.setdefault(frame.key.camera.replace('/', '_'), set()).add(frame.key.camera)
    names: dict[Any, str] = {}
    taken: set[str] = set()
    for frame in frames:
        camera, name = frame.key.camera, frame.name
        if len(cameras[camera.replace('/', '_')]) > 1 and '/' in camera:
            name += '_' + hashlib.sha256(camera.encode()).hexdigest()[:6]
        if name not in taken:
            taken.add(name)
            names[frame.key] = name
    return names, len(frames) - len(names)


def _classes(frames: Sequence[RecordedFrame], more: Sequence[str]) -> tuple[str, ...]:
    """Return the classes to offer: ours, those asked for, those recorded, DontCare."""
    recorded = Counter(_label(name) for frame in frames for boxes in (frame.student, frame.teacher)
                       for name in (boxes.names if boxes is not None else ()))
    names = [*FIRST_CLASSES, *more, *sorted(recorded), LAST_CLASS]
    for name in more:
        if len(name.split()) != 1 or name != name.strip():
            raise ConfigError(f'--class {name!r}: expected one word')
    offered = tuple(name for name in dict.fromkeys(names) if name)
    if len(offered) > _MAX_CLASS:
        raise ConfigError(f'{len(offered)} classes, expected at most {_MAX_CLASS}')
    return offered


def _label(name: str) -> str:
    return '_'.join(name.split())


def _model_boxes(frame: RecordedFrame, difference: Disagreement | None, scores: WorkingScores
                 ) -> dict[str, list[dict[str, Any]]]:
    """Return the boxes to draw, of each model from its working score."""
    found = {'student': _drawn(frame.student.above(scores.student), ())}
    if difference is not None:
        found['student'] = _drawn(difference.student,
                                  {*difference.only_student, *(i for i, _ in difference.renamed)})
        found['teacher'] = _drawn(difference.teacher,
                                  {*difference.only_teacher, *(j for _, j in difference.renamed)})
    if frame.verified is not None:
        found['verified'] = _drawn(frame.verified, ())
    return found


def _drawn(boxes: Boxes, alone: Any) -> list[dict[str, Any]]:
    return [{'class': _label(name), 'score': round(float(score), 3),
             'box_xyxy': [round(float(value), 2) for value in box], 'alone': i in alone}
            for i, (name, score, box) in enumerate(zip(boxes.names, boxes.scores, boxes.boxes_xyxy))]


def _proposal(frame: RecordedFrame, labels_from: str | None, classes: Sequence[str], hw: Sequence[int]
              ) -> tuple[LabelBox, ...]:
    """Return the labels to begin with, without boxes outside the image or of no class offered."""
    order = [labels_from] if labels_from else ['teacher', 'verified', 'student']
    boxes = next((found for found in (getattr(frame, name) for name in order) if found is not None), None)
    if boxes is None:
        return ()
    image_hw = int(hw[0]), int(hw[1])
    named = Boxes(boxes.boxes_xyxy, boxes.scores, tuple(map(_label, boxes.names)))
    objects = propose_labels(named, image_hw).objects
    kept: list[LabelBox] = []
    for name, box in zip(objects.types, objects.boxes_xyxy):
        try:
            kept += checked_boxes([{'class': name, 'box_xyxy': box.tolist()}], classes, image_hw)
        except ConfigError:
            continue
    return tuple(kept)


def _counts(server: LabelServer) -> str:
    counts: Mapping[str, int] = server.overview()['counts']
    return ', '.join(f'{count} {status}' for status, count in counts.items())


def _report(server: LabelServer) -> None:
    summary = server.store.summary()
    labels = ', '.join(f'{count} {name}' for name, count in summary['labels'].items()) or 'no labels'
    print(f'{_counts(server)}\n{summary["images"]} labelled images -> {server.store.folder}: {labels}'
          + (f'; {summary["empty"]} without an object' if summary['empty'] else ''))
