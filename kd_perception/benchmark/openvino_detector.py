# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Run a model file with OpenVINO in place of onnxruntime: to compare the two on the same graph."""

from __future__ import annotations

from pathlib import Path

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.detection.openvino_runtime import OpenVinoModel
from kd_perception.errors import ModelError
from kd_perception.models.model_bytes import read_model
from kd_perception.models.spec import ModelSpec


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
    session = OpenVinoModel(spelt_out(model, path).SerializeToString(), path).compile(threads)
    return OnnxDetector(session, spec, model.graph.input[0].name, digest, path, 'OpenVINO')
