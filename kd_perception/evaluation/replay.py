# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Evaluate recordings: run a model over their images without DDS, or read the detections that a graph recorded.

One recording is one `ReplayJob`, and `replay` is a plain function of it, so that any map over jobs spreads
the work: `map`, a process pool, or a cluster's (docs/how-to/evaluation.md shows Dask).
"""
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
import hashlib
from pathlib import Path
import time
from typing import Any

import numpy as np

from kd_perception.bags.reader import BagReader
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import BagError, EvaluationError, ImageError, LabelError
from kd_perception.evaluation.frame_set import FrameSet, NO_DETECTIONS, NO_LABELS
from kd_perception.evaluation.frame_set import names as some_names
from kd_perception.images.scene import measure_scene
from kd_perception.labels.kitti_bag import parse_objects, require_topic
from kd_perception.labels.kitti_text import KittiObjects
from kd_perception.labels.label_source import LabelSource
from kd_perception.labels.object_table import ObjectTable
from kd_perception.messages import typestore as ts
from kd_perception.sources.any_source import open_source
from kd_perception.sources.folders import NO_STAMPS

NOT_RECORDED = 'not_recorded'
DUPLICATE_STAMP = 'duplicate_stamp'


@dataclass(frozen=True)
class ReplayJob:
    """
    One recording (or folder of images) to evaluate.

    :ivar source: rosbag2 folder or file, or with a model also a folder of images or a video.
    :ivar labels: topic of the recording, or folder of label files named as its frames.
    :ivar model: ONNX file, or empty where ``detections`` names a recorded topic.
    :ivar sha256: digest that the model must have, or None.
    :ivar camera: which camera, where the source has several.
    :ivar recorded: recording that holds the topic of detections, where that is not ``source`` itself.
    """

    source: str
    labels: str
    model: str = ''
    sha256: str | None = None
    detections: str = ''
    camera: str | None = None
    recorded: str = ''


@dataclass
class Replay:
    """What came of one job: frames that have labels, in stamp order, and an account of the others."""

    names: list[str] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    labels: list[KittiObjects] = field(default_factory=list)
    detections: list[KittiObjects] = field(default_factory=list)
    image_hw: list[tuple[int, int]] = field(default_factory=list)
    signals: list[Any] = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    latency_ns: dict[str, list[float]] = field(default_factory=dict)
    lost_messages: int | None = 0
    model: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def add_latency(self, **durations: float) -> None:
        """Note durations [ns] by stage."""
        for stage, duration in durations.items():
            self.latency_ns.setdefault(stage, []).append(duration)


def replay(job: ReplayJob) -> Replay:
    """
    Evaluate one recording; deterministic, and in one process.

    :raises BagError: unreadable, no such camera, or a topic that is missing or of another type.
    :raises EvaluationError: no labels, or no frame that has any.
    :raises LabelError, ModelError: a malformed label file; a model that cannot be used.
    """
    labels = LabelSource(Path(job.source), job.labels)
    result = Replay()
    if job.model:
        _run_model(job, labels, result)
    else:
        _read_detections(job, labels, result)
    for reason, count in labels.left_out.items():
        result.problems.append(f'{job.source}: {count} label messages left out: {reason}')
    unused = labels.unused()
    if unused:
        result.dropped[NOT_RECORDED] += len(unused)
        result.problems.append(f'{job.source}: {len(unused)} labelled frames are not in it: '
                               f'{some_names(unused)}')
    if not result.names:
        raise EvaluationError(f'{job.source}: none of its frames has labels in {job.labels}')
    result.sha256['labels'] = labels.sha256
    return result


def _run_model(job: ReplayJob, labels: LabelSource, result: Replay) -> None:
    detector = OnnxDetector.load(job.model, ExecutionOptions(), job.sha256)
    detector.warm_up()
    types = [name.replace(' ', '_') for name in detector.spec.labels]
    floor = detector.spec.thresholds.score_low
    result.model = {'name': detector.spec.name, 'sha256': detector.sha256, 'path': str(job.model),
                    'provider': detector.provider, 'score_threshold': detector.spec.thresholds.score,
                    'lowest_score': floor}
    digest = hashlib.sha256()
    seen = set()
    with open_source(job.source, [job.camera] if job.camera else None) as source:
        if len(source.cameras) > 1:
            known = ', '.join(camera.name for camera in source.cameras)
            raise EvaluationError(f'{job.source}: several cameras ({known}), one must be named')
        for frame in source:
            truth = labels.of(frame.stamp_ns, frame.name)
            if truth is None:
                result.dropped[NO_LABELS] += 1
                continue
            if frame.stamp_ns in seen:
                result.dropped[DUPLICATE_STAMP] += 1
                continue
            seen.add(frame.stamp_ns)
            start = time.perf_counter_ns()
            try:
                image = frame.decode()
            except ImageError as error:
                result.dropped[error.reason] += 1
                result.problems.append(f'{labels.name_of(frame.stamp_ns, frame.name)}: {error}')
                continue
            decoded = time.perf_counter_ns()
            found = detector.detect(image, score_threshold=floor)
            done = time.perf_counter_ns()
            timings = found.timings
            result.add_latency(decode=decoded - start, preprocess=timings.preprocess_ns,
                               inference=timings.inference_ns, postprocess=timings.postprocess_ns,
                               total=done - start)
            digest.update(np.ascontiguousarray(image).data)
            result.names.append(labels.name_of(frame.stamp_ns, frame.name))
            result.stamps_ns.append(frame.stamp_ns)
            result.labels.append(truth)
            result.detections.append(KittiObjects.from_boxes(
                [types[i] for i in found.detections.class_ids], found.detections.boxes_xyxy,
                found.detections.scores))
            result.image_hw.append(image.shape[:2])
            result.signals.append(measure_scene(image))
        # Time stamps of a folder are not needed.
        result.problems += [f'{job.source}: {line}' for line in source.problems if NO_STAMPS not in line]
        result.lost_messages = source.lost
    result.sha256['images'] = digest.hexdigest()


def _read_detections(job: ReplayJob, labels: LabelSource, result: Replay) -> None:
    """Take the detections that a running graph recorded, matched to labels by the image's stamp."""
    topic = '/' + job.detections.strip('/')
    found: dict[int, tuple[KittiObjects, int]] = {}
    digest = hashlib.sha256()
    recorded = job.recorded or job.source
    with BagReader(recorded) as bag:
        require_topic(bag, topic, ts.DETECTION_ARRAY)
        for record in bag.messages([topic]):
            try:
                stamp, objects = parse_objects(record.raw, scored=True)
            except (BagError, LabelError) as error:
                result.dropped['bad_message'] += 1
                result.problems.append(f'{topic}: a message left out: {error}')
                continue
            if stamp in found:
                result.dropped[DUPLICATE_STAMP] += 1
                continue
            digest.update(record.raw)
            found[stamp] = objects, record.log_ns
        result.problems += [f'{recorded}: {line}' for line in bag.problems]
        result.lost_messages = bag.lost_messages
    frames = _image_stamps(job, found)
    for stamp, name, log_ns in frames:
        truth = labels.of(stamp, name)
        if truth is None:
            result.dropped[NO_LABELS] += 1
            continue
        objects, found_ns = found.get(stamp, (None, None))
        if objects is None:
            result.dropped[NO_DETECTIONS] += 1
            objects = KittiObjects.empty(scores=True)
        elif log_ns is not None and found_ns is not None:
            result.add_latency(recorded=found_ns - log_ns)
        result.names.append(labels.name_of(stamp, name))
        result.stamps_ns.append(stamp)
        result.labels.append(truth)
        result.detections.append(objects)
    missing = result.dropped[NO_DETECTIONS]
    if missing:
        result.problems.append(f'{recorded}: {missing} labelled frames have no message on {topic}, each of '
                               'their objects counts as missed')
    result.sha256['detections'] = digest.hexdigest()


def _image_stamps(job: ReplayJob, found: dict[int, Any]) -> list[tuple[int, str, int | None]]:
    """
    Return (stamp, name, log time or None) of each image, in stamp order.

    A recording without images is taken to have had one for each message of detections.
    """
    try:
        with open_source(job.source, [job.camera] if job.camera else None) as source:
            if len(source.cameras) > 1:
                known = ', '.join(camera.name for camera in source.cameras)
                raise EvaluationError(f'{job.source}: several cameras ({known}), one must be named')
            images = {frame.stamp_ns: (frame.stamp_ns, frame.name, frame.log_ns) for frame in source}
    except BagError:
        if job.camera:
            raise
        return [(stamp, f'{i:06d}', None) for i, stamp in enumerate(sorted(found))]
    extra = [(stamp, f'stamp {stamp}', None) for stamp in found if stamp not in images]
    return sorted([*images.values(), *extra])


def replay_frame_set(jobs: Sequence[ReplayJob],
                     mapper: Callable[[Callable, Iterable], Iterable] = map) -> FrameSet:
    """
    Evaluate several recordings as one set.

    :param mapper: applies `replay` to the jobs, in order: `map`, ``executor.map``, or a cluster's.
    :raises EvaluationError: no job.
    """
    results = list(mapper(replay, jobs))
    if not results:
        raise EvaluationError('no recording to evaluate')
    stems = _unique_stems([job.source for job in jobs])
    frame_names, bags = [], []
    for stem, item in zip(stems, results):
        frame_names += [f'{stem}/{name}' if len(results) > 1 else name for name in item.names]
        bags += [stem] * len(item.names)
    stamps = [stamp for item in results for stamp in item.stamps_ns]
    counts = Counter(frame_names)  # a recording of several drives repeats its frames' names
    frame_names = [name if counts[name] == 1 else f'{name}@{stamp}'
                   for name, stamp in zip(frame_names, stamps)]
    frames = FrameSet(
        ObjectTable.from_objects([labels for item in results for labels in item.labels], frame_names),
        ObjectTable.from_objects([found for item in results for found in item.detections], frame_names),
        bags=bags, model=results[0].model, stamps_ns=np.array(stamps, dtype=np.int64))
    for item in results:
        frames.dropped.update(item.dropped)
        frames.warnings += item.problems
    losses = [item.lost_messages for item in results]
    frames.lost_messages = None if None in losses else sum(losses)
    stages = {stage: None for item in results for stage in item.latency_ns}
    frames.latency_ns = {stage: np.concatenate([np.asarray(item.latency_ns.get(stage, ()), dtype=np.float64)
                                                for item in results]) for stage in stages}
    for name in results[0].sha256:
        digests = [item.sha256[name] for item in results]
        frames.data_sha256[name] = digests[0] if len(digests) == 1 else hashlib.sha256(
            ''.join(digests).encode()).hexdigest()
    sizes = [size for item in results for size in item.image_hw]
    if len(sizes) == len(frame_names):
        frames.image_hw = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        frames.signals = [item for result in results for item in result.signals]
    frames.source = {'recordings': ', '.join(str(job.source) for job in jobs),
                     'labels': ', '.join(dict.fromkeys(job.labels for job in jobs))}
    if jobs[0].detections:
        frames.source['detections'] = jobs[0].detections
    frames.images = lambda indices: _images(jobs, results, indices)
    frames.check_scores()
    return frames


def _images(jobs: Sequence[ReplayJob], results: Sequence[Replay],
            indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the images of some frames, in one pass over each recording."""
    wanted = set(indices)
    first = 0
    for job, item in zip(jobs, results):
        index_of = {stamp: first + i for i, stamp in enumerate(item.stamps_ns) if first + i in wanted}
        first += len(item.stamps_ns)
        if not index_of:
            continue
        try:
            with open_source(job.source, [job.camera] if job.camera else None) as source:
                for frame in source:
                    index = index_of.pop(frame.stamp_ns, None)
                    if index is not None:
                        try:
                            yield index, frame.decode()
                        except ImageError:
                            continue  # counted when the recording was evaluated
                    if not index_of:
                        break
        except BagError:
            continue  # detections recorded without images


def _unique_stems(paths: Sequence[str]) -> list[str]:
    """Return short names of recordings, numbered where they repeat."""
    stems = [Path(path).name.rsplit('.', 1)[0] if Path(path).suffix in ('.mcap', '.db3') else Path(path).name
             for path in paths]
    seen: Counter = Counter()
    unique = []
    for stem in stems:
        seen[stem] += 1
        unique.append(stem if stems.count(stem) == 1 else f'{stem}-{seen[stem]}')
    return unique
