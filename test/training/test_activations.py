# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Integer activations in training: rounding and its gradients, calibration, the network around them."""

import copy
import dataclasses

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='PyTorch is not installed')
from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.binary.activations import (
    activation_quantizers,
    ActivationQuantizer,
    ActivationSchedule,
    adopt_uniform_input,
    calibrate_activations,
    INPUT_SCALE,
    INPUT_ZERO,
    is_quantized,
    least_error_scale,
    quantize_activations,
    UniformInput,
    without_rounding,
)
from kd_perception.training.binary.binarization import activate_all, binarize
from kd_perception.training.binary.layers import RoundedConv2d
from kd_perception.training.loop.averaging import MovingAverage
from kd_perception.training.networks.mobilenet import MobileNetV1YoloV2
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.settings.activations import ActivationSettings
from kd_perception.training.settings.binarization import BinarizationSettings


def quantizer(scale, bits=8, signed=False):
    made = ActivationQuantizer(bits, signed)
    made.enable(scale)
    return made


def plain(activations=ActivationSettings(), seed=0):
    torch.manual_seed(seed)
    network = PlainDetector(3, 0.25)
    binarize(network, BinarizationSettings(kept_bits=8))
    if activations is not None:
        quantize_activations(network, activations)
    activate_all(network)
    return network.eval()


def camera_images(count=2, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)
    return FromCamera(nn.Identity()).normalise(torch.from_numpy(images))


@given(st.integers(0, 2 ** 32 - 1), st.sampled_from([5, 6, 8]), st.booleans(), st.floats(1e-3, 10))
def test_rounding_is_that_of_onnx(seed, bits, signed, scale):
    """QuantizeLinear's definition: saturate(round half to even(x / s) + z); and it changes nothing twice."""
    layer = quantizer(scale, bits, signed)
    scale = layer.scale.item()
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, 60 * scale, 64).astype(np.float32))
    zero = 1 << (bits - 1) if signed else 0
    codes = np.clip(np.rint(x.numpy() / np.float32(scale)) + zero, 0, 2 ** bits - 1)
    rounded = layer(x)
    np.testing.assert_array_equal(rounded.detach().numpy(), ((codes - zero) * np.float32(scale)).astype('f4'))
    assert torch.equal(layer(rounded), rounded)


def test_rounding_half_goes_to_even():
    values = quantizer(1.0)(torch.tensor([0.5, 1.5, 2.5, -0.5, 300.0]))
    assert torch.allclose(values, torch.tensor([0.0, 2.0, 2.0, 0.0, 255.0]), atol=1e-6)


@pytest.mark.parametrize('signed', [False, True])
def test_gradients_are_those_of_the_paper(signed):
    """LSQ, equations 3 and 5, written out with the composed operations as the oracle."""
    torch.manual_seed(0)
    layer = quantizer(0.02, signed=signed)
    low, high = layer.bounds
    x = (torch.randn(500) * 3).requires_grad_()
    layer(x).square().sum().backward()
    scale = torch.tensor(layer.scale.item())
    outputs = (x.detach() / scale).round().clamp(low, high) * scale
    inside = (x.detach() / scale >= low) & (x.detach() / scale <= high)
    assert torch.allclose(x.grad, 2 * outputs * inside)
    ratio = x.detach() / scale
    slope = torch.where(inside, ratio.round() - ratio, torch.where(ratio < low, float(low), float(high)))
    expected = (2 * outputs * slope).sum() / (500 * high) ** 0.5 * scale  # of log s
    assert layer.log_scale.grad == pytest.approx(float(expected), rel=1e-4)
    assert 0 < inside.sum() < 500


@given(st.integers(0, 2 ** 32 - 1), st.sampled_from([5, 8]), st.booleans())
def test_calibrated_scale_is_as_good_as_any_tried(seed, bits, signed):
    values = torch.from_numpy(np.random.default_rng(seed).standard_t(4, 400).astype('f4'))
    values = values if signed else values.abs()
    layer = ActivationQuantizer(bits, signed)
    best = least_error_scale(values, float(values.abs().max()), layer.bounds)

    def error(scale):
        return float((quantizer(scale, bits, signed)(values) - values).square().mean())
    widest = float(values.abs().max()) / layer.bounds[1]
    assert error(best) <= 1.001 * min(error(widest * share) for share in (1.0, 0.9, 0.75, 0.5, 0.3))


def test_prepared_network_computes_the_same_until_it_rounds():
    network, images = plain(), camera_images()
    source = plain(None)
    before = source(images)
    network.load_state_dict({**network.state_dict(), **source.state_dict()})
    adopt_uniform_input(network)
    found, expected = (n.backbone.stem(n.backbone.entry(images))[..., 1:-1, 1:-1] for n in (network, source))
    # Inside the border only the rounding of weights differs, to 63 steps for 127.
    assert 0 < (found - expected).std() < 0.03 * expected.std()
    calibrate_activations(network, [images])
    rounded = network(images)
    assert not torch.equal(rounded[0], before[0])
    for found, expected in zip(without_rounding(network)(images), rounded):
        assert 0 < (found - expected).std() < 0.2 * expected.std()
    assert all(q.enabled for q in activation_quantizers(network)), 'a copy was switched off, not the network'


def test_the_input_is_the_cameras_bytes():
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    uniform = UniformInput()(FromCamera(nn.Identity()).normalise(torch.from_numpy(images)))
    bytes_rgb = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    assert torch.allclose(uniform, (bytes_rgb - INPUT_ZERO) * INPUT_SCALE, atol=1e-5)


def test_every_convolution_but_the_predictions_reads_integers():
    """Watched from outside: what reaches a convolution lies on a grid of 256 values."""
    network = plain()
    calibrate_activations(network, [camera_images()])
    scales = torch.tensor([q.scale.item() for q in activation_quantizers(network)] + [INPUT_SCALE])
    seen = []

    def look(layer, inputs):
        ratio = inputs[0].flatten()[:, None] / scales
        seen.append(bool(((ratio - ratio.round()).abs() < 1e-3).all(dim=0).any()))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(look)
    network(camera_images(1, 3))
    assert len(seen) > 20 and all(seen)


def test_first_layer_keeps_to_codes_that_cannot_overflow_16_bits():
    layers = [layer for layer in plain().modules() if isinstance(layer, RoundedConv2d)]
    largest = [int(layer.codes().abs().max()) for layer in layers]
    assert largest[0] == 63 and max(largest[1:]) == 127 and 2 * 255 * 63 < 2 ** 15


def test_what_cannot_be_prepared_is_refused():
    network = MobileNetV1YoloV2(3, ((10.0, 10.0),))
    with pytest.raises(TrainingError, match='MobileNetV1YoloV2 is not prepared'):
        quantize_activations(network, ActivationSettings())
    network = PlainDetector(3, 0.25)
    with pytest.raises(TrainingError, match='kept_bits: 8'):
        quantize_activations(network, ActivationSettings())
    with pytest.raises(TrainingError, match='prepared already'):
        quantize_activations(plain(), ActivationSettings())
    with pytest.raises(TrainingError, match='no image to calibrate'):
        calibrate_activations(plain(), [])
    with pytest.raises(TrainingError, match='largest size nan'):
        calibrate_activations(plain(), [torch.full((1, 3, 64, 64), float('nan'))])
    for values in ({'start': -0.1}, {'start': 1.5}, {'calibration_batches': 0}):
        with pytest.raises(ValueError, match='activations'):
            ActivationSettings(**values)


def test_schedule_starts_once_and_the_average_follows():
    network = plain(ActivationSettings(start=0.5, calibration_batches=1)).train()
    average = copy.deepcopy(network)
    schedule = ActivationSchedule(network, ActivationSettings(start=0.5, calibration_batches=1), 10)
    taken = []

    def batches():
        for seed in range(3):
            taken.append(seed)
            yield camera_images(1, seed)
    for step in range(10):
        schedule.before_step(step, batches())
        assert [bool(q.enabled) for q in activation_quantizers(network)] == [step >= 5] * len(
            list(activation_quantizers(network)))
        MovingAverage(average, network).follow(0.01)
    assert taken == [0], 'one batch, once'
    assert network.training
    for slow, fast in zip(activation_quantizers(average), activation_quantizers(network)):
        assert slow.enabled and slow.scale.item() == pytest.approx(fast.scale.item())


def test_fixed_scales_are_no_parameters_to_train():
    network = plain(dataclasses.replace(ActivationSettings(), learned=False))
    assert is_quantized(network)
    assert not any(q.log_scale.requires_grad for q in activation_quantizers(network))
