# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Functions inside a model file (see `integer_onnx`), spelt out for who does not know them. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_perception.errors import ModelError


def spelt_out(model: Any, path: Path) -> Any:
    """
    Return a ModelProto that holds the nodes of the functions it called; the model itself where it calls none.

    :param path: how messages name the file.
    :raises ModelError: a function calls another one, which could make very much out of little, or is damaged.
    """
    if not model.functions:
        return model
    import onnx.inliner
    own = {(function.domain, function.name) for function in model.functions}
    if any((node.domain, node.op_type) in own for function in model.functions for node in function.node):
        raise ModelError(f'{path}: has functions that call functions, which no export does')
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # protobuf and onnx raise families of their own
        raise ModelError(f'{path}: its functions cannot be inlined ({type(error).__name__})') from error
