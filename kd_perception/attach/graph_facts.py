# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a foreign model's file says of itself: inputs, outputs, operators, and what its exporter left."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.attach.external_data import without_external_data
from kd_perception.attach.ncnn_to_onnx import ncnn_as_onnx
from kd_perception.detection.graph_ports import GraphPorts
from kd_perception.detection.model_loading import is_ir
from kd_perception.detection.onnx_session import create_session, ExecutionOptions, session_ports
from kd_perception.detection.openvino_runtime import OpenVinoModel
from kd_perception.errors import ModelError
from kd_perception.models.file_metadata import ir_metadata, ir_root
from kd_perception.models.model_bytes import read_model

NCNN = '.param'
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class GraphFacts:
    """
    A model that is not described yet.

    :param metadata: what the exporter wrote into the file.
    :param producer: the exporter's name, as far as it says.
    :param operators: types of the graph's nodes.
    :param content: the serialised model, its external data taken in; `weights`: of an IR.
    :param session: shapes of the inputs -> a function from feeds to all outputs by name.
    """

    path: Path
    ports: GraphPorts
    metadata: dict[str, str]
    producer: str
    operators: frozenset[str]
    content: bytes
    weights: bytes
    session: Callable[[dict[str, tuple[int, ...]]], Run]

    @property
    def model_name(self) -> str:
        """The name that the file goes by: an IR's own, else the file's stem."""
        return self.metadata.get('conversion_parameters/model_name') or self.path.stem


def read_facts(path: Path) -> GraphFacts:
    """
    Read a model file: ONNX, OpenVINO IR (.xml), or ncnn (.param), which becomes ONNX.

    :raises ModelError: it is none of them, cannot be run here, or its package is not installed.
    """
    return _ir_facts(path) if is_ir(path) else _onnx_facts(path)


def _onnx_facts(path: Path) -> GraphFacts:
    try:
        import onnx
    except ImportError as error:
        raise ModelError('attaching metadata needs the Python package onnx (not installed)') from error
    if path.suffix.lower() == NCNN:
        content = ncnn_as_onnx(path)
    else:
        content = without_external_data(read_model(path)[0], path)
    model = onnx.load_model_from_string(content)
    session = create_session(content, ExecutionOptions(), path)
    ports = session_ports(session)

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip((port.name for port in ports.outputs), session.run(None, feeds)))
    return GraphFacts(
        path, ports, {entry.key: entry.value for entry in model.metadata_props}, model.producer_name,
        frozenset(node.op_type for node in model.graph.node), content, b'', lambda _: run)


def _ir_facts(path: Path) -> GraphFacts:
    content = read_model(path)[0]
    root = ir_root(content, path)
    weights = read_model(path.with_suffix('.bin'))[0]
    model = OpenVinoModel(content, path, weights)

    def session(shapes: dict[str, tuple[int, ...]]) -> Run:
        compiled = model.compile(1, shapes)
        names = [port.name for port in compiled.ports.outputs]

        def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(names, map(np.copy, compiled.run(names, feeds))))
        return run
    return GraphFacts(path, model.ports, ir_metadata(root), 'OpenVINO', _layer_types(root), content, weights,
                      session)


def _layer_types(root: Any) -> frozenset[str]:
    return frozenset(layer.get('type', '') for layer in root.find('layers'))
