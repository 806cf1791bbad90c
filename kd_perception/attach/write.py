# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Write a described model: the file with its metadata inside, once it is known to load and to run."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
import tempfile

from kd_perception.attach.graph_facts import GraphFacts
from kd_perception.detection.model_loading import is_ir
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.detection.output_checks import check_detector
from kd_perception.errors import ModelError
from kd_perception.models.file_metadata import ir_root, with_ir_metadata
from kd_perception.models.spec import ModelSpec
from kd_perception.output_folder import cannot_be_written


def write_described(facts: GraphFacts, spec: ModelSpec, out: Path) -> OnnxDetector:
    """
    Write `out` (an IR: and its .bin), and return it loaded.

    Nothing is left behind where the description does not hold.

    :raises ModelError: `out` exists or is of another kind, or the graph contradicts the description;
        ConfigError: it cannot be written.
    """
    ir = is_ir(facts.path)
    weights = out.with_suffix('.bin')
    if is_ir(out) != ir:
        raise ModelError(f'{out}: expected a name that ends in {".xml" if ir else ".onnx"}, as the model\'s')
    for path in (out, weights) if ir else (out,):
        if path.exists():
            raise ModelError(f'{path}: exists already, expected a new file')
    files = {}
    if ir:
        digest = hashlib.sha256(facts.weights).hexdigest()
        spec = dataclasses.replace(spec, external_data={weights.name: digest})
        files[weights.name] = facts.weights
        files[out.name] = with_ir_metadata(ir_root(facts.content, facts.path), spec.to_metadata())
    else:
        files[out.name] = _with_onnx_metadata(facts.content, spec)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.attach_', dir=out.parent) as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            _try_out(Path(folder) / out.name, facts.path)
            for name in files:
                (Path(folder) / name).replace(out.parent / name)
    except OSError as error:
        raise cannot_be_written(out, error) from error
    return OnnxDetector.load(out)


def _try_out(path: Path, source: Path) -> None:
    try:
        detector = OnnxDetector.load(path)
        detector.warm_up(1)
        check_detector(detector)
    except ModelError as error:
        raise ModelError(str(error).replace(str(path), str(source))) from error


def _with_onnx_metadata(content: bytes, spec: ModelSpec) -> bytes:
    import onnx
    model = onnx.load_model_from_string(content)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, **spec.to_metadata()})
    return model.SerializeToString()
