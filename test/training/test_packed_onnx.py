# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Packed files: bit for bit the torch network's weights, the same outputs, nothing left to unpack."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from hypothesis import given, settings
from hypothesis import strategies as st
import onnx
from onnx import numpy_helper
import onnxruntime as ort
from torch import nn

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec
from kd_perception.training.binary.binarization import activate_all, binarize
from kd_perception.training.binary.layers import BinaryConv2d, CodedConv2d, RoundedConv2d
from kd_perception.training.export.fold import fold
from kd_perception.training.export.half_scales import fit_half_scales
from kd_perception.training.export.model_file import parity, to_onnx, write_model
from kd_perception.training.export.packed_onnx import byte_table, pack_signs, unpack_signs
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.settings.binarization import BinarizationSettings


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6), st.sampled_from([1, 2, 3]))
def test_packing_round_trips(seed, outputs, inputs, kernel):
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (outputs, inputs, kernel, kernel))
    packed = pack_signs(signs)
    assert packed.dtype == np.uint8 and packed.shape == (outputs, -(-inputs * kernel * kernel // 8))
    assert np.array_equal(unpack_signs(packed, signs.shape), signs)


def test_bit_order_and_padding():
    signs = np.array([[1, -1, -1, -1, -1, -1, -1, -1, 1, 1]], np.int8).reshape(1, 10, 1, 1)
    # +1 is 1, the first weight is the lowest bit, the filling is 0.
    assert pack_signs(signs).tolist() == [[0b00000001, 0b00000011]]
    assert byte_table()[0b00000101].tolist() == [1, -1, 1, -1, -1, -1, -1, -1]
    with pytest.raises(ValueError, match='only'):
        pack_signs(np.zeros((1, 8, 1, 1), np.int8))


class Small(nn.Module):
    """Every case: no norm, norm, depthwise binary with K = 9, 1x1 with K = 12, a plain float layer."""

    strides = (8,)
    full_precision = ('stem', 'last')

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.body = nn.Sequential(
            nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 16, 1), nn.ReLU())
        self.last = nn.Conv2d(16, 1 + 4 * 8, 1)

    def forward(self, x):
        return (self.last(self.body(self.stem(x))),)


def spec_of(network, decoder=None):
    return ModelSpec('small', ('a',), InputSpec(32, 64), decoder or DecoderSpec('gfl', (8,), 7))


def small(kept_bits=32, active=True, standardise=False):
    torch.manual_seed(3)
    network = Small()
    binarize(network, BinarizationSettings(depthwise=True, kept_bits=kept_bits, standardise=standardise))
    with torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.normal_()  # of either sign: folding must not touch the bits
            norm.bias.normal_()
    if active:
        activate_all(network)
    return network.eval()


def precision_of(model):
    return ModelSpec.from_metadata({e.key: e.value for e in model.metadata_props}, 'm').documents['precision']


def unpacked(model, layer, shape):
    """The weights that a file holds, unpacked with numpy alone."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layer = precision_of(model)[layer]['as']
    scale = tensors[f'{layer}.scale']
    if f'{layer}.int8' in tensors:
        return tensors[f'{layer}.int8'], scale
    bits = np.unpackbits(tensors[f'{layer}.bits'], axis=1, bitorder='little')
    count = int(np.prod(shape[1:]))
    assert not bits[:, count:].any()
    return 2 * bits[:, :count].reshape(shape).astype(np.int8) - 1, scale


@pytest.mark.parametrize('kept_bits', [32, 8])
@pytest.mark.parametrize('standardise', [False, True])
def test_weights_are_bit_exact(kept_bits, standardise):
    network = small(kept_bits, standardise=standardise)
    model = onnx.load_model_from_string(to_onnx(network, spec_of(network)))
    coded = {n: m for n, m in network.named_modules() if isinstance(m, CodedConv2d)}
    assert len(coded) == (5 if kept_bits == 8 else 3)
    for name, layer in coded.items():
        codes, scale = unpacked(model, name, tuple(layer.weight.shape))
        assert np.array_equal(codes, layer.codes().numpy()), name
        assert len(scale) == layer.out_channels and np.isfinite(scale).all()
    # Without a norm behind it the scale is the layer's own.
    assert np.array_equal(unpacked(model, 'body.6', (16, 12, 1, 1))[1].ravel(), network.body[6].code_scale())
    floats = {t.name for t in model.graph.initializer if t.name.endswith('.weight')}
    stored_as = {name: entry['as'] for name, entry in precision_of(model).items()}
    assert len(set(stored_as.values())) == 5
    kept = set() if kept_bits == 8 else {'stem', 'last'}
    assert floats == {f'{stored_as[name]}.weight' for name in kept}


@pytest.mark.parametrize('kept_bits', [32, 8])
def test_outputs_agree_with_torch_and_with_the_float_twin(kept_bits, tmp_path):
    network = small(kept_bits)
    packed = write_model(network, spec_of(network), tmp_path / 'packed.onnx')
    twin = write_model(network, spec_of(network), tmp_path / 'twin.onnx', packed=False)
    assert parity(network, packed) < 1e-4 and parity(network, twin) < 1e-4
    images = np.random.default_rng(1).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    a, b = (detector.session.run(None, {'images': images})[0] for detector in (packed, twin))
    assert np.array_equal(a, b)
    with torch.no_grad():
        expected = FromCamera(network).eval()(torch.from_numpy(images))[0].numpy()
    assert expected.std() > 0.01 and np.abs(a - expected).max() < 1e-4
    # What detection makes of the file is what it makes of the network.
    assert len(packed.detect(images[0], 0.001).detections) == len(twin.detect(images[0], 0.001).detections)


@pytest.mark.parametrize('kept_bits, half', [(32, False), (8, False), (32, True), (8, True)])
def test_onnxruntime_folds_all_unpacking(kept_bits, half, tmp_path):
    network = small(kept_bits)
    if half:
        fit_half_scales(network)
    content = to_onnx(network, spec_of(network), half=half)
    packed_ops = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    assert packed_ops.count('Gather') >= 3 and 'Slice' in packed_ops
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Layout transformations are a matter of the machine, not of unpacking.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
    ort.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    optimised = onnx.load(str(tmp_path / 'optimised.onnx'))
    twin = onnx.load_model_from_string(to_onnx(network, spec_of(network), packed=False, half=half))
    options.optimized_model_filepath = str(tmp_path / 'twin.onnx')
    ort.InferenceSession(twin.SerializeToString(), options, providers=['CPUExecutionProvider'])

    def operators(model):
        return sorted(node.op_type for node in model.graph.node)

    assert operators(optimised) == operators(onnx.load(str(tmp_path / 'twin.onnx')))
    produced = {name for node in optimised.graph.node for name in node.output}
    for node in optimised.graph.node:
        if node.op_type in ('Conv', 'FusedConv'):
            assert node.input[1] not in produced  # a stored weight, not a computed one


@pytest.mark.parametrize('standardise', [False, True])
def test_half_scales(standardise, tmp_path):
    network = small(8, standardise=standardise)
    with torch.no_grad():
        network.body[1].weight[0] = 0.0  # a dead channel
    before = {n: (m.codes().clone(), m) for n, m in network.named_modules() if isinstance(m, CodedConv2d)}
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8))
    with torch.no_grad():
        exact = FromCamera(network).eval()(images)[0].numpy()
        assert fit_half_scales(network) == len(before) == 5
        fitted = FromCamera(network).eval()(images)[0].numpy()
    for name, (codes, layer) in before.items():
        assert torch.equal(layer.codes(), codes), name
    assert 0 < np.abs(fitted - exact).max() < 0.01 * np.abs(exact).max()
    packed = write_model(network, spec_of(network), tmp_path / 'half.onnx', half=True)
    twin = write_model(network, spec_of(network), tmp_path / 'twin.onnx', packed=False, half=True)
    a, b = (detector.session.run(None, {'images': images.numpy()})[0] for detector in (packed, twin))
    assert np.array_equal(a, b) and np.abs(a - fitted).max() < 1e-4
    tensors = {t.name: numpy_helper.to_array(t)
               for t in onnx.load(str(tmp_path / 'half.onnx')).graph.initializer}
    assert tensors['scales'].dtype == tensors['biases'].dtype == np.float16
    assert tensors['scales'].shape == (8 + 12 + 12 + 16 + 33, 1, 1, 1)
    assert not any(name.endswith(('.scale', '.bias')) for name in tensors)
    whole = write_model(network, spec_of(network), tmp_path / 'whole.onnx')
    assert (tmp_path / 'half.onnx').stat().st_size < (tmp_path / 'whole.onnx').stat().st_size
    assert np.allclose(whole.session.run(None, {'images': images.numpy()})[0], a, atol=1e-4)


def test_half_scales_of_a_network_not_made_for_them_are_refused(tmp_path):
    network = small()
    with pytest.raises(TrainingError, match='outputs differ from torch'):
        write_model(network, spec_of(network), tmp_path / 'm.onnx', half=True)
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        network.body[1].bias.fill_(1e6)
    with pytest.raises(TrainingError, match='beyond the range of float16'):
        to_onnx(network, spec_of(network), half=True)


def test_convolutions_keep_what_is_not_default():
    network = PlainDetector(1, 0.25).eval()
    spec = spec_of(network, network.decoder_spec())
    model = onnx.load_model_from_string(to_onnx(network, spec))
    convolutions = [{a.name: list(a.ints) or a.i for a in n.attribute} for n in model.graph.node
                    if n.op_type == 'Conv']
    assert {'kernel_shape': [3, 3], 'pads': [1, 1, 1, 1], 'strides': [2, 2]} in convolutions
    assert {'kernel_shape': [1, 1]} in convolutions


def test_precision_document_names_every_convolution():
    network = small(8)
    detector = OnnxDetector.from_bytes(to_onnx(network, spec_of(network)), Path('x.onnx'))
    assert detector.spec.documents['precision'] == {
        'stem': {'bits': 8, 'shape': [8, 3, 3, 3], 'as': '0'},
        'body.0': {'bits': 1, 'shape': [12, 8, 3, 3], 'as': '1'},
        'body.3': {'bits': 1, 'shape': [12, 1, 3, 3], 'as': '2'},
        'body.6': {'bits': 1, 'shape': [16, 12, 1, 1], 'as': '3'},
        'last': {'bits': 8, 'shape': [33, 16, 1, 1], 'as': '4'}}
    twin = OnnxDetector.from_bytes(to_onnx(network, spec_of(network), packed=False), Path('x.onnx'))
    assert {entry['bits'] for entry in twin.spec.documents['precision'].values()} == {32}


def test_layers_that_are_not_binary_yet_stay_float():
    network = small(active=False)
    folded, coded = fold(network)
    assert coded == {}
    assert not any(isinstance(m, (nn.BatchNorm2d, CodedConv2d)) for m in folded.modules())
    x = torch.randn(1, 3, 32, 64)
    assert torch.allclose(folded(x)[0], network(x)[0], atol=1e-5)
    assert any(isinstance(m, BinaryConv2d) for m in network.modules())  # the original is untouched


def test_folding_covers_the_projects_blocks():
    torch.manual_seed(4)
    network = PlainDetector(1, 0.25)
    network.train()(torch.randn(2, 3, 64, 64))
    binarize(network, BinarizationSettings(kept_bits=8))
    activate_all(network)
    folded, coded = fold(network.eval())
    assert set(coded) == {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert not any(isinstance(m, (nn.BatchNorm2d, RoundedConv2d)) for m in folded.modules())
    x = torch.randn(1, 3, 64, 64)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(folded(x), network(x)))


def test_a_norm_that_cannot_be_folded_is_an_error():
    class Apart(Small):
        """Its norm is applied in forward, where folding does not look."""

        def __init__(self):
            super().__init__()
            self.after = nn.BatchNorm2d(16)

        def forward(self, x):
            return (self.last(self.after(self.body(self.stem(x)))),)

    network = Apart()
    binarize(network, BinarizationSettings())
    # A binary convolution straight before that norm: the exporter would merge the two.
    network.body[7] = nn.Identity()
    activate_all(network)
    with pytest.raises(TrainingError, match='body.6: its weights are not in the exported graph'):
        to_onnx(network.eval(), spec_of(network))
