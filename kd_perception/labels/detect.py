# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A model over a folder of images, a video or a recording; what it finds as KITTI text, JSON or MCAP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from kd_perception.detection.drawing import draw_detections
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ConfigError, ImageError, KdPerceptionError
from kd_perception.files import read_text, write_whole
from kd_perception.labels.detection_writers import encode_jpeg, JsonWriter, KittiWriter, McapWriter
from kd_perception.output_folder import cannot_be_written, OutputFolder
from kd_perception.progress import progress
from kd_perception.sources.frames import folder_names, Frame, FrameSource

COMMAND = 'kd_perception detect'
# Written last: where it lies, the folder is ours and complete.
SUMMARY_NAME = 'summary.json'
PICTURES = 'annotated'


@dataclasses.dataclass(frozen=True)
class Wanted:
    """
    What is written.

    :param model: as the user named it; `input` likewise: for the summary.
    :param annotated: also draw each frame. :param images: of MCAP: store the images too.
    :param score_threshold: None: the model's lowest; pictures then use its working threshold.
    :param max_frames: None: all. :param overwrite: an earlier run.
    """

    model: str
    input: str
    format: Literal['kitti', 'json', 'mcap'] = 'kitti'
    annotated: bool = False
    images: bool = False
    score_threshold: float | None = None
    max_frames: int | None = None
    overwrite: bool = False
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class Output:
    """
    Where results go.

    :param folder: takes all but a single file; None where there is nothing but that.
    :param file: of json and mcap. :param pictures: where annotated frames go within `folder`; empty: itself.
    """

    folder: OutputFolder | None
    file: Path | None
    pictures: str

    @property
    def target(self) -> Path:
        """What is named as written."""
        return self.file or self.folder.path


def detect(detector: OnnxDetector, source: FrameSource, output: Output, wanted: Wanted) -> dict[str, Any]:
    """
    Run a model over a source, and write what it finds.

    :return: the summary.
    """
    spec = detector.spec
    names = [camera.name for camera in source.cameras]
    folders = folder_names(names, [PICTURES]) if len(names) > 1 else dict.fromkeys(names, '')
    score = spec.thresholds.score_low if wanted.score_threshold is None else wanted.score_threshold
    drawn_score = spec.thresholds.score if wanted.score_threshold is None else wanted.score_threshold
    if wanted.format == 'kitti':
        writer: Any = KittiWriter(output.folder, spec, folders)
    elif wanted.format == 'json':
        writer = JsonWriter(output.file, spec)
    else:
        writer = McapWriter(output.file, spec, drawn_score, wanted.images, wanted.overwrite)
    processed, skipped, per_class = 0, [], Counter()
    try:
        for frame in _frames(source, wanted):
            try:
                image = frame.decode()
            except ImageError as error:
                skipped.append({'camera': frame.camera, 'name': frame.name, 'reason': error.reason,
                                'detail': error.detail})
                continue
            detections = detector.detect(image, score_threshold=score).detections
            writer.add(frame, image, detections)
            if wanted.annotated:
                place = Path(output.pictures, folders[frame.camera], f'{frame.name}.jpg')
                drawn = draw_detections(image, detections, spec.labels, drawn_score)
                write_whole(output.folder.new(str(place)), encode_jpeg(drawn)[0])
            per_class.update(spec.labels[i] for i in detections.above(drawn_score).class_ids)
            processed += 1
        summary = {
            'command': COMMAND, 'format': wanted.format, 'input': wanted.input, 'cameras': names,
            'model': {'name': spec.name, 'file': wanted.model, 'sha256': detector.sha256,
                      'labels': list(spec.labels)},
            'score_threshold': score, 'working_threshold': drawn_score, 'frames_processed': processed,
            'frames_skipped': len(skipped), 'skipped': skipped, 'frames_lost': source.lost,
            'input_problems': source.problems,
            'detections_per_class': {label: per_class[label] for label in spec.labels}}
        writer.close(summary)
    except BaseException:
        writer.abort()
        raise
    if output.pictures:
        document = {**summary, 'folders': folders, 'files': output.folder.files}
        write_whole(output.folder.new(SUMMARY_NAME), json.dumps(document, indent=1) + '\n')
    return summary


def _frames(source: FrameSource, wanted: Wanted) -> Iterable[Frame]:
    frames, total = iter(source), source.frame_count
    if wanted.max_frames is not None:
        # Not islice: it would read one frame too many before it stops.
        frames = (frame for _, frame in zip(range(wanted.max_frames), frames))
        total = min(total, wanted.max_frames) if total is not None else wanted.max_frames
    return progress(frames, total=total, unit='frame', quiet=wanted.quiet)


@contextlib.contextmanager
def output_place(out: Path, wanted: Wanted) -> Iterator[Output]:
    """
    Take the place that results go to, and make room there.

    :raises ConfigError: there is something already, and `--overwrite` was not given.
    """
    if wanted.format != 'kitti' and out.suffix == f'.{wanted.format}' and not out.is_dir():
        if out.exists() and not wanted.overwrite:
            raise ConfigError(f'{out}: exists already; give --overwrite or another --out')
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_be_written(out, error) from error
        if not wanted.annotated:
            yield Output(None, out, '')
            return
        pictures = out.with_name(f'{out.stem}_{PICTURES}')
        with OutputFolder(pictures, COMMAND, lambda: _pictures_in(pictures)) as folder:
            folder.make_room(wanted.overwrite)
            yield Output(folder, out, '')
        return
    with OutputFolder(out, COMMAND, lambda: _earlier_files(out)) as folder:
        folder.make_room(wanted.overwrite)
        yield Output(folder, None if wanted.format == 'kitti' else folder.new(f'detections.{wanted.format}'),
                     PICTURES)


def _pictures_in(folder: Path) -> list[str] | None:
    """Return the pictures beside a single file; their folder has its name from that file."""
    return [str(path.relative_to(folder)) for path in folder.rglob('*.jpg')] or None


def _earlier_files(out: Path) -> list[str] | None:
    """Return what a finished `detect` wrote, None where there is none; ConfigError for another's summary."""
    path = out / SUMMARY_NAME
    if not path.exists():
        return None
    try:
        summary = json.loads(read_text(path))
        if summary['command'] != COMMAND:
            raise ValueError
        return [*map(str, summary['files']), SUMMARY_NAME]
    except (KdPerceptionError, ValueError, KeyError, TypeError):
        raise ConfigError(f'{path}: is not of an earlier run of this command; choose another --out') from None
