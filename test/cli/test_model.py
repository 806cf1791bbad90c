# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model info` and `model verify` on real files."""

import json

import numpy as np
import onnx
from onnx import helper, TensorProto
import pytest

from kd_perception.cli.main import main
from kd_perception.models.manifest import write_entry
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec

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
        {'name': 'weight', 'operator': 'Conv', 'shape': [10, 3, 8, 8], 'bits': 32, 'bytes': 7680}]


def test_info_shows_packed_layers_as_layers(model, capsys):
    """One row a layer: the shape and bits of its weights, the bytes of all that it stores."""
    file = onnx.load(str(model))
    constants = {'table': np.ones((256, 8), np.float32), 'body.bits': np.zeros((10, 24), np.uint8),
                 'body.shape': np.array([10, 3, 8, 8]), 'body.scale': np.ones((10, 1, 1, 1), np.float32)}
    del file.graph.initializer[:]
    file.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in constants.items())
    convolution = file.graph.node[0]
    convolution.input[1] = 'w'
    del file.graph.node[:]
    file.graph.node.extend([
        helper.make_node('Cast', ['body.bits'], ['i'], to=TensorProto.INT32),
        helper.make_node('Gather', ['table', 'i'], ['g']),
        helper.make_node('Reshape', ['g', 'body.shape'], ['r']),
        helper.make_node('Mul', ['r', 'body.scale'], ['w']), convolution])
    precision = {'the.body': {'bits': 1, 'weights': 1920, 'shape': [10, 3, 8, 8], 'as': 'body'},
                 'absent': 'nonsense'}
    helper.set_model_props(file, {**SPEC.to_metadata(), 'kd_perception.precision': json.dumps(precision)})
    onnx.save(file, str(model))
    assert main(['model', 'info', str(model), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['layers'] == [
        {'name': 'table', 'operator': 'Conv', 'shape': [256, 8], 'bits': 32, 'bytes': 8192},
        {'name': 'the.body', 'operator': 'Conv', 'shape': [10, 3, 8, 8], 'bits': 1, 'bytes': 240 + 32 + 40,
         'activation_bits': 32}]
    assert main(['model', 'info', str(model)]) == 0
    assert ' 1 bits: 1,920 values' in capsys.readouterr().out


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


def test_attach(model, tmp_path, capsys):
    bare = onnx.load(str(model))
    del bare.metadata_props[:]
    helper.set_model_props(bare, {'origin': 'elsewhere'})
    source, out = tmp_path / 'bare.onnx', tmp_path / 'out.onnx'
    onnx.save(bare, str(source))
    spec = tmp_path / 'spec.yaml'
    text = ('name: mine\nlabels: [x, y]\n'
            'input: {height: 32, width: 64, layout: NCHW, dtype: float32, color: rgb}\n'
            'decoder: {type: gfl, strides: [8], reg_max: 1}\n')
    spec.write_text(text)
    assert main(['model', 'verify', str(source)]) == 1
    assert main(['model', 'attach', str(source), '--spec', str(spec), '--out', str(out)]) == 0
    assert main(['model', 'verify', str(out)]) == 0
    assert {'origin', 'kd_perception.spec'} <= {entry.key for entry in onnx.load(str(out)).metadata_props}
    assert main(['model', 'attach', str(source), '--spec', str(spec), '--out', str(out)]) == 2
    assert 'exists already' in capsys.readouterr().err
    # A spec that contradicts the graph writes nothing.
    spec.write_text(text.replace('[x, y]', '[x, y, z]'))
    other = tmp_path / 'other.onnx'
    assert main(['model', 'attach', str(source), '--spec', str(spec), '--out', str(other)]) == 2
    assert 'for 3 labels' in capsys.readouterr().err and not other.exists()
