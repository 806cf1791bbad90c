# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Free a fully convolutional ONNX graph from the one input size that its exporter wrote into it."""

from __future__ import annotations

from typing import Any


def leave_sizes_free(model: Any, layout: str) -> None:
    """
    Leave height and width of the first input free, and with them the sizes of all maps.

    Only channel shuffles are rewritten, which compute the same afterwards. Whether the graph holds no other
    fixed size shows when it runs.

    :param model: an `onnx.ModelProto`, changed in place.
    :param layout: axes of the input, such as `NHWC`.
    """
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    for axis, name in (('H', 'height'), ('W', 'width')):
        sizes[layout.index(axis)].dim_param = name
    del model.graph.value_info[:]
    for output in model.graph.output:
        for size in output.type.tensor_type.shape.dim[2:]:
            size.Clear()
    _gather_shuffles(model.graph)


def _gather_shuffles(graph: Any) -> None:
    """
    Replace each channel shuffle (Zhang et al., ShuffleNet, CVPR 2018) by a gather along the channels.

    Exporters write it as reshape, transpose, reshape, and both shapes hold the maps' height and width.
    """
    import onnx
    shapes = _integer_lists(graph)
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    orders: dict[tuple[int, int], str] = {}
    for first in [node for node in graph.node if node.op_type == 'Reshape']:
        found = _shuffle_from(first, users, shapes)
        if found is None:
            continue
        groups, channels, transpose, last = found
        order = orders.setdefault((groups, channels), f'channel_order_{groups}x{channels}')
        gather = onnx.helper.make_node('Gather', [first.input[0], order], [last.output[0]], axis=1)
        graph.node.insert(list(graph.node).index(first), gather)
        for node in (first, transpose, last):
            graph.node.remove(node)
    for (groups, channels), name in orders.items():
        places = [group * channels + channel for channel in range(channels) for group in range(groups)]
        graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(places)], places))
    if orders:
        _drop_unused(graph)


def _integer_lists(graph: Any) -> dict[str, list[int]]:
    """Return the graph's constants that may be shapes, by name."""
    import onnx
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors.update({node.output[0]: node.attribute[0].t for node in graph.node
                    if node.op_type == 'Constant' and node.attribute[0].name == 'value'})
    return {name: onnx.numpy_helper.to_array(tensor).tolist() for name, tensor in tensors.items()
            if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1}


def _shuffle_from(first: Any, users: dict[str, list[Any]], shapes: dict[str, list[int]]
                  ) -> tuple[int, int, Any, Any] | None:
    """Return groups, channels of a group and the two nodes after `first`; None where no shuffle begins."""
    apart = shapes.get(first.input[1], [])
    transposes = users.get(first.output[0], [])
    if len(apart) != 5 or len(transposes) != 1 or transposes[0].op_type != 'Transpose':
        return None
    lasts = users.get(transposes[0].output[0], [])
    swapped = [list(attribute.ints) for attribute in transposes[0].attribute] == [[0, 2, 1, 3, 4]]
    if not swapped or len(lasts) != 1 or lasts[0].op_type != 'Reshape':
        return None
    batch, groups, channels, height, width = apart
    together = [batch, groups * channels, height, width]
    if min(groups, channels) < 1 or shapes.get(lasts[0].input[1]) != together:
        return None
    return groups, channels, transposes[0], lasts[0]


def _drop_unused(graph: Any) -> None:
    """Remove the constants that no node takes."""
    taken = {name for node in graph.node for name in node.input}
    for node in list(graph.node):
        if node.op_type == 'Constant' and node.output[0] not in taken:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in taken]:
        graph.initializer.remove(tensor)
