# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model info` and `model verify` on real files."""

import json

from kd_perception.cli.main import main
from kd_perception.detection.manifest import write_entry
from kd_perception.detection.model_spec import DecoderSpec, InputSpec, ModelSpec
import numpy as np
import onnx
from onnx import helper, TensorProto
import pytest

SPEC = ModelSpec('conv', ('a', 'b'), InputSpec(32, 64, 'NCHW', 'float32', 'rgb', (0, 0, 0), (255, 255, 255)),
                 DecoderSpec('gfl', (8,), 1), documents={'metrics': {'ap': 1}})


@pytest.fixture
def model(tmp_path):
    weight = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node('Conv', ['images', 'weight'], ['level_8'], strides=[8, 8])], 'g',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 32, 64])],
        [helper.make_tensor_value_info('level_8', TensorProto.FLOAT, [1, 10, 4, 8])],
        [onnx.numpy_helper.from_array(weight, 'weight')])
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(file, SPEC.to_metadata())
    path = tmp_path / 'conv.onnx'
    onnx.save(file, str(path))
    return path


def test_info(model, capsys):
    assert main(['model', 'info', str(model)]) == 0
    text = capsys.readouterr().out
    assert 'a, b' in text and '64x32' in text and '10x3x8x8' in text and '7,680' in text
    assert main(['model', 'info', str(model), '--json']) == 0
    document = json.loads(capsys.readouterr().out)
    assert document['spec']['labels'] == ['a', 'b']
    assert document['layers'] == [
        {'name': 'weight', 'operator': 'Conv', 'shape': [10, 3, 8, 8], 'type': 'float32', 'bytes': 7680}]


def test_verify(model, capsys):
    assert main(['model', 'verify', str(model)]) == 0
    assert 'not pinned' in capsys.readouterr().out
    write_entry(model.parent, 'conv', 'conv.onnx', SPEC)
    assert main(['model', 'verify', str(model)]) == 0
    assert 'sha256 matches' in capsys.readouterr().out
    assert main(['model', 'verify', str(model), '--sha256', '0' * 64]) == 1
    assert 'FAIL' in capsys.readouterr().err
    model.write_bytes(model.read_bytes() + b'\0')
    assert main(['model', 'verify', str(model)]) == 1
    assert main(['model', 'verify', 'absent.onnx']) == 1
