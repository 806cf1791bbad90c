# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The student that the package ships: one bit a weight, pinned, self-describing, and able to run."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnxruntime', reason='the model is run')

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.models.manifest import load_manifest

MODELS = Path(__file__).resolve().parents[2] / 'models'
TEACHER_MULTIPLY_ADDS = 1_609_000_000  # at 1280x384, docs/results/teacher.md
EIGHT_BITS = {'backbone.stem.conv', 'backbone.stages.0.0.conv', 'backbone.stages.1.0.conv',
              'backbone.stages.1.1.body.conv', 'neck.lateral.0.conv', 'neck.lateral.1.conv', 'head.predict.0'}


def weights(layer):
    return int(np.prod(layer['shape']))


@pytest.fixture(scope='module')
def student():
    entry = load_manifest(MODELS).models['student']
    return OnnxDetector.load(MODELS / entry.file, expected_sha256=entry.sha256)


def test_student_is_what_the_manifest_pins(student):
    entry = load_manifest(MODELS).models['student']
    assert (MODELS / entry.file).stat().st_size == entry.size_bytes < 1_000_000
    assert entry.labels == student.spec.labels == ('Car', 'Pedestrian', 'Cyclist')
    assert entry.input_hw == student.spec.input.hw == (320, 960)
    assert student.input_hw((375, 1242)) == (320, 960)
    assert student.input_hw((720, 1280)) == (384, 704), "a 16:9 camera's aspect, at no more pixels"
    assert entry.metrics == json.loads(json.dumps(student.spec.documents['metrics']))


def test_student_has_one_bit_a_weight_but_for_its_ends_and_narrow_first_layers(student):
    layers = student.spec.documents['precision']
    assert {name for name, layer in layers.items() if layer['bits'] != 1} == EIGHT_BITS
    binary = sum(weights(layer) for layer in layers.values() if layer['bits'] == 1)
    assert binary > 0.97 * sum(weights(layer) for layer in layers.values())


def test_student_computes_in_integers_but_for_its_predictions(student):
    layers = student.spec.documents['precision']
    assert [name for name, layer in layers.items() if layer.get('activation_bits') != 8] == ['head.predict.0']


def test_student_is_25_times_smaller_than_its_float_twin(student):
    """The twin as it would be at its smallest: weights, biases and the metadata of both, without a graph."""
    onnx = pytest.importorskip('onnx', reason='the file is read layer by layer')
    layers = student.spec.documents['precision'].values()
    filters = sum(layer['shape'][0] for layer in layers)
    model = onnx.load(str(student.path))
    metadata = sum(len(entry.key) + len(entry.value) for entry in model.metadata_props)
    assert metadata < 10_000
    twin = 4 * (sum(weights(layer) for layer in layers) + filters) + metadata
    assert twin / student.path.stat().st_size >= 25
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    assert stored['scale'].data_type == stored['scales'].data_type == onnx.TensorProto.FLOAT16


def test_student_needs_two_fifths_of_the_teachers_multiply_adds(student):
    onnx = pytest.importorskip('onnx', reason='the graph is read')
    inliner = pytest.importorskip('onnx.inliner', reason='functions are spelt out')
    model = inliner.inline_local_functions(onnx.load(str(student.path)))
    for axis, size in zip((1, 2), student.spec.input.hw):     # which the file leaves free
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    maps = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.output)}
    layers = list(student.spec.documents['precision'].values())
    by_name = {layer['as']: layer for layer in layers}
    total, count = 0, 0
    for node in graph.node:
        if node.op_type == 'Conv':
            layer = by_name[_layer_of(graph, node.input[1])]
            height, width = maps[node.output[0]][2:]
            # The first layer makes two columns at once.
            outputs = maps[node.output[0]][1] // layer['shape'][0]
            total += weights(layer) * height * width * outputs
            count += 1
    assert count >= len(layers) > 0  # the prediction is shared by the levels
    assert 0 < 5 * total <= 2 * TEACHER_MULTIPLY_ADDS


def _layer_of(graph, name):
    """Follow a weight back to the initialiser whose name holds the layer's."""
    producers = {output: node for node in graph.node for output in node.output}
    names = {tensor.name for tensor in graph.initializer}
    todo = [name]
    while todo:
        current = todo.pop()
        if current in names and current.endswith(('.bits', '.int8')):
            return current.rpartition('.')[0]
        if current in producers:
            todo += producers[current].input
    raise AssertionError(f'{name}: no stored weight')


def test_student_states_origin_licences_and_figures_with_counts(student):
    provenance, metrics = (student.spec.documents[name] for name in ('provenance', 'metrics'))
    assert all(dataset['licence'] and dataset['training_images'] > 0 for dataset in provenance['datasets'])
    assert 'non-commercial' in student.spec.licence
    assert provenance['steps'] == provenance['settings']['steps']
    for measured in metrics['sets']:
        assert measured['input_hw'] == [320, 960]
        for figures in measured['model'].values():
            low, high = figures['interval95']
            assert 0 <= low <= figures['ap50'] <= high <= 1 and figures['objects'] > 0


def test_student_finds_nothing_in_an_empty_image(student):
    assert len(student.detect(np.full((375, 1242, 3), 114, np.uint8)).detections) == 0


def test_student_says_nothing_about_the_computer_it_was_made_on(student):
    # The documents as they read: the file holds them compressed.
    content = student.path.read_bytes() + json.dumps(student.spec.documents).encode()
    for trace in (b'/home/', b'/work/', b'/root/', b'site-packages', b'.py:'):
        assert trace not in content
