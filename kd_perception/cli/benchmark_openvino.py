# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run a model file with OpenVINO in place of onnxruntime: to compare the two on the same graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd_perception.models.spec import ModelSpec
from kd_perception.detection.onnx_detector import OnnxDetector, read_model
from kd_perception.errors import ModelError


class OpenVinoSession:
    """
    A compiled model, called as onnxruntime's session is.

    :param content: a serialised ONNX model; `path` is how messages name it.
    :raises ModelError: OpenVINO is not installed, or cannot compile the model.
    """

    def __init__(self, content: bytes, threads: int, path: Path):
        try:
            import openvino
        except ImportError as error:
            raise ModelError(f'{path}: OpenVINO is not installed: pip install openvino') from error
        try:
            core = openvino.Core()
            model = core.read_model(content, b'')
            self._compiled = core.compile_model(model, 'CPU', {
                'INFERENCE_NUM_THREADS': threads, 'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
                # As onnxruntime computes; newer CPUs would else take 16-bit floats.
                'INFERENCE_PRECISION_HINT': 'f32'})
        except Exception as error:  # a family of its own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f'{path}: OpenVINO cannot compile it: {lines[-1][:200]}') from error
        self._request = self._compiled.create_infer_request()

    def run(self, output_names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Compute the named outputs."""
        results = self._request.infer(feeds, share_inputs=True)
        return [results[name] for name in output_names]


def openvino_detector(path: Path, threads: int = 1, expected_sha256: str | None = None) -> OnnxDetector:
    """
    Load a model file to run with OpenVINO.

    Functions inside the file are spelt out first, which OpenVINO does not do itself.

    :raises ModelError: the file is not what it should be, or OpenVINO cannot run it.
    """
    content, digest = read_model(path, expected_sha256)
    try:
        import onnx
    except ImportError as error:
        raise ModelError(f'{path}: running it with OpenVINO needs the Python package onnx') from error
    model = onnx.load_from_string(content)
    spec = ModelSpec.from_metadata({entry.key: entry.value for entry in model.metadata_props}, str(path))
    from kd_perception.models.functions import spelt_out
    session = OpenVinoSession(spelt_out(model, path).SerializeToString(), threads, path)
    return OnnxDetector(session, spec, model.graph.input[0].name, digest, path, 'OpenVINO')
