# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The facts of a model, read from the ONNX file's own metadata.

One file is the whole contract: whoever loads it learns labels, input, decoder and thresholds from
it, so nothing beside the file can contradict the weights. The metadata holds six JSON documents:

=========================== ==================================================================
`kd_perception.spec`        what is needed to run the model: the fields of `ModelSpec`
`kd_perception.precision`   bits per layer: {layer: {"bits": 1|8|32, "weights": count,
                            "shape": [...]}}
`kd_perception.provenance`  how it was made: data, licences, commands, seed
`kd_perception.metrics`     what was measured, with counts
`kd_perception.gate`        a student's: when to ask its teacher; see `fallback.estimator`
`kd_perception.drift`       what frames look like where nothing has changed; see
                            `health.drift_reference`
=========================== ==================================================================

A document but the first may be stored compressed, since it would be a good part of a small model's file:
`zlib+base85:` and the base85 text (RFC 1924's alphabet, as Python's `base64.b85encode`) of its zlib stream.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
import dataclasses
import json
from pathlib import PurePath
import re
from typing import Any, Literal, TypeVar
import zlib

from kd_perception.config import from_mapping, to_mapping
from kd_perception.errors import ConfigError, ModelError
from kd_perception.limits import MAX_IMAGE_PIXELS
from kd_perception.models.class_map import ClassMap
from kd_perception.models.decoder_spec import DecoderSpec

SPEC_VERSION = 1
SPEC_KEY = 'kd_perception.spec'
DOCUMENT_KEYS = {
    name: f'kd_perception.{name}' for name in ('precision', 'provenance', 'metrics', 'gate', 'drift')}
MAX_DOCUMENT_CHARS = 1 << 22
COMPRESSED = 'zlib+base85:'
MAX_CLASSES = 1000
MAX_CONSTANTS = 64
# How families place the image: most YOLOs in the centre, YOLOX and NanoDet at the top left; DETR, SSD and
# most of Intel's models stretch it over the whole input.
Placement = Literal['centre', 'top_left', 'stretch']
T = TypeVar('T')


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """
    The model's image input, batch size 1.

    :param height, width: px.
    :param layout: `NHWC` or `NCHW`; `CHW` and `HWC` for a graph without a batch axis (torchvision's).
    :param dtype: `uint8` (values 0..255; the graph normalises), `float32` or `float16`.
    :param color: channel order that the model expects.
    :param mean, std: with a float input, x = (pixel - mean) / std per channel, in the order of
        `color`, in grey levels (0..255). Must be absent with uint8 input.
    :param pad_value: grey level of the letterbox padding.
    :param fit: where the image goes in the input; see `Placement`.
    :param size_step: the graph takes any height and width that are multiples of this, at a cost that
        grows with their product; `height` and `width` are what it was measured at. None: these alone.
    :param constants: values of the graph's other inputs, by name: sizes or scales that some exports
        ask for.
    """

    height: int
    width: int
    layout: Literal['NHWC', 'NCHW', 'HWC', 'CHW'] = 'NHWC'
    dtype: Literal['uint8', 'float32', 'float16'] = 'uint8'
    color: Literal['bgr', 'rgb'] = 'bgr'
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pad_value: int = 114
    fit: Placement = 'centre'
    size_step: int | None = None
    constants: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Check ranges."""
        _require(self.height > 0 and self.width > 0 and self.height * self.width <= MAX_IMAGE_PIXELS,
                 f'height and width must be positive and at most {MAX_IMAGE_PIXELS} px together')
        _require(0 <= self.pad_value <= 255, 'pad_value must be in 0..255')
        _require(self.size_step is None or (
            self.size_step > 0 and self.height % self.size_step == self.width % self.size_step == 0),
                 'height and width must be multiples of size_step')
        _require((self.mean is None) == (self.std is None), 'mean and std belong together')
        _require(self.dtype != 'uint8' or self.mean is None, 'a uint8 input is normalised inside the graph')
        _require(self.std is None or all(value > 0 for value in self.std), 'std must be positive')
        _require(all(1 <= len(values) <= MAX_CONSTANTS for values in self.constants.values()),
                 f'constants: expected 1 to {MAX_CONSTANTS} values each')

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) px."""
        return self.height, self.width

    def allows(self, hw: tuple[int, int]) -> bool:
        """Whether the graph takes images of this (height, width)."""
        if hw == self.hw:
            return True
        return (self.size_step is not None and min(hw) > 0 and not any(side % self.size_step for side in hw)
                and hw[0] * hw[1] <= MAX_IMAGE_PIXELS)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        sizes = {'N': 1, 'H': self.height, 'W': self.width, 'C': 3}
        return tuple(sizes[axis] for axis in self.layout)


@dataclasses.dataclass(frozen=True)
class ThresholdSpec:
    """
    Default thresholds; a user may tune each.

    :param score: working threshold, for consumers that act on a detection.
    :param score_low: the lowest score worth keeping, for evaluation and for judging ambiguity.
    :param nms_iou: IoU above which the weaker of two boxes of a class is dropped.
    :param max_detections: at most this many a frame.
    """

    score: float = 0.4
    score_low: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100

    def __post_init__(self):
        """Check ranges."""
        _require(0 < self.score_low <= self.score <= 1, 'expected 0 < score_low <= score <= 1')
        _require(0 < self.nms_iou <= 1, 'nms_iou must be in (0, 1]')
        _require(1 <= self.max_detections <= 10000, 'max_detections must be in 1..10000')


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """
    Everything needed to run a model, and what is known about it.

    :param name: short name, for example `teacher_picodet_s`.
    :param labels: class names; the index is the class id.
    :param licence: SPDX expression or a sentence.
    :param classes: the network's own classes and what they are called here; None where they are the labels.
    :param calibration: label -> (a, b): what its scores become, see `boxes.score_calibration`; thresholds are
        on the scale that results.
    :param external_data: sha256 of each file beside the model's that holds its weights, by plain file name.
    :param documents: the JSON documents of `DOCUMENT_KEYS`, as far as given.
    """

    name: str
    labels: tuple[str, ...]
    input: InputSpec
    decoder: DecoderSpec
    thresholds: ThresholdSpec = ThresholdSpec()
    version: str = '1'
    licence: str = ''
    spec_version: int = SPEC_VERSION
    classes: ClassMap | None = None
    calibration: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    external_data: dict[str, str] = dataclasses.field(default_factory=dict)
    documents: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Check labels and version."""
        _require(self.spec_version == SPEC_VERSION,
                 f'spec_version is {self.spec_version}, this package reads {SPEC_VERSION}')
        _require(bool(self.name), 'name must not be empty')
        _require(1 <= len(self.labels) <= MAX_CLASSES, f'expected 1 to {MAX_CLASSES} labels')
        _require(len(set(self.labels)) == len(self.labels), 'labels must differ from one another')
        _require(all(label and label == label.strip() for label in self.labels), 'labels must not be empty')
        if self.classes is not None:
            self.classes.check_labels(self.labels)
        for label, (slope, offset) in self.calibration.items():
            _require(label in self.labels, f'calibration: {label!r} is none of the labels')
            _require(0 < slope <= 100 and abs(offset) <= 100,
                     f'calibration.{label}: expected a slope in (0, 100] and an offset in -100..100')
        for name, digest in self.external_data.items():
            _require(name == PurePath(name).name and name not in ('', '.', '..') and '\\' not in name,
                     f'external_data: expected plain file names, got {name!r}')
            _require(re.fullmatch(r'[0-9a-f]{64}', digest) is not None,
                     f'external_data.{name}: expected 64 lower-case hexadecimal digits')
        unknown = set(self.documents) - set(DOCUMENT_KEYS)
        _require(not unknown, f'unknown documents: {sorted(unknown)}')

    @property
    def network_classes(self) -> int:
        """How many classes the network itself tells apart."""
        return len(self.labels) if self.classes is None else len(self.classes.names)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> ModelSpec:
        """
        Read the metadata of an ONNX file.

        :param metadata: the file's custom metadata map.
        :param source: how messages name the file.
        :raises ModelError: the metadata is missing, malformed or out of range.
        """
        if SPEC_KEY not in metadata:
            raise ModelError(
                f'{source}: holds no metadata {SPEC_KEY!r}; export it with this package or add it '
                '(docs/reference/models.md)')
        fields = _load_json(metadata, SPEC_KEY, source)
        if isinstance(fields, dict) and 'documents' in fields:
            raise ModelError(f'{source}: {SPEC_KEY}.documents: documents have keys of their own')
        try:
            spec = from_mapping(cls, fields, f'{source}: {SPEC_KEY}')
        except ConfigError as error:
            raise ModelError(str(error)) from error
        documents = {
            name: _load_json(metadata, key, source) for name, key in DOCUMENT_KEYS.items() if key in metadata}
        return dataclasses.replace(spec, documents=documents)

    def read_document(self, name: str, source: str,
                      read: Callable[[Any, tuple[str, ...], str], T]) -> T | None:
        """
        Return what a document says; None where the file has none of that name.

        :param source: how messages name the file. :param read: takes the document, the labels, and how
            messages name the document; raises ModelError where it is malformed.
        """
        if name not in self.documents:
            return None
        return read(self.documents[name], self.labels, f'{source}: {DOCUMENT_KEYS[name]}')

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata entries to store in an ONNX file; the inverse of `from_metadata`."""
        fields = to_mapping(self)
        documents = fields.pop('documents')
        texts = {SPEC_KEY: fields, **{DOCUMENT_KEYS[name]: document for name, document in documents.items()}}
        return {key: _text(value) if key == SPEC_KEY else document_text(value)
                for key, value in texts.items()}


def _text(value: Any) -> str:
    # Without blanks: a small model's file is a few percent metadata.
    return json.dumps(value, sort_keys=True, separators=(',', ':'))


def document_text(document: Any) -> str:
    """Return what a document is stored as: its JSON text, or the compressed form where that is shorter."""
    return _compressed(_text(document))


def _compressed(text: str) -> str:
    """Return the shorter of the text and its compressed form."""
    packed = COMPRESSED + base64.b85encode(zlib.compress(text.encode(), 9)).decode()
    return packed if len(packed) < len(text) else text


def _expanded(text: str, key: str, source: str) -> str:
    if not text.startswith(COMPRESSED):
        return text
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b85decode(text[len(COMPRESSED):]), MAX_DOCUMENT_CHARS)
        if not stream.eof:  # longer than the bound, or cut
            raise ValueError(f'incomplete, or over {MAX_DOCUMENT_CHARS} bytes')
        return content.decode()
    except (ValueError, zlib.error) as error:
        raise ModelError(f'{source}: {key}: cannot be decompressed ({error})') from error


def _load_json(metadata: Mapping[str, str], key: str, source: str) -> Any:
    text = metadata[key]
    if len(text) > MAX_DOCUMENT_CHARS:
        raise ModelError(f'{source}: {key}: {len(text)} characters, expected at most {MAX_DOCUMENT_CHARS}')
    text = _expanded(text, key, source)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f'{source}: {key}: is not valid JSON ({error})') from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f'{name} is not JSON')
