# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A detector of foreign origin that answers with the same rows whatever it sees."""

import numpy as np
from onnx import helper, numpy_helper, save, TensorProto

from kd_perception.cli.main import main


def attached_constant(folder, name, hw, rows, *options):
    """
    Write the model and attach it; return the attached file.

    :param rows: x_min, y_min, x_max, y_max, score, class number each. :param options: of `model attach`;
        without any, the classes are COCO's.
    """
    graph = helper.make_graph(
        [helper.make_node('ReduceMean', ['images'], ['mean'], keepdims=0),
         helper.make_node('Mul', ['mean', 'zero'], ['nothing']),
         helper.make_node('Add', ['rows', 'nothing'], ['output0'])], 'g',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, (1, 3, *hw))],
        [helper.make_tensor_value_info('output0', TensorProto.FLOAT, (1, len(rows), 6))],
        [numpy_helper.from_array(np.array(0, np.float32), 'zero'),
         numpy_helper.from_array(np.array([rows], np.float32), 'rows')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 9
    foreign, attached = folder / f'foreign_{name}.onnx', folder / f'{name}.onnx'
    save(model, str(foreign))
    assert main(['model', 'attach', str(foreign), '--out', str(attached), *options]) == 0
    return attached
