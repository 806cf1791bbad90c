# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
From a model file to something that runs: ONNX in onnxruntime or OpenVINO, OpenVINO IR in OpenVINO.

An IR is an .xml file with its weights beside it; the metadata in the .xml name the weights and pin them
by sha256, so that the digest of the .xml covers both.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np

from kd_perception.detection.graph_ports import check_inputs, check_outputs, GraphPorts
from kd_perception.detection.onnx_session import (
    create_session,
    ExecutionOptions,
    provider_available,
    session_ports,
)
from kd_perception.detection.openvino_runtime import openvino_installed, OpenVinoModel, OpenVinoSession
from kd_perception.errors import ModelError
from kd_perception.models.file_metadata import ir_metadata, ir_root, onnx_metadata
from kd_perception.models.model_bytes import read_external_data
from kd_perception.models.spec import ModelSpec, SPEC_KEY

OPENVINO = 'OpenVINO'


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used; tests inject their own."""

    def run(self, output_names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Compute the named outputs."""


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """
    A session that is known to match its metadata.

    :param input_name: of the image's input; `constants`: what the others are fed with.
    :param provider: what runs it, for people.
    :param session_at: makes a session for another (height, width); None: there is one size.
    """

    session: Session
    spec: ModelSpec
    input_name: str
    constants: dict[str, np.ndarray]
    provider: str
    session_at: Callable[[tuple[int, int]], Session] | None = None


def load_model(model_bytes: bytes, path: Path, options: ExecutionOptions) -> LoadedModel:
    """
    Load a model from its bytes; `path` is how messages name it, and in whose folder its weights lie.

    :raises ModelError: see `OnnxDetector.load`.
    """
    if is_ir(path):
        return _load_ir(model_bytes, path, options)
    weights = _external_data(onnx_metadata(model_bytes), path)
    if options.provider == 'openvino' and not provider_available('openvino') and openvino_installed():
        return _load_onnx_in_openvino(model_bytes, path, options)
    session = create_session(model_bytes, options, path, weights)
    spec = ModelSpec.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    free = session_ports(session).free_sizes(spec.input, path)
    sizes = session_ports(session).open_sizes(spec.input)

    def session_at(hw: tuple[int, int]) -> Session:
        return create_session(model_bytes, options, path, weights, {**sizes, **dict(zip(free, hw))})
    if sizes:
        session = session_at(spec.input.hw)
    loaded = _checked(session, spec, session_ports(session), path, session.get_providers()[0])
    return dataclasses.replace(loaded, session_at=session_at) if free else loaded


def is_ir(path: Path) -> bool:
    """Whether a file is an OpenVINO IR, by its name."""
    return path.suffix.lower() == '.xml'


def _load_ir(xml: bytes, path: Path, options: ExecutionOptions) -> LoadedModel:
    if options.provider not in ('cpu', 'openvino'):
        raise ModelError(f'{path}: an OpenVINO IR runs with provider cpu or openvino, '
                         f'got {options.provider!r}')
    spec = ModelSpec.from_metadata(ir_metadata(ir_root(xml, path)), str(path))
    if len(spec.external_data) != 1:
        raise ModelError(f'{path}: external_data names {len(spec.external_data)} files, expected the one '
                         '.bin file of the weights')
    (weights,) = read_external_data(path, spec.external_data).values()
    return _compiled(OpenVinoModel(xml, path, weights), spec, path, options)


def _load_onnx_in_openvino(model_bytes: bytes, path: Path, options: ExecutionOptions) -> LoadedModel:
    spec = ModelSpec.from_metadata(onnx_metadata(model_bytes), str(path))
    if spec.external_data:
        raise ModelError(f'{path}: with external data it runs in onnxruntime only')
    return _compiled(OpenVinoModel(model_bytes, path), spec, path, options)


def _compiled(model: OpenVinoModel, spec: ModelSpec, path: Path, options: ExecutionOptions) -> LoadedModel:
    image_name, constants = check_inputs(model.ports, spec.input, path, any_size=True)

    def session_at(hw: tuple[int, int]) -> OpenVinoSession:
        shape = dataclasses.replace(spec.input, height=hw[0], width=hw[1]).shape
        return model.compile(options.threads, {
            image_name: shape, **{name: value.shape for name, value in constants.items()}})
    session = session_at(spec.input.hw)
    check_outputs(session.ports, spec, path)
    return LoadedModel(session, spec, image_name, constants, OPENVINO,
                       session_at if spec.input.size_step else None)


def _external_data(metadata: dict[str, str], path: Path) -> dict[str, bytes]:
    if '"external_data"' not in metadata.get(SPEC_KEY, ''):
        return {}
    return read_external_data(path, ModelSpec.from_metadata(metadata, str(path)).external_data)


def _checked(session: Session, spec: ModelSpec, ports: GraphPorts, path: Path, provider: str) -> LoadedModel:
    image_name, constants = check_inputs(ports, spec.input, path)
    check_outputs(ports, spec, path)
    return LoadedModel(session, spec, image_name, constants, provider)
