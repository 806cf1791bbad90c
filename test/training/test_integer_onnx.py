# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Exported integer graphs: what onnxruntime makes of them, and that they compute what torch does."""

from collections import Counter
import copy

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='PyTorch is not installed')
onnx = pytest.importorskip('onnx')
from onnx import inliner, numpy_helper
import onnxruntime as ort
from test_activations import camera_images, plain

from kd_perception.detection.decode import output_shapes
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.models.spec import ModelSpec
from kd_perception.training.binary.activations import (
    activation_quantizers,
    calibrate_activations,
    without_rounding,
)
from kd_perception.training.binary.binarization import activate_all, convolutions, reestimate_batch_norm
from kd_perception.training.binary.layers import BinaryConv2d
from kd_perception.training.export.fold import fold
from kd_perception.training.export.half_scales import fit_half_scales
from kd_perception.training.export.integer_onnx import codable_scale, column_index, unrolled_codes
from kd_perception.training.export.model_file import deviation, parity, to_onnx, write_model
from kd_perception.training.export.unfold import unfold
from kd_perception.training.loop.network_builder import build_network
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.networks.torch_detector import detection_spec
from kd_perception.training.settings.activations import ActivationSettings
from kd_perception.training.settings.binarization import BinarizationSettings
from kd_perception.training.settings.network import NetworkSettings

HW = (64, 96)
INTEGER_OPERATORS = {'QLinearConv', 'QLinearConcat', 'QLinearAdd'}


def calibrated(half=True):
    """A small network as training leaves it: norms of either sign, everything binary and rounded."""
    network = plain(seed=4)
    with torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5).mul_(torch.where(torch.rand_like(norm.weight) < 0.2, -1.0, 1.0))
            norm.bias.normal_(0.3, 0.3)
        network.backbone.stages[0][0].norm.weight[1] = 0.0  # a filter that counts for nothing
    reestimate_batch_norm(network, [camera_images(4, seed) for seed in range(3)])
    calibrate_activations(network, [camera_images(4)])
    if half:
        fit_half_scales(network)
    return network


@pytest.fixture(scope='module')
def network():
    return calibrated()


def spec_of(network):
    return detection_spec('int', ('a', 'b', 'c'), HW, network)


def optimised(content, folder):
    """Return the graph that onnxruntime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / 'optimised.onnx')
    options.log_severity_level = 3
    ort.InferenceSession(content, options)
    return onnx.load(options.optimized_model_filepath).graph


def run(content, images, outputs=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(content, options).run(outputs, {'images': images})


@pytest.mark.parametrize('half', [True, False])
def test_onnxruntime_computes_in_integers_with_codes_of_one(half, tmp_path):
    network = calibrated(half)
    graph = optimised(to_onnx(network, spec_of(network), half=half), tmp_path)
    count = Counter(node.op_type for node in graph.node)
    layers = convolutions(network)
    floats = {'head.predict.0', 'head.predict.1', 'head.predict.2'} & set(layers)
    assert count['QLinearConv'] == len(layers) - len(floats) == 20
    assert count['Conv'] + count['FusedConv'] == 3, 'the predictions alone are float'
    assert not set(count) & {'QuantizeLinear', 'Cast', 'Gather', 'Mul', 'Round', 'Split', 'Relu', 'Signs'}
    assert count['DequantizeLinear'] == 3, 'before the predictions'
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    weights = [stored[node.input[3]] for node in graph.node if node.op_type == 'QLinearConv']
    assert all(w.dtype == np.int8 for w in weights)
    binary = [w for w in weights if set(np.unique(w)) == {-1, 1}]
    assert len(binary) == sum(isinstance(layer, BinaryConv2d) for layer in layers.values())
    (first,) = [w for w in weights if set(np.unique(w)) != {-1, 1}]
    assert first.shape[1:] == (12, 3, 2) and 1 < np.abs(first).max() <= 63


def test_packing_changes_nothing(network):
    spec = spec_of(network)
    packed = to_onnx(network, spec, half=True)
    unpacked = to_onnx(network, spec, packed=False, half=True, integers=True)
    assert len(packed) < 0.3 * len(unpacked)
    model = onnx.load_from_string(packed)
    spelt_out = inliner.inline_local_functions(model)
    assert model.functions and not spelt_out.functions
    images = np.random.default_rng(1).integers(0, 256, (1, *HW, 3), dtype=np.uint8)
    results = [run(content, images) for content in (packed, unpacked, spelt_out.SerializeToString())]
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


def test_each_layer_is_within_a_step_of_torch(network):
    """Torch's layers get what onnxruntime's got, so that steps do not add up."""
    model = onnx.load_from_string(to_onnx(network, spec_of(network), half=True))
    calls = [node for node in model.graph.node if node.op_type.startswith('Conv8')]
    names = list(dict.fromkeys(name for node in calls for name in (node.input[0], node.output[0])))
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    images = np.random.default_rng(2).integers(0, 256, (1, *HW, 3), dtype=np.uint8)
    values = dict(zip(names, run(model.SerializeToString(), images, names)))
    folded, _ = fold(network, half=True)
    assert len(calls) == len(convolutions(folded)) - 3
    spec = ModelSpec.from_metadata({e.key: e.value for e in model.metadata_props}, 'm')
    as_stored = {entry['as']: name.removesuffix('.conv')
                 for name, entry in spec.documents['precision'].items()}
    makers = {output: node for node in model.graph.node for output in node.output}
    checked, off = 0, 0
    for node in calls:
        name = as_stored[root_of(node.input[2], makers, as_stored)]
        if name == 'backbone.stem':
            continue    # unrolled; the next test
        block = folded.get_submodule(name)
        with torch.no_grad():
            expected = block(torch.from_numpy(values[node.input[0]])).numpy()
        quantizer = block.act if name.endswith('body') else block.act[1]
        steps = np.abs(values[node.output[0]] - expected) / quantizer.scale.item()
        assert steps.max() < 1.001, name
        checked, off = checked + steps.size, off + int((steps > 0.5).sum())
    assert checked > 10_000 and off < 0.05 * checked, 'biases are rounded to whole units of the sums'


def root_of(value, makers, known):
    """Return the stored name behind a value."""
    while value.rpartition('.')[0] not in known:
        value = makers[value].input[0]
    return value.rpartition('.')[0]


def test_first_layer_on_four_columns_is_the_first_layer(network):
    """Unrolled by the index, convolved as the graph does, against torch's 3x3 convolution with stride 2."""
    rng = np.random.default_rng(3)
    codes = rng.integers(-63, 64, (5, 3, 3, 3)).astype(np.int8)
    pixels = rng.integers(-114, 142, (1, 8, 16, 3))     # NHWC BGR, zero point taken off
    torch_pixels = torch.from_numpy(pixels[..., ::-1].copy()).permute(0, 3, 1, 2).double()
    expected = torch.nn.functional.conv2d(torch_pixels, torch.from_numpy(codes).double(), stride=2, padding=1)
    groups = torch.from_numpy(pixels.reshape(1, 8, 4, 12).copy()).permute(0, 3, 1, 2).double()
    found = torch.nn.functional.conv2d(torch.nn.functional.pad(groups, (1, 0, 1, 0)),
                                       torch.from_numpy(unrolled_codes(codes)).double(), stride=(2, 1))
    joined = found.permute(0, 2, 3, 1).reshape(1, 4, 8, 5).permute(0, 3, 1, 2)
    assert torch.equal(joined, expected)
    index = column_index()
    assert sorted(Counter(index[index < 27].tolist()).values()) == [2] * 27, 'each weight once a column'


def test_files_agree_with_torch_and_each_other(network, tmp_path):
    spec = spec_of(network)
    whole = write_model(network, spec, tmp_path / 'int.onnx', half=True)
    floats = write_model(network, spec, tmp_path / 'float_activations.onnx', half=True, integers=False)
    twin = write_model(network, spec, tmp_path / 'twin.onnx', packed=False, half=True)
    assert deviation(network, whole) < 0.05
    assert parity(without_rounding(network), floats) < 1e-4 and parity(without_rounding(network), twin) < 1e-4
    assert 1e-3 < deviation(without_rounding(network), whole) < 0.3, 'rounding shows, and no more'
    assert whole.spec.documents['precision']['backbone.stages.0.0.conv']['activation_bits'] == 8
    assert 'activation_bits' not in floats.spec.documents['precision']['backbone.stages.0.0.conv']


def test_wrong_output_is_noticed(network, tmp_path):
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.head.predict[0].bias += 1.0
    spec = spec_of(network)
    detector = write_model(network, spec, tmp_path / 'm.onnx', half=True)
    assert deviation(changed, detector) > 0.05 or parity(changed, detector) > 0.9


@pytest.mark.parametrize('integers', [True, False])
@pytest.mark.parametrize('half', [True, False])
def test_training_can_go_on_from_the_file(half, integers, tmp_path):
    network = calibrated(half)
    path = tmp_path / 'm.onnx'
    write_model(network, spec_of(network), path, half=half, integers=integers)
    settings = BinarizationSettings(kept_bits=8)
    fresh = build_network(NetworkSettings('plain', 0.25), 3, settings, ActivationSettings())
    unfold(fresh, path, ('a', 'b', 'c'))
    activate_all(fresh)
    images = np.random.default_rng(5).integers(0, 256, (1, *HW, 3), dtype=np.uint8)
    with torch.no_grad():
        found, expected = (FromCamera(n).eval()(torch.from_numpy(images)) for n in (
            fresh, without_rounding(network)))
    for a, b in zip(found, expected):
        assert torch.allclose(a, b, atol=2e-3, rtol=1e-3)
    with pytest.raises(TrainingError, match='activations: {bits: 8}'):
        unfold(build_network(NetworkSettings('plain', 0.25), 3, settings), path, ('a', 'b', 'c'))


def test_what_cannot_be_exported_is_refused():
    network = plain()
    with pytest.raises(TrainingError, match='calibrated'):
        to_onnx(network, spec_of(network))
    network = plain(ActivationSettings(bits=6))
    calibrate_activations(network, [camera_images()])
    with pytest.raises(TrainingError, match='only activations of 8 bits'):
        to_onnx(network, spec_of(network))
    assert to_onnx(network, spec_of(network), integers=False)


@pytest.mark.parametrize('half', [True, False])
def test_biases_fit_32_bits(half):
    bias = np.array([0.0, 3.0, -5.0, 2.0], np.float32)
    scale = np.array([0.0, 0.0, 1e-7, 0.5], np.float32)
    raised = codable_scale(scale, bias, 0.01, half)
    assert (raised > 0).all() and raised[3] == np.float32(0.5)
    assert (np.abs(bias / (raised.astype(float) * 0.01)) < 2 ** 31).all()
    assert not half or np.array_equal(raised.astype(np.float16), raised)


def test_detector_runs_the_file(network, tmp_path):
    path = tmp_path / 'm.onnx'
    write_model(network, spec_of(network), path, half=True)
    detector = OnnxDetector.load(path)
    assert set(output_shapes(detector.spec)) == {'level_8', 'level_16', 'level_32'}
    detector.warm_up()
    assert len(list(activation_quantizers(network))) > 20
