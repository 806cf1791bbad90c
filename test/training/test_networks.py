# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The published networks and the plain student: sizes as published, named maps, shapes."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from kd_perception.config import load_config
from kd_perception.detection.decode import output_shapes
from kd_perception.models.spec import InputSpec, ModelSpec
from kd_perception.training.binary.binarization import binarize
from kd_perception.training.loop.network_builder import build_network, network_cost
from kd_perception.training.networks.darknet import DarkNet19YoloV2
from kd_perception.training.networks.mobilenet import MobileNetV1YoloV2
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.settings.binarization import BinarizationSettings
from kd_perception.training.settings.run import TrainingSettings

ANCHORS = ((20, 16), (40, 30), (80, 50), (140, 100), (16, 40))


def on_meta(cls, *arguments, **options):
    """Build a network without memory: shapes only, so that the large ones cost nothing."""
    with torch.device('meta'):
        return cls(*arguments, **options).eval()


def weights(network):
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Conv2d))


def test_published_weight_counts():
    # Darknet-19 (19.8 M without its classifier), two 3x3 1024 layers, 3072 -> 1024, 1x1 prediction.
    assert weights(on_meta(DarkNet19YoloV2, 3, ANCHORS)) == 19_802_976 + 2 * 9_437_184 + 28_311_552 + 40_960
    # MobileNetV1 (table 1 of the paper, 3.185 M without its classifier) and the same head.
    assert weights(on_meta(MobileNetV1YoloV2, 3, ANCHORS)) == 3_185_088 + 2 * 9_437_184 + 28_311_552 + 40_960


@pytest.mark.parametrize('cls', [DarkNet19YoloV2, MobileNetV1YoloV2])
def test_published_networks_name_their_maps(cls):
    network = on_meta(cls, 3, ANCHORS)
    named = network.forward_features(torch.empty(1, 3, 64, 96, device='meta'))
    assert {name: tuple(x.shape[1:]) for name, x in named.items()} == {
        'c3': (256, 8, 12), 'c4': (512, 4, 6), 'c5': (1024, 2, 3), 'p5': (1024, 2, 3), 'level_32': (40, 2, 3)}
    (output,) = network(torch.empty(1, 3, 64, 96, device='meta'))
    spec = ModelSpec('n', ('a', 'b', 'c'), InputSpec(64, 96), network.decoder_spec())
    assert output_shapes(spec) == {'level_32': tuple(output.shape)}


@pytest.mark.parametrize('width', [0.25, 0.5, 1.0])
def test_plain_detector_names_its_maps(width):
    network = on_meta(PlainDetector, 3, width)
    images = torch.empty(2, 3, 64, 96, device='meta')
    named = network.forward_features(images)
    assert list(named) == ['c3', 'c4', 'c5', 'p3', 'p4', 'p5', 'level_8', 'level_16', 'level_32']
    assert [named[f'c{i}'].shape[1] for i in (3, 4, 5)] == [128 * width, 256 * width, 512 * width]
    spec = ModelSpec('n', ('a', 'b', 'c'), InputSpec(64, 96), network.decoder_spec())
    shapes = [tuple(x.shape[1:]) for x in network(images)]
    assert shapes == [shape[1:] for shape in output_shapes(spec).values()]


def test_plain_detector_with_stride_64():
    network = on_meta(PlainDetector, 3, 0.25, channels=(32, 64, 128, 256, 512, 1024), blocks=(0, 1, 1, 1, 2))
    named = network.forward_features(torch.empty(1, 3, 64, 128, device='meta'))
    assert list(named) == ['c3', 'c4', 'c5', 'c6', 'p3', 'p4', 'p5', 'p6',
                           'level_8', 'level_16', 'level_32', 'level_64']
    assert named['c6'].shape == (1, 256, 1, 2) and named['level_64'].shape == (1, 35, 1, 2)
    spec = ModelSpec('n', ('a', 'b', 'c'), InputSpec(64, 128), network.decoder_spec())
    assert list(output_shapes(spec)) == list(network.head_levels)
    report = binarize(network, BinarizationSettings())
    assert len(report.kept) == 5 and 'backbone.stages.4.2.body.conv' in report.stages['deep']
    with pytest.raises(ValueError, match='multiples of 64'):
        network(torch.empty(1, 3, 96, 128, device='meta'))


def test_coarsest_stage_may_only_inform_the_levels_that_predict():
    torch.manual_seed(0)
    network = PlainDetector(3, 0.25, channels=(32, 64, 128, 256, 512, 1024), blocks=(0, 0, 0, 0, 1), levels=3,
                            shared_prediction=True).eval()
    images = torch.randn(1, 3, 128, 128)
    named = network.forward_features(images)
    assert list(named) == ['c3', 'c4', 'c5', 'c6', 'p3', 'p4', 'p5', 'level_8', 'level_16', 'level_32']
    spec = ModelSpec('n', ('a', 'b', 'c'), InputSpec(128, 128), network.decoder_spec())
    assert list(output_shapes(spec)) == list(network.head_levels) and spec.decoder.strides == (8, 16, 32)
    maps = [x.detach().requires_grad_(True) for x in network.backbone(images)]
    for level in network.neck(maps):
        gradients = torch.autograd.grad(level.square().sum(), maps, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
    report = binarize(network, BinarizationSettings())
    assert report.kept == ('backbone.stem.conv', 'head.predict.0')
    # One prediction layer: what it says on one level it would say on the others.
    with torch.no_grad():
        network.head.predict[0].bias[0] = 5
        changed = network(images)
        for level, old in zip(changed, (named['level_8'], named['level_16'], named['level_32'])):
            assert (level[:, 0] - old[:, 0]).min() > 1 and torch.equal(level[:, 1:], old[:, 1:])
    # The size must fit the stage at stride 64 even so.
    with pytest.raises(ValueError, match='multiples of 64'):
        network(torch.zeros(1, 3, 96, 128))


def test_every_level_of_the_neck_sees_every_other():
    torch.manual_seed(0)
    network = PlainDetector(1, 0.25, channels=(32, 64, 128, 256, 512, 512), blocks=(0, 0, 0, 0, 0)).eval()
    maps = [x.detach().requires_grad_(True) for x in network.backbone(torch.randn(1, 3, 128, 128))]
    for level in network.neck(maps):
        gradients = torch.autograd.grad(level.square().sum(), maps, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_plain_detector_is_plain():
    network = on_meta(PlainDetector, 3)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.groups == 1 and layer.kernel_size in ((1, 1), (3, 3))
    # All but the stem sees at least 32 channels, and whole bytes of bits.
    inner = [m for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d) and 'stem' not in n]
    assert all(layer.in_channels >= 32 and layer.in_channels % 8 == 0 for layer in inner)


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = PlainDetector(2, 0.25).train()
    sum(level.square().sum() for level in network(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_shortcut_adds_the_input():
    network = PlainDetector(2, 0.25)
    block = network.backbone.stages[1][1].eval()
    with torch.no_grad():
        block.body.norm.weight.zero_()
        x = torch.randn(1, 32, 4, 4)
        assert torch.equal(block(x), x.relu())
        block.shortcut = False
        assert torch.equal(block(x), torch.zeros_like(x))


def test_scores_start_near_the_prior():
    torch.manual_seed(1)
    levels = PlainDetector(3, 0.25).eval()(torch.randn(1, 3, 64, 64))
    scores = torch.cat([level[:, :3].flatten() for level in levels]).sigmoid()
    assert 0.001 < scores.mean() < 0.05


def test_passthrough_keeps_all_values():
    """The head sees every value of the stride-16 map: changing any one changes the output."""
    from kd_perception.training.networks.yolov2_head import YoloV2Head
    torch.manual_seed(2)
    head = YoloV2Head(2, 4, 1, 2, 'leaky', channels=8).eval()
    fine, coarse = torch.randn(1, 2, 4, 4), torch.randn(1, 4, 2, 2)
    with torch.no_grad():
        before = head(fine, coarse)[0]
        assert before.shape == (1, 8, 2, 2)
        for index in np.ndindex(2, 4, 4):
            changed = fine.clone()
            changed[(0, *index)] += 1
            assert not torch.allclose(head(changed, coarse)[0], before)


def test_refusals():
    with pytest.raises(ValueError, match='multiples of 32'):
        PlainDetector(1, 0.25)(torch.zeros(1, 3, 48, 64))
    with pytest.raises(ValueError, match='anchors_px'):
        on_meta(DarkNet19YoloV2, 1, ())
    with pytest.raises(ValueError, match='anchors_px'):
        on_meta(DarkNet19YoloV2, 1, ((1, -1),))
    with pytest.raises(ValueError, match='expected 5 or 6 channels'):
        PlainDetector(1, channels=(32, 64))
    with pytest.raises(ValueError, match='levels: expected 1 to 3'):
        PlainDetector(1, levels=4)


def test_shipped_student_needs_a_sixth_of_the_teachers_multiply_adds():
    costs = {}
    for name in ('student', 'teacher'):
        path = Path(__file__).resolve().parents[2] / 'config' / 'training' / f'{name}.yaml'
        settings = load_config(TrainingSettings, path)
        with torch.device('meta'):
            network = build_network(settings.network, len(settings.labels))
        costs[name] = network_cost(network, settings.input_hw)
    assert costs['student'].multiply_adds <= costs['teacher'].multiply_adds / 6
    assert costs['student'].weights / 8 < 1e6
