# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run one model file with onnxruntime: image in, detections out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import dataclasses
import hashlib
from pathlib import Path
import time
from typing import Any, Protocol

import cv2
import numpy as np

from kd_perception.detection.boxes import clip_boxes
from kd_perception.detection.decode import decode, output_shapes, shape_fits
from kd_perception.detection.detections import Detections
from kd_perception.detection.input_size import allowed_sizes, input_hw, InputSize
from kd_perception.detection.letterbox import Letterbox
from kd_perception.models.manifest import pinned_sha256, resolve_model
from kd_perception.models.spec import InputSpec, ModelSpec
from kd_perception.detection.nms import nms
from kd_perception.errors import ModelError
from kd_perception.resources import models_folder

# Sizes of input that a detector keeps sessions for: as many aspects as its cameras have.
_KEPT_SIZES = 8
# ONNX files are limited to 2 GiB by protobuf.
MAX_MODEL_BYTES = (1 << 31) - 1

PROVIDERS = {
    'cpu': 'CPUExecutionProvider',
    'openvino': 'OpenVINOExecutionProvider',
    'cuda': 'CUDAExecutionProvider',
    'tensorrt': 'TensorrtExecutionProvider',
}
_NUMPY_TYPES = {
    'tensor(uint8)': 'uint8', 'tensor(float)': 'float32', 'tensor(float16)': 'float16',
    'tensor(int64)': 'int64', 'tensor(int32)': 'int32', 'tensor(bool)': 'bool'}


@dataclasses.dataclass(frozen=True)
class ExecutionOptions:
    """
    How onnxruntime runs a model.

    :param threads: threads inside an operator; 0 lets onnxruntime take every core.
    :param allow_spinning: idle threads poll instead of sleeping: a little faster, and it burns a
        core between frames, so it is off by default.
    :param provider: one of `PROVIDERS`.
    :param allow_cpu_fallback: run on the CPU when the provider is not available, instead of failing.
    :param input_size: what images are fitted into, where the model can have several sizes; see `input_size`.
    """

    threads: int = 1
    allow_spinning: bool = False
    provider: str = 'cpu'
    allow_cpu_fallback: bool = False
    input_size: InputSize = 'camera'

    def __post_init__(self):
        """Check ranges."""
        if not 0 <= self.threads <= 256:
            raise ValueError(f'threads must be in 0..256, got {self.threads}')
        if self.provider not in PROVIDERS:
            raise ValueError(f'provider must be one of {", ".join(PROVIDERS)}, got {self.provider!r}')


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


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used; tests inject their own."""

    def run(self, output_names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Compute the named outputs."""


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
        Load a model file and check that it is what it says it is.

        The bytes that are hashed are the bytes that run: the file is read once.

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
        session = create_session(model_bytes, options, path)
        spec = ModelSpec.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
        names = _free_sizes(session, spec.input, path)
        if isinstance(options.input_size, tuple) and not spec.input.allows(options.input_size):
            height, width = options.input_size
            raise ModelError(
                f'{path}: input size {width}x{height}: the model takes {allowed_sizes(spec.input)}')

        def session_at(hw: tuple[int, int]) -> Session:
            return create_session(model_bytes, options, path, dict(zip(names, hw)))
        if names:
            session = session_at(spec.input.hw)
        input_name, constants = _check_inputs(session, spec.input, path)
        _check_outputs(session, spec, path)
        digest = hashlib.sha256(model_bytes).hexdigest()
        return cls(session, spec, input_name, digest, path, session.get_providers()[0], constants,
                   session_at if names else None, options.input_size)

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
        return [_as_float32(output) for output in outputs]

    def input_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) px that an image of this size is fitted into."""
        return input_hw(self.spec.input, self._input_size, image_hw)

    def _size_for(self, image_hw: tuple[int, int]) -> _AtSize:
        """Return the session for an image; the first of a new size takes as long as loading the model."""
        hw = self.input_hw(image_hw)
        if hw not in self._sizes:
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
                f'{self.path or self.spec.name}: inference failed: {_first_line(error)}') from error

    def _detections(self, outputs: list[np.ndarray], spec: ModelSpec, score_threshold: float, nms_iou: float,
                    max_detections: int) -> Detections:
        """Return what is left of the candidates after suppression, with our class ids, px of the input."""
        classes, labels = self.spec.classes, self.spec.labels
        least = score_threshold if classes is None else classes.least_score(score_threshold)
        try:
            candidates = decode([_as_float32(output) for output in outputs], spec, least)
        except ValueError as error:
            raise ModelError(f'{self.path or self.spec.name}: outputs cannot be decoded: {error}') from error
        if classes is not None:
            candidates = classes.relabelled(candidates, labels)
        kept = candidates.select(nms(
            candidates.boxes_xyxy, candidates.scores, candidates.class_ids, nms_iou, max_detections))
        return kept if classes is None else classes.finished(kept, labels, score_threshold)

    def _check_shapes(self, outputs: list[np.ndarray], spec: ModelSpec) -> None:
        for output, (name, shape) in zip(outputs, output_shapes(spec).items()):
            if not shape_fits(output.shape, shape):
                raise ModelError(
                    f'{self.path or self.spec.name}: output {name!r} has shape {list(output.shape)}, '
                    f'expected {_show(shape)}')


def read_model(path: Path, expected_sha256: str | None = None) -> tuple[bytes, str]:
    """
    Read a model file and its sha256.

    :return: (content, hexadecimal digest).
    :raises ModelError: missing, not a regular file, too large, empty, or of another digest.
    """
    try:
        if not path.is_file():
            raise ModelError(f'{path}: no such model file')
        size = path.stat().st_size
        if not 0 < size <= MAX_MODEL_BYTES:
            raise ModelError(f'{path}: {size} bytes, expected 1 to {MAX_MODEL_BYTES}')
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f'{path}: cannot be read ({error.strerror or error})') from error
    digest = hashlib.sha256(content).hexdigest()
    if expected_sha256 and digest != expected_sha256.lower():
        raise ModelError(f'{path}: sha256 is {digest}, expected {expected_sha256.lower()}')
    return content, digest


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


def _as_float32(output: np.ndarray) -> np.ndarray:
    return output.astype(np.float32) if output.dtype == np.float16 else output


def create_session(model_bytes: bytes, options: ExecutionOptions, path: Path,
                   sizes: dict[str, int] | None = None) -> Any:
    """
    Return an `onnxruntime.InferenceSession` of a serialised model; `path` is how messages name it.

    :param sizes: of the dimensions that the graph leaves free, by name.
    :raises ModelError: the provider is not available, or the bytes are no model.
    """
    # Imported here: the rest of the core works, and imports fast, without it.
    import onnxruntime as ort
    provider = PROVIDERS[options.provider]
    if provider not in ort.get_available_providers():
        if not options.allow_cpu_fallback:
            raise ModelError(
                f'{path}: provider {options.provider!r} is not available in this onnxruntime; available: '
                f'{", ".join(name for name, p in PROVIDERS.items() if p in ort.get_available_providers())}')
        provider = PROVIDERS['cpu']
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = options.threads
    session_options.inter_op_num_threads = 1
    session_options.add_session_config_entry(
        'session.intra_op.allow_spinning', str(int(options.allow_spinning)))
    session_options.log_severity_level = 3
    for name, size in (sizes or {}).items():
        session_options.add_free_dimension_override_by_name(name, size)
    try:
        return ort.InferenceSession(model_bytes, session_options, providers=[provider])
    except Exception as error:
        raise ModelError(f'{path}: is not a model that onnxruntime can load: {_first_line(error)}') from error


def _check_inputs(session: Any, spec: InputSpec, path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the name of the image's input, and what the others are fed with."""
    found = {entry.name: entry for entry in session.get_inputs()}
    unknown = sorted(set(spec.constants) - set(found))
    if unknown:
        raise ModelError(f'{path}: has no input {unknown[0]!r}, for which the metadata give values; '
                         f'inputs: {", ".join(found)}')
    images = [entry for name, entry in found.items() if name not in spec.constants]
    if len(images) != 1:
        raise ModelError(f'{path}: has {len(images)} inputs ({", ".join(e.name for e in images)}), not '
                         'counting those of input.constants; expected one image')
    image = images[0]
    found_type = _NUMPY_TYPES.get(image.type, image.type)
    if found_type != spec.dtype or not shape_fits(image.shape, spec.shape):
        raise ModelError(
            f'{path}: input {image.name!r} is {found_type} {image.shape}, '
            f'the metadata promise {spec.dtype} {_show(spec.shape)}')
    return image.name, {name: _constant(found[name], values, path)
                        for name, values in spec.constants.items()}


def _free_sizes(session: Any, spec: InputSpec, path: Path) -> tuple[str, ...]:
    """Return the names of the graph's free height and width; empty where the size is fixed."""
    if spec.size_step is None:
        return ()
    shapes = [entry.shape for entry in session.get_inputs() if entry.name not in spec.constants]
    sizes = [shape[spec.layout.index(axis)] for shape in shapes
             if len(shape) == len(spec.layout) for axis in 'HW']
    if len(sizes) != 2 or not all(isinstance(size, str) for size in sizes) or sizes[0] == sizes[1]:
        raise ModelError(f'{path}: the metadata promise sizes of multiples of {spec.size_step} px, but the '
                         f'graph does not leave height and width free: {shapes}')
    return tuple(sizes)


def _constant(entry: Any, values: tuple[float, ...], path: Path) -> np.ndarray:
    """Return an input's values in the type and the number of axes that the graph declares."""
    kind = _NUMPY_TYPES.get(entry.type)
    shape = (1,) * (len(entry.shape) - 1) + (len(values),) if len(entry.shape) else ()
    if kind is None or not shape_fits(entry.shape, shape) or (not shape and len(values) != 1):
        raise ModelError(f'{path}: input {entry.name!r} is {entry.type} {entry.shape}, the metadata give it '
                         f'{len(values)} numbers')
    return np.array(values).astype(kind).reshape(shape)


def _check_outputs(session: Any, spec: ModelSpec, path: Path) -> None:
    found = {output.name: output for output in session.get_outputs()}
    for name, shape in output_shapes(spec).items():
        if name not in found:
            raise ModelError(
                f'{path}: has no output {name!r}, which decoder {spec.decoder.type!r} needs; '
                f'outputs: {", ".join(found)}')
        if not shape_fits(found[name].shape, shape):
            raise ModelError(
                f'{path}: output {name!r} has shape {found[name].shape}, expected {_show(shape)} '
                f'for {_classes(spec)} and decoder {spec.decoder.type!r}')


def _classes(spec: ModelSpec) -> str:
    return f'{spec.network_classes} {"labels" if spec.classes is None else "classes of the network"}'


def _show(shape: tuple) -> str:
    texts = {None: 'any', ...: '...'}
    return '[' + ', '.join(texts.get(size, str(size)) for size in shape) + ']'


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]
