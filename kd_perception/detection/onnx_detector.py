# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run one model file: image in, detections out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import dataclasses
import hashlib
from pathlib import Path
import time

import cv2
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.boxes.nms import nms
from kd_perception.boxes.overlap import clip_boxes
from kd_perception.boxes.score_calibration import calibrated_scores, least_raw_score
from kd_perception.detection.decode import decode, output_shapes, shape_fits
from kd_perception.detection.graph_ports import show_shape
from kd_perception.detection.input_size import allowed_sizes, input_hw, InputSize
from kd_perception.detection.letterbox import Letterbox
from kd_perception.detection.model_loading import load_model, Session
from kd_perception.detection.onnx_session import ExecutionOptions, first_line, PROVIDERS
from kd_perception.errors import ModelError
from kd_perception.models.manifest import pinned_sha256, resolve_model
from kd_perception.models.model_bytes import read_model
from kd_perception.models.spec import InputSpec, ModelSpec
from kd_perception.resources import models_folder

__all__ = ['DetectionResult', 'ExecutionOptions', 'OnnxDetector', 'PROVIDERS', 'StageTimings', 'to_tensor']

# Sizes of input that a detector keeps sessions for: as many aspects as its cameras have.
_KEPT_SIZES = 8
# Below it, candidates are too many to look at, whatever a calibration makes of them.
LEAST_RAW_SCORE = 0.005


@dataclasses.dataclass(frozen=True)
class StageTimings:
    """Durations of one call in ns: letterbox and layout, the session, decoding and NMS."""

    preprocess_ns: int
    inference_ns: int
    postprocess_ns: int


@dataclasses.dataclass(frozen=True)
class DetectionResult:
    """Detections in px of the source image, and how long each stage took."""

    detections: Detections
    timings: StageTimings


@dataclasses.dataclass(frozen=True, eq=False)
class _AtSize:
    """A session for one size of input, and a buffer of that size."""

    session: Session
    spec: ModelSpec
    canvas: np.ndarray


class OnnxDetector:
    """
    A detector made of a session and the facts of its model.

    Not thread-safe: it reuses one input buffer. Build it with `load`, or with a session of your
    own (tests).
    """

    def __init__(self, session: Session, spec: ModelSpec, input_name: str = 'images', sha256: str = '',
                 path: Path | None = None, provider: str = '',
                 constants: dict[str, np.ndarray] | None = None,
                 session_at: Callable[[tuple[int, int]], Session] | None = None,
                 input_size: InputSize = 'model'):
        """
        Wrap a session whose inputs and outputs are known to match `spec`.

        :param constants: what the graph's other inputs are fed with.
        :param session_at: makes a session for another (height, width); None: there is one size.
        :param input_size: which size images are fitted into.
        """
        self.session = session
        self.spec = spec
        self.sha256 = sha256
        self.path = path
        self.provider = provider
        self._input_name = input_name
        self._constants = constants or {}
        self._output_names = list(output_shapes(spec))
        self._session_at = session_at
        self._input_size = input_size if session_at is not None else 'model'
        self._sizes = OrderedDict({spec.input.hw: self._at(spec.input.hw, session)})

    @classmethod
    def load(cls, path: str | Path, options: ExecutionOptions = ExecutionOptions(),
             expected_sha256: str | None = None) -> OnnxDetector:
        """
        Load a model file, ONNX or OpenVINO IR (.xml), and check that it is what it says it is.

        The bytes that are hashed are the bytes that run: the file is read once, and so are the files
        of weights beside it, which its metadata pin.

        :param expected_sha256: hexadecimal digest that the file must have; None skips the check.
        :raises ModelError: one line that names the file: missing, not ONNX, another digest,
            metadata missing or contradicting the graph, provider not available.
        """
        path = Path(path)
        return cls.from_bytes(read_model(path, expected_sha256)[0], path, options)

    @classmethod
    def named(cls, name_or_path: str, options: ExecutionOptions = ExecutionOptions()) -> OnnxDetector:
        """
        Load by a name of the shipped manifest, or by a path; the digest that a manifest pins must hold.

        :raises ModelError: as `load`, or there is no such model.
        """
        path = resolve_model(name_or_path, models_folder())
        return cls.load(path, options, pinned_sha256(path))

    @classmethod
    def from_bytes(cls, model_bytes: bytes, path: Path,
                   options: ExecutionOptions = ExecutionOptions()) -> OnnxDetector:
        """
        Load a model from memory; `path` is how messages name it.

        :raises ModelError: as `load`.
        """
        loaded = load_model(model_bytes, path, options)
        taken = loaded.spec.input
        if isinstance(options.input_size, tuple) and not taken.allows(options.input_size):
            height, width = options.input_size
            raise ModelError(f'{path}: input size {width}x{height}: the model takes {allowed_sizes(taken)}')
        digest = hashlib.sha256(model_bytes).hexdigest()
        return cls(loaded.session, loaded.spec, loaded.input_name, digest, path, loaded.provider,
                   loaded.constants, loaded.session_at, options.input_size)

    def with_input(self, spec: InputSpec) -> OnnxDetector:
        """
        Return the same session with images fed to it another way.

        :raises ValueError: the tensor would be of another shape or type.
        """
        own = self.spec.input
        if (spec.shape, spec.dtype) != (own.shape, own.dtype):
            raise ValueError(f'expected an input of {own.dtype} {own.shape}, got {spec.dtype} {spec.shape}')
        return OnnxDetector(self.session, dataclasses.replace(self.spec, input=spec), self._input_name,
                            self.sha256, self.path, self.provider, self._constants)

    def warm_up(self, runs: int = 2) -> None:
        """
        Run on an empty image, so that the first frame does not pay for lazy allocations.

        :raises ModelError: the model fails to run or its outputs have other shapes than declared.
        """
        blank = np.full((*self.spec.input.hw, 3), self.spec.input.pad_value, dtype=np.uint8)
        for _ in range(runs):
            self.detect(blank)

    def detect(self, image_bgr: np.ndarray, score_threshold: float | None = None,
               nms_iou: float | None = None, max_detections: int | None = None) -> DetectionResult:
        """
        Detect objects in one image.

        :param image_bgr: (H, W, 3) uint8.
        :param score_threshold, nms_iou, max_detections: None takes the model's own (for the score
            the working threshold).
        :return: detections in descending score, in px of `image_bgr`, clipped to it; a box with
            nothing inside the image is dropped.
        :raises ModelError: the session failed.
        """
        thresholds = self.spec.thresholds
        score_threshold = thresholds.score if score_threshold is None else score_threshold
        nms_iou = thresholds.nms_iou if nms_iou is None else nms_iou
        max_detections = thresholds.max_detections if max_detections is None else max_detections

        start = time.perf_counter_ns()
        size = self._size_for(image_bgr.shape[:2])
        letterbox, tensor = self._tensor(image_bgr, size)
        preprocessed = time.perf_counter_ns()
        outputs = self._infer(tensor, size)
        inferred = time.perf_counter_ns()
        self._check_shapes(outputs, size.spec)
        kept = self._detections(outputs, size.spec, score_threshold, nms_iou, max_detections)
        boxes = clip_boxes(letterbox.to_image(kept.boxes_xyxy), letterbox.source_hw)
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        detections = Detections(boxes, kept.scores, kept.class_ids).select(inside)
        done = time.perf_counter_ns()
        return DetectionResult(
            detections, StageTimings(preprocessed - start, inferred - preprocessed, done - inferred))

    def outputs(self, image_bgr: np.ndarray) -> list[np.ndarray]:
        """
        Return what the model gives for an image, as the decoder gets it: for checks of its description.

        :raises ModelError: the session failed, or a shape is not as declared.
        """
        size = self._size_for(image_bgr.shape[:2])
        outputs = self._infer(self._tensor(image_bgr, size)[1], size)
        self._check_shapes(outputs, size.spec)
        return [as_float32(output) for output in outputs]

    def input_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) px that an image of this size is fitted into."""
        return input_hw(self.spec.input, self._input_size, image_hw)

    def _size_for(self, image_hw: tuple[int, int]) -> _AtSize:
        """Return the session for an image; the first of a new size takes as long as loading the model."""
        hw = self.input_hw(image_hw)
        if hw not in self._sizes and self._session_at is not None:
            if len(self._sizes) >= _KEPT_SIZES:
                self._sizes.popitem(last=False)
            self._sizes[hw] = self._at(hw, self._session_at(hw))
        self._sizes.move_to_end(hw)
        return self._sizes[hw]

    def _at(self, hw: tuple[int, int], session: Session) -> _AtSize:
        spec = self.spec
        if hw != spec.input.hw:
            resized = dataclasses.replace(spec.input, height=hw[0], width=hw[1])
            spec = dataclasses.replace(spec, input=resized)
        return _AtSize(session, spec, np.empty((*hw, 3), dtype=np.uint8))

    @staticmethod
    def _tensor(image_bgr: np.ndarray, size: _AtSize) -> tuple[Letterbox, np.ndarray]:
        spec = size.spec.input
        letterbox = Letterbox.fit(image_bgr.shape[:2], spec.hw, spec.fit)
        letterbox.apply(image_bgr, spec.pad_value, out=size.canvas)
        return letterbox, to_tensor(size.canvas, spec)

    def _infer(self, tensor: np.ndarray, size: _AtSize) -> list[np.ndarray]:
        try:
            return size.session.run(self._output_names, {self._input_name: tensor, **self._constants})
        except Exception as error:  # onnxruntime raises a family of its own, rooted in Exception
            raise ModelError(
                f'{self.path or self.spec.name}: inference failed: {first_line(error)}') from error

    def _detections(self, outputs: list[np.ndarray], spec: ModelSpec, score_threshold: float, nms_iou: float,
                    max_detections: int) -> Detections:
        """Return what is left of the candidates after suppression, with our class ids, px of the input."""
        classes, labels = self.spec.classes, self.spec.labels
        curves = self.spec.calibration
        raw = score_threshold if not curves else max(
            LEAST_RAW_SCORE, least_raw_score(score_threshold, curves, labels))
        least = raw if classes is None else classes.least_score(raw)
        try:
            candidates = decode([as_float32(output) for output in outputs], spec, least)
        except ValueError as error:
            raise ModelError(f'{self.path or self.spec.name}: outputs cannot be decoded: {error}') from error
        if classes is not None:
            candidates = classes.relabelled(candidates, labels)
        kept = candidates.select(nms(
            candidates.boxes_xyxy, candidates.scores, candidates.class_ids, nms_iou, max_detections))
        found = kept if classes is None else classes.finished(kept, labels, raw)
        if not curves:
            return found
        scores = calibrated_scores(found.scores, found.class_ids, curves, labels)
        return dataclasses.replace(found, scores=scores).above(score_threshold).by_score()

    def _check_shapes(self, outputs: list[np.ndarray], spec: ModelSpec) -> None:
        for output, (name, shape) in zip(outputs, output_shapes(spec).items()):
            if not shape_fits(output.shape, shape):
                raise ModelError(
                    f'{self.path or self.spec.name}: output {name!r} has shape {list(output.shape)}, '
                    f'expected {show_shape(shape)}')


def to_tensor(canvas_bgr: np.ndarray, spec: InputSpec) -> np.ndarray:
    """
    Turn the letterboxed image (H, W, 3) uint8 BGR into the model's input tensor.

    A uint8 NHWC BGR model gets a view: nothing is copied.
    """
    image = canvas_bgr if spec.color == 'bgr' else cv2.cvtColor(canvas_bgr, cv2.COLOR_BGR2RGB)
    if spec.dtype != 'uint8':
        image = image.astype(np.float32)
        if spec.mean is not None:
            image -= np.array(spec.mean, dtype=np.float32)
            image *= 1 / np.array(spec.std, dtype=np.float32)
    if spec.layout.endswith('CHW'):
        image = image.transpose(2, 0, 1)
    image = np.ascontiguousarray(image, dtype=spec.dtype)
    return image[None] if spec.layout.startswith('N') else image


def as_float32(output: np.ndarray) -> np.ndarray:
    """Return float16 values as float32, which decoders compute in; others as they are."""
    return output.astype(np.float32) if output.dtype == np.float16 else output
