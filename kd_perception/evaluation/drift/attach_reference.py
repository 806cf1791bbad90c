# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Reference statistics of representative frames, written into a copy of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kd_perception.attach.document import write_document
from kd_perception.drift.reference import build_reference, correlation_frames, DOCUMENT, DriftReference
from kd_perception.errors import ModelError
from kd_perception.evaluation.drift.frames import count_images, Images, measure_images, MeasuredFrames
from kd_perception.models.spec import document_text
from kd_perception.progress import progress

MAX_DOCUMENT_BYTES = 3000


def attach_reference(sources: Sequence[Images], detector: Any, teacher: Any, scene_frames: int,
                     rate_hz: float, out: Path, manifest: str = '', quiet: bool = False) -> list[str]:
    """
    Write a copy of a model with the reference of these images.

    :param teacher: for the reference of the disagreement; None: without.
    :param manifest: name of the entry to write into the manifest beside `out`; empty: none.
    :return: lines that say what was written.
    :raises ModelError: the reference is too large, or the file cannot be written.
    """
    with progress(total=count_images(sources), unit='frame', description='frames', quiet=quiet) as bar:
        measured = measure_images(sources, detector, teacher, tick=bar.update)
    made = {'sets': measured.sets, **({'teacher_sha256': teacher.sha256[:12]} if teacher else {})}
    reference = build_reference(measured.values, measured.drives, scene_frames, rate_hz,
                                measured.disagreements if teacher else (), made)
    document = reference.to_document()
    size = len(document_text(document))
    if size > MAX_DOCUMENT_BYTES:
        raise ModelError(f'{out}: the reference would take {size} bytes, expected at most '
                         f'{MAX_DOCUMENT_BYTES}: too many classes')
    digest = write_document(detector.path, DOCUMENT, document, DriftReference.of_model, out, manifest,
                            detector.sha256)
    return [*(f'warning: {line}' for line in measured.problems), *_lines(reference, measured),
            f'wrote {out}, sha256 {digest}; the reference takes {size} bytes']


def _lines(reference: DriftReference, measured: MeasuredFrames) -> Iterator[str]:
    """Yield the reference as a table, with what a reader should know about it."""
    yield (f'{reference.frames} frames in {reference.scenes} scenes of up to {reference.scene_frames} frames')
    yield (f'{"quantity":<22}{"10 %":>10}{"median":>10}{"90 %":>10}{"a frame":>10}'
           f'{"independent":>13}{"correlated":>12}')
    lags = {}
    for q in reference.quantities:
        found = [(value, drive) for value, drive in zip(
            (values.get(q.name) for values in measured.values), measured.drives) if isinstance(value, float)]
        lags[q.name] = correlation_frames([value for value, _ in found], [drive for _, drive in found])
        middle = q.edges[len(q.edges) // 2]
        yield (f'{q.name:<22}{q.edges[0]:>10.4g}{middle:>10.4g}{q.edges[-1]:>10.4g}{q.per_frame:>10.3g}'
               f'{q.independent:>13.1f}{_frames(lags[q.name]):>12}')
    if max((lag for lag in lags.values() if lag), default=0) * 2 > reference.scene_frames:
        yield (f'warning: the drives resemble themselves for longer than scenes of {reference.scene_frames} '
               'frames allow for; take --scene-frames twice the largest of "correlated"')
    if reference.disagreement:
        yield (f'student and teacher disagree on {reference.disagreement.share:.1%} of the objects '
               f'({reference.disagreement.scenes} scenes)')


def _frames(lag: Any) -> str:
    return '-' if lag is None else f'{lag} frames'
