# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Weights that an ONNX file keeps in other files: taken in, from the model's own folder only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_perception.errors import ModelError
from kd_perception.models.model_bytes import MAX_MODEL_BYTES, read_model


def without_external_data(content: bytes, path: Path) -> bytes:
    """
    Return a serialised ONNX model with all its weights inside.

    :param path: of the model: its files of weights lie beside it.
    :raises ModelError: it is no ONNX model; a file is missing, or lies elsewhere; the whole is too large.
    """
    import onnx
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf and onnx raise families of their own
        raise ModelError(f'{path}: is not an ONNX file: {str(error)[:200]}') from error
    tensors = [tensor for tensor in onnx.external_data_helper._get_all_tensors(model)
               if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if not tensors:
        return content
    files: dict[str, bytes] = {}
    for tensor in tensors:
        _take_in(tensor, path, files)
    if model.ByteSize() > MAX_MODEL_BYTES:
        raise ModelError(f'{path}: {model.ByteSize()} bytes with its external data, expected at most '
                         f'{MAX_MODEL_BYTES}')
    return model.SerializeToString()


def _take_in(tensor: Any, path: Path, files: dict[str, bytes]) -> None:
    facts = {entry.key: entry.value for entry in tensor.external_data}
    name = facts.get('location', '')
    if name != Path(name).name or name in ('', '.', '..') or '\\' in name:
        raise ModelError(f'{path}: keeps weights in {name!r}, expected a file in its own folder')
    if name not in files:
        files[name] = read_model(path.parent / name)[0]
    try:
        start = int(facts.get('offset', 0))
        size = int(facts.get('length', len(files[name]) - start))
    except ValueError:
        start, size = -1, 0
    if start < 0 or size < 0 or start + size > len(files[name]):
        raise ModelError(f'{path}: tensor {tensor.name!r} lies outside of {name} ({len(files[name])} bytes)')
    tensor.raw_data = files[name][start:start + size]
    tensor.data_location = 0
    del tensor.external_data[:]
