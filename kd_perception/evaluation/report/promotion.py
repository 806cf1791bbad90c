# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a model must show before a store makes it current, and what is kept of that."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import EvaluationError, ModelError, PromotionRefused
from kd_perception.evaluation.report.compare import load_report, MAX_REPORT_BYTES
from kd_perception.evaluation.report.verdict import load_comparison, model_sha256, reports_of
from kd_perception.evaluation.report.verdict import SCHEMA as COMPARISON_SCHEMA
from kd_perception.models.history import Event
from kd_perception.models.manifest import entry_of, Manifest, MANIFEST_NAME, manifest_text, pinned_sha256
from kd_perception.models.model_bytes import read_model
from kd_perception.models.spec import ModelSpec
from kd_perception.models.store import MODEL_FILE, ModelStore, utc_now

COMPARISON_FILE = 'compare.json'


@dataclasses.dataclass(frozen=True)
class Promotion:
    """
    What came of a promotion.

    :param already: the model was the current one before; nothing has changed.
    """

    version: int
    sha256: str
    name: str
    already: bool = False


def promote(store: ModelStore, role: str, model: str | Path, report: str | Path,
            allow_input_change: bool = False) -> Promotion:
    """
    Make a model the current one of a role.

    :param report: what `evaluate compare --verdict` wrote about the current model and this one; for the first
        model of a role, which there is nothing to compare with, its report.json will do.
    :param allow_input_change: the size of the input may be another than the current model's.
    :raises PromotionRefused: the verdict is no.
    :raises ModelError, EvaluationError: one line: the model is damaged, the report is missing or about
        another model, labels or input are not the current one's, the store cannot be written. Nothing has
        changed.
    """
    # The bytes that are checked are the bytes that are stored.
    content, digest = read_model(Path(model))
    detector = OnnxDetector.from_bytes(content, Path(model))
    detector.warm_up(1)
    spec = detector.spec
    with store.locked(make=True):
        current = store.history(role).current
        if current is not None:
            path = store.model_file(role)
            if pinned_sha256(path) == digest:
                return Promotion(current, digest, spec.name, already=True)
            _check_fits(spec, OnnxDetector.load(path).spec, model, role, allow_input_change)
        evidence = _evidence(Path(report), digest, None if current is None else pinned_sha256(path))
        entry = dataclasses.replace(
            entry_of(MODEL_FILE, content, spec), name=spec.name, promoted_at=utc_now(),
            reports={name: hashlib.sha256(text).hexdigest() for name, text in evidence})
        text = '# Written by `kd_perception model promote`.\n' + manifest_text(Manifest({role: entry}))
        files = [(MODEL_FILE, content), (MANIFEST_NAME, text.encode()), *evidence]
        version = store.add(role, files, digest, spec.name)
    return Promotion(version, digest, spec.name)


def roll_back(store: ModelStore, role: str, version: int | None = None) -> Event:
    """
    Make an earlier version current again, once it is known to be whole.

    :param version: None: the one before the current one.
    :raises ModelError: there is none, or it is damaged. Nothing has changed.
    """
    def check(path: Path) -> tuple[str, str]:
        pinned = pinned_sha256(path)
        if pinned is None:
            raise ModelError(f'{path.parent / MANIFEST_NAME}: is missing: {path.name} cannot be checked')
        detector = OnnxDetector.load(path, expected_sha256=pinned)
        return detector.sha256, detector.spec.name
    return store.roll_back(role, version, check)


def _check_fits(new: ModelSpec, old: ModelSpec, model: str | Path, role: str,
                allow_input_change: bool) -> None:
    if new.labels != old.labels:
        raise ModelError(f'{model}: labels are {", ".join(new.labels)}, the current {role} has '
                         f'{", ".join(old.labels)}: consumers would not know them; use another store')
    if new.input.hw != old.input.hw and not allow_input_change:
        (height, width), (old_height, old_width) = new.input.hw, old.input.hw
        raise ModelError(f'{model}: input is {width}x{height}, the current {role} has '
                         f'{old_width}x{old_height}; give --allow-input-change if that is meant')


def _evidence(report: Path, digest: str, current: str | None) -> list[tuple[str, bytes]]:
    """Return name and content of the reports that speak for a model, checked to be about it."""
    if current is None and not _is_comparison(report):
        if model_sha256(load_report(report), report) != digest:
            raise EvaluationError(f'{report}: is about another model than the one to promote ({digest[:12]})')
        return [('report_1.json', report.read_bytes())]
    comparison = load_comparison(report)
    for model, wanted, what in ((comparison.after, digest, 'the one to promote'),
                                (comparison.before, current, 'the current one')):
        if wanted is not None and model['sha256'] != wanted:
            raise EvaluationError(f'{report}: compares {model["sha256"][:12]}, {what} is {wanted[:12]}')
    if not comparison.passed:
        raise PromotionRefused('\n'.join(comparison.failures))
    paths = [report, *reports_of(comparison, report)]
    names = [COMPARISON_FILE, *(f'report_{number}.json' for number in range(1, len(paths)))]
    try:
        return [(name, path.read_bytes()) for name, path in zip(names, paths)]
    except OSError as error:
        raise EvaluationError(f'{error.filename}: cannot be read: {error.strerror}') from None


def _is_comparison(path: Path) -> bool:
    """Tell the two kinds of report apart; what cannot be read is left to the reader of either."""
    try:
        with open(path, 'rb') as file:
            document = json.loads(file.read(MAX_REPORT_BYTES + 1))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get('schema') == COMPARISON_SCHEMA
