# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""OpenVINO runs the same networks to the same detections: an IR at several sizes, and ONNX by provider."""

import numpy as np
import pytest
from test_ncnn import small_nanodet

from kd_perception.benchmark.variants import write_resized
from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import ModelError

openvino = pytest.importorskip('openvino', reason='OpenVINO is optional: requirements/openvino.txt')
pytest.importorskip('onnx', reason='the graph is written with onnx')
IMAGE = np.random.default_rng(2).integers(0, 256, (90, 170, 3), dtype=np.uint8)


@pytest.fixture
def network(tmp_path):
    """The one network as ncnn's files, which take any size, and as an IR."""
    small_nanodet().save(tmp_path / 'net.param')
    (tmp_path / 'names.txt').write_text('car\nperson\ntram\n')
    from kd_perception.attach.ncnn_to_onnx import ncnn_as_onnx
    openvino.save_model(openvino.Core().read_model(ncnn_as_onnx(tmp_path / 'net.param')),
                        str(tmp_path / 'ir.xml'), compress_to_fp16=False)
    return tmp_path


def attached(folder, source, size):
    out = folder / f'{source}-{size}{".xml" if source.endswith("xml") else ".onnx"}'
    assert main(['model', 'attach', str(folder / source), '--out', str(out), '--size', size,
                 '--names', str(folder / 'names.txt')]) == 0
    return out


def same(one, other):
    found, expected = (each.detect(IMAGE, 0.3, 1.0, 10000).detections for each in (one, other))
    assert len(found) == len(expected) > 5
    for box, score, class_id in zip(expected.boxes_xyxy, expected.scores, expected.class_ids):
        # Of equal scores the order is open.
        near = (found.class_ids == class_id) & (np.abs(found.scores - score) < 1e-4)
        assert (np.abs(found.boxes_xyxy - box).max(axis=1)[near] < 0.05).any()


@pytest.mark.parametrize('size', ['96x64', '160x96', '64x192'])
def test_an_ir_has_any_size_that_its_network_can_have(size, network):
    ir = OnnxDetector.load(attached(network, 'ir.xml', size))
    width, height = map(int, size.split('x'))
    assert ir.spec.input.hw == (height, width) and ir.provider == 'OpenVINO'
    same(ir, OnnxDetector.load(attached(network, 'net.param', size)))


def test_onnx_runs_in_openvino_by_provider(network):
    path = attached(network, 'net.param', '160x96')
    by_provider = OnnxDetector.load(path, ExecutionOptions(provider='openvino'))
    assert by_provider.provider in ('OpenVINO', 'OpenVINOExecutionProvider')
    same(by_provider, OnnxDetector.load(path))


def test_benchmarks_resize_an_ir_and_name_the_multiple(network):
    path = attached(network, 'ir.xml', '96x64')
    resized = OnnxDetector.load(write_resized(path, (64, 160), network))
    assert resized.spec.input.hw == (64, 160)
    same(resized, OnnxDetector.load(attached(network, 'net.param', '160x64')))
    with pytest.raises(ModelError, match='cannot take 100x60 px: .* must be multiples of 16, such as 112x64'):
        write_resized(path, (60, 100), network)
