# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Store a float network's weights as float16: half the file, for networks that are kept to be trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_perception.errors import TrainingError

_LEAST_VALUES = 64     # biases and small constants stay as they are


def halve_floats(model: Any) -> None:
    """
    Store large float32 initialisers as float16, in place, each behind a Cast that loading the file folds.

    :raises TrainingError: a value lies beyond float16.
    """
    from onnx import helper, numpy_helper, TensorProto
    casts = {}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST_VALUES:
            continue
        with np.errstate(over='ignore'):
            values = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(values).all():
            raise TrainingError(f'{tensor.name}: holds values beyond float16')
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        casts[tensor.name] = f'{tensor.name}.float'
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = casts.get(name, name)
    nodes = [helper.make_node('Cast', [name], [new], to=TensorProto.FLOAT) for name, new in casts.items()]
    nodes += list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
