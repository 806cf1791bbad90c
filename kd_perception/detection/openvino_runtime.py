# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The one door to OpenVINO, an optional package: `pip install openvino` (the extra `openvino`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
import sys
from typing import Any

import numpy as np

from kd_perception.detection.graph_ports import GraphPorts, Port
from kd_perception.errors import ModelError
from kd_perception.processes.cores import thread_count


class OpenVinoSession:
    """A compiled model, called as onnxruntime's session is."""

    def __init__(self, compiled: Any):
        self._request = compiled.create_infer_request()
        self.ports = _ports(compiled)

    def run(self, output_names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """
        Compute the named outputs.

        The arrays belong to the session: they are valid until its next call.
        """
        results = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        return [results[name] for name in output_names]


class OpenVinoModel:
    """
    A model that has been read, to be compiled for any input shape.

    :param content: a serialised ONNX model, or the XML of an IR with its `weights`; `path` is how
        messages name it.
    :raises ModelError: OpenVINO is not installed, or cannot read the model.
    """

    def __init__(self, content: bytes, path: Path, weights: bytes = b''):
        openvino = _import_openvino(path)
        self.path = path
        try:
            self._core = openvino.Core()
            self._model = self._core.read_model(content, weights)
        except Exception as error:  # a family of its own
            raise ModelError(f'{path}: OpenVINO cannot read it: {_last_line(error)}') from error

    @property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """Names and shapes of the inputs; None for a size that is not fixed."""
        return {port.any_name: _shape(port) for port in self._model.inputs}

    @property
    def outputs(self) -> dict[str, tuple[int | None, ...]]:
        """Names and shapes of the outputs."""
        return {port.any_name: _shape(port) for port in self._model.outputs}

    @property
    def ports(self) -> GraphPorts:
        """Inputs and outputs with their types."""
        return _ports(self._model)

    def compile(self, threads: int = 1, shapes: dict[str, tuple[int, ...]] | None = None) -> OpenVinoSession:
        """
        Compile for the CPU, to compute in float32 as onnxruntime does: newer CPUs would else take
        16-bit floats.

        :param shapes: of inputs, where they differ from the model's own, with as many dimensions.
        :raises ModelError: the model cannot have these shapes, or cannot be compiled.
        """
        try:
            model = self._model
            if shapes:
                model = model.clone()
                model.reshape({name: list(shape) for name, shape in shapes.items()})
            return OpenVinoSession(self._core.compile_model(model, 'CPU', {
                'INFERENCE_NUM_THREADS': thread_count(threads), 'PERFORMANCE_HINT': 'LATENCY',
                'NUM_STREAMS': '1', 'INFERENCE_PRECISION_HINT': 'f32'}))
        except Exception as error:
            raise ModelError(f'{self.path}: OpenVINO cannot compile it: {_last_line(error)}') from error


def _import_openvino(path: Path) -> Any:
    # Its import reports to Google Analytics where this package is there; a vehicle reports to nobody.
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ModelError(f'{path}: OpenVINO is not installed: pip install openvino') from error
    return openvino


def openvino_installed() -> bool:
    """Whether the package can be imported."""
    return importlib.util.find_spec('openvino') is not None


def _ports(model: Any) -> GraphPorts:
    def port(entry: Any) -> Port:
        kind = entry.get_element_type().to_dtype().name
        return Port(entry.any_name, kind, _shape(entry))
    return GraphPorts(tuple(map(port, model.inputs)), tuple(map(port, model.outputs)))


def _shape(port: Any) -> tuple[int | None, ...]:
    return tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
