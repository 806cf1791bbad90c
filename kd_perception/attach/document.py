# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Write one metadata document into a copy of a model file; graph and weights stay as they are."""
from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from kd_perception.errors import ModelError
from kd_perception.files import write_whole


def write_document(model: Path, name: str, document: dict[str, Any], check: Callable[[Any, str], Any],
                   out: Path, manifest: str = '', expected_sha256: str = '') -> str:
    """
    Write a copy of a model's file that holds the document `name`; only metadata change.

    The file appears whole or not at all, after it has been loaded and run once.

    :param check: takes (spec, source) of the new file; raises ModelError where the document is malformed.
    :param manifest: name of the entry to write into the manifest beside `out`; empty: none.
    :param expected_sha256: of the model, so that the document goes into the file that it was made with.
    :return: sha256 of the new file.
    :raises ModelError: the model cannot be read, or `out` cannot be written.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError('writing metadata needs the Python package onnx (not installed)') from error
    from kd_perception.detection.onnx_detector import OnnxDetector
    from kd_perception.models.manifest import write_entry
    from kd_perception.models.model_bytes import read_model
    from kd_perception.models.spec import ModelSpec
    content, _ = read_model(model, expected_sha256 or None)
    graph = onnx.load_model_from_string(content)
    kept = {entry.key: entry.value for entry in graph.metadata_props}
    spec = ModelSpec.from_metadata(kept, str(model))
    spec = dataclasses.replace(spec, documents={**spec.documents, name: document})
    onnx.helper.set_model_props(graph, {**kept, **spec.to_metadata()})
    content = graph.SerializeToString()
    detector = OnnxDetector.from_bytes(content, out)
    detector.warm_up(1)
    check(detector.spec, str(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)
        if manifest:
            write_entry(out.parent, manifest, out.name, detector.spec)
    except OSError as error:
        raise ModelError(f'{out}: cannot be written ({error.strerror or error})') from error
    return detector.sha256
