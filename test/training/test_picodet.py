# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The PicoDet module and the loader of its published weights."""

import os

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.errors import TrainingError
from kd_perception.training.networks.blocks import channel_shuffle, esnet_width
from kd_perception.training.networks.picodet import PicoDet, REG_MAX, STRIDES
from kd_perception.training.networks.picodet_onnx import COCO_CLASSES, load_picodet

PUBLISHED = os.environ.get('KD_PERCEPTION_PICODET_ONNX')
needs_weights = pytest.mark.skipif(
    not PUBLISHED, reason='KD_PERCEPTION_PICODET_ONNX does not name the published file')


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return PicoDet(3).eval()


@pytest.mark.parametrize('height, width', [(64, 128), (96, 64), (192, 640)])
def test_levels_have_one_cell_per_stride(network, height, width):
    with torch.no_grad():
        levels = network(torch.zeros(2, 3, height, width))
    for level, stride in zip(levels, STRIDES):
        assert level.shape == (2, 3 + 4 * (REG_MAX + 1), -(-height // stride), -(-width // stride))


def test_named_features_cover_backbone_neck_and_head(network):
    with torch.no_grad():
        named = network.forward_features(torch.zeros(1, 3, 64, 64))
    assert list(named) == ['c3', 'c4', 'c5', 'p3', 'p4', 'p5', 'p6',
                           'level_8', 'level_16', 'level_32', 'level_64']
    assert [named[name].shape[1] for name in ('c3', 'c4', 'c5', 'p3')] == [96, 192, 384, 96]
    assert torch.equal(named['level_16'], network(torch.zeros(1, 3, 64, 64))[1])


def test_sizes_that_the_neck_cannot_join_are_refused(network):
    with pytest.raises(ValueError, match='multiples of 32'):
        network(torch.zeros(1, 3, 64, 100))


def test_parameter_count_is_that_of_the_paper():
    # 0.99 M in the paper's table counts 80 classes and unfolded batch norms.
    assert sum(p.numel() for p in PicoDet(COCO_CLASSES).parameters()) == 983_891


def test_every_weight_gets_a_gradient(network):
    network.zero_grad()
    sum(level.square().mean() for level in network(torch.randn(1, 3, 64, 64))).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_channel_shuffle_is_torchs_own():
    x = torch.randn(2, 12, 3, 5)
    assert torch.equal(channel_shuffle(x), torch.nn.functional.channel_shuffle(x, 2))


@pytest.mark.parametrize('channels, ratio, width', [(96, 0.875, 88), (96, 0.5, 48), (192, 0.625, 120)])
def test_widths_are_those_of_the_published_file(channels, ratio, width):
    assert esnet_width(channels, ratio) == width


def test_missing_weights_are_one_clear_line(tmp_path):
    with pytest.raises(TrainingError, match='nothing.onnx: cannot read the initial weights'):
        load_picodet(tmp_path / 'nothing.onnx')


def test_wrong_digest_is_refused_before_parsing(tmp_path):
    path = tmp_path / 'other.onnx'
    path.write_bytes(b'not onnx')
    with pytest.raises(TrainingError, match='sha256 is .* expected cdab77bd'):
        load_picodet(path)
    with pytest.raises(TrainingError, match='not an ONNX file|convolutions'):
        load_picodet(path, expected_sha256=None)


def _write_like_published(network, path):
    """Write an ONNX graph with the network's convolutions in execution order and nothing between them."""
    import onnx
    from onnx import helper, numpy_helper

    from kd_perception.training.networks.picodet_onnx import _execution_order
    tensors, nodes = [], []
    for i, layer in enumerate(_execution_order(network)):
        for kind in ('weight', 'bias'):
            value = getattr(layer, kind).detach().numpy()
            tensors.append(numpy_helper.from_array(value, f'{kind}_{i}'))
        nodes.append(helper.make_node('Conv', [f'x_{i}', f'weight_{i}', f'bias_{i}'], [f'x_{i + 1}']))
    graph = helper.make_graph(nodes, 'g', [], [], tensors)
    onnx.save(helper.make_model(graph), path)


def test_loader_restores_weights_in_execution_order(tmp_path):
    torch.manual_seed(1)
    source = PicoDet(COCO_CLASSES).eval()
    _write_like_published(source, tmp_path / 'w.onnx')
    loaded = load_picodet(tmp_path / 'w.onnx', expected_sha256=None)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(source(x), loaded(x)):
            assert torch.equal(a, b)


def test_class_rows_pick_their_channels_and_keep_the_boxes(tmp_path):
    torch.manual_seed(2)
    source = PicoDet(COCO_CLASSES).eval()
    _write_like_published(source, tmp_path / 'w.onnx')
    rows = [2, 0, 1]
    picked = load_picodet(tmp_path / 'w.onnx', rows, expected_sha256=None)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for whole, part in zip(source(x), picked(x)):
            torch.testing.assert_close(part, torch.cat([whole[:, rows], whole[:, COCO_CLASSES:]], 1))
    with pytest.raises(TrainingError, match='class rows must lie in 0..79'):
        load_picodet(tmp_path / 'w.onnx', [80], expected_sha256=None)


def test_file_of_another_network_is_refused(tmp_path):
    network = PicoDet(COCO_CLASSES)
    network.backbone.stem[0] = torch.nn.Conv2d(3, 24, 1, 2)
    _write_like_published(network.eval(), tmp_path / 'w.onnx')
    with pytest.raises(TrainingError, match='convolution 0 has shape'):
        load_picodet(tmp_path / 'w.onnx', expected_sha256=None)


@needs_weights
def test_published_weights_give_the_published_outputs():
    onnxruntime = pytest.importorskip('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(PUBLISHED, options)
    image = np.random.default_rng(0).normal(size=(1, 3, 416, 416)).astype(np.float32)
    expected = session.run(None, {'image': image})
    with torch.no_grad():
        levels = load_picodet(PUBLISHED)(torch.from_numpy(image))
    for level, scores, distributions in zip(levels, expected[:4], expected[4:]):
        flat = level.flatten(2).transpose(1, 2)
        np.testing.assert_allclose(flat[..., :COCO_CLASSES].sigmoid().numpy(), scores, atol=1e-4)
        np.testing.assert_allclose(flat[..., COCO_CLASSES:].numpy(), distributions, atol=1e-4)
