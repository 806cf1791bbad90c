# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The published detectors at their published sizes, from the shipped configurations."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

import onnx
from torch import nn

from kd_perception.config import load_config
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.models.spec import ModelSpec
from kd_perception.training.binary.binarization import activate_all
from kd_perception.training.export.model_file import parity, to_onnx
from kd_perception.training.loop.network_builder import build_network, network_cost
from kd_perception.training.networks.torch_detector import detection_spec
from kd_perception.training.settings.run import TrainingSettings

CONFIGS = Path(__file__).parents[2] / 'config' / 'training'
MIB = 1 << 20


def load(name):
    settings = load_config(TrainingSettings, CONFIGS / f'{name}.yaml')
    torch.manual_seed(0)
    network = build_network(settings.network, len(settings.labels), settings.binarization)
    activate_all(network)
    return settings, network.eval()


@pytest.mark.parametrize('name,weights,float_mib,packed_mib', [
    ('darknet19_yolov2', 67.0e6, (255, 258), 8.8), ('mobilenet_v1_yolov2', 50.4e6, (191, 194), 7.9)])
def test_published_sizes(name, weights, float_mib, packed_mib):
    settings, network = load(name)
    count = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert count == pytest.approx(weights, rel=1e-3)
    # A small input keeps the test fast; the file's size does not depend on it.
    spec = detection_spec(name, settings.labels, (64, 96), network)
    content = to_onnx(network, spec)
    assert len(content) <= packed_mib * MIB
    channels = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert float_mib[0] * MIB < 4 * (count + channels) < float_mib[1] * MIB
    metadata = {entry.key: entry.value for entry in onnx.load_model_from_string(content).metadata_props}
    written = ModelSpec.from_metadata(metadata, name)
    bits = {layer: entry['bits'] for layer, entry in written.documents['precision'].items()}
    assert sum(value == 32 for value in bits.values()) == (2 if name.startswith('dark') else 15)
    assert bits['head.fuse.conv'] == 1 and bits['head.predict'] == 32
    if name.startswith('mobile'):  # the other one takes seconds to load, and has no operator that this lacks
        assert parity(network, OnnxDetector.from_bytes(content, Path(f'{name}.onnx'))) < 1e-4


def test_cost_is_counted_without_running():
    with torch.device('meta'):
        settings = load_config(TrainingSettings, CONFIGS / 'darknet19_yolov2.yaml')
        network = build_network(settings.network, 3)
    cost = network_cost(network, (384, 1248))
    assert cost.weights == 67_029_856
    # YOLOv2's 416 px network is known to take 29.5 G operations (multiply and add counted apart) with the
    # squeezed passthrough; per pixel ours takes somewhat more.
    per_pixel = 2 * cost.multiply_adds / (384 * 1248)
    assert 1.0 < per_pixel / (29.47e9 / 416 ** 2) < 1.35
