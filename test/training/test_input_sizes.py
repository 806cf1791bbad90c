# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Files of fully convolutional networks: one file, any size of input, the size of the camera's aspect."""

import dataclasses
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='PyTorch is not installed')
pytest.importorskip('onnx')
from test_integer_onnx import calibrated

from kd_perception.benchmark.variants import write_resized
from kd_perception.cli.main import main
from kd_perception.detection.input_size import input_hw, parse_input_size
from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.errors import ModelError
from kd_perception.models.manifest import load_manifest
from kd_perception.models.spec import InputSpec
from kd_perception.training.export.model_file import to_onnx, write_model
from kd_perception.training.export.unfold import unfold
from kd_perception.training.loop.network_builder import build_network
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.networks.picodet_onnx import load_exported_picodet
from kd_perception.training.networks.torch_detector import detection_spec, torch_detector
from kd_perception.training.settings.network import NetworkSettings

LABELS = ('Car', 'Pedestrian', 'Cyclist')
WIDE, STUDENT = InputSpec(192, 640, size_step=64), InputSpec(320, 960, size_step=64)


@pytest.fixture(scope='module')
def network():
    return calibrated()


@pytest.fixture(scope='module', params=(True, False), ids=('integers', 'float twin'))
def path(request, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    write_model(network, detection_spec('sizes', LABELS, (64, 192), network), folder / 'm.onnx',
                packed=request.param, half=True)
    return folder / 'm.onnx'


def test_each_size_computes_what_torch_does(network, path):
    detector = OnnxDetector.load(path)
    rng = np.random.default_rng(0)
    for image_hw, hw in (((64, 192), (64, 192)), ((300, 400), (96, 128)), ((400, 300), (128, 96))):
        assert detector.input_hw(image_hw) == hw
        image = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
        same = torch_detector(network, detection_spec('torch', LABELS, hw, network))
        for found, expected in zip(detector.outputs(image), same.outputs(image)):
            assert found.shape == expected.shape
            assert (found - expected).std() < 0.06 * expected.std()


def test_a_size_has_one_session_and_boxes_come_back_in_px_of_the_image(path):
    detector = OnnxDetector.load(path)
    made = []
    at = detector._session_at
    detector._session_at = lambda hw: made.append(hw) or at(hw)
    rng = np.random.default_rng(1)
    for hw in ((300, 400), (64, 192), (300, 400), (600, 800)):
        found = detector.detect(rng.integers(0, 256, (*hw, 3), dtype=np.uint8), 0.001).detections
        assert len(found) and (found.boxes_xyxy <= [hw[1], hw[0]] * 2).all() and (found.boxes_xyxy >= 0).all()
        assert found.boxes_xyxy[:, 3].max() > hw[0] / 2, 'they reach over the whole image'
    assert made == [(96, 128)]


def test_the_size_can_be_named(path, tmp_path):
    image = np.zeros((300, 400, 3), np.uint8)
    fixed = OnnxDetector.load(path, ExecutionOptions(input_size='model'))
    assert fixed.outputs(image)[0].shape[2:] == (8, 24)
    named = OnnxDetector.load(path, ExecutionOptions(input_size=(128, 160)))
    assert named.outputs(image)[0].shape[2:] == (16, 20)
    with pytest.raises(ModelError, match='input size 100x96: the model takes 192x64, or multiples of 32 px'):
        OnnxDetector.load(path, ExecutionOptions(input_size=(96, 100)))
    resized = OnnxDetector.load(write_resized(path, (96, 128), tmp_path))
    assert resized.input_hw((64, 192)) == (96, 128), 'a file written for one size has no other'


def test_a_promise_that_the_graph_does_not_keep_is_refused(network):
    spec = detection_spec('fixed', LABELS, (64, 192), network)
    import onnx
    model = onnx.load_from_string(to_onnx(network, spec))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    with pytest.raises(ModelError, match='the graph does not leave height and width free'):
        OnnxDetector.from_bytes(model.SerializeToString(), Path('fixed.onnx'))


def test_a_file_of_one_size_can_be_freed_if_its_graph_allows(network, path, tmp_path, capsys):
    spec = detection_spec('fixed', LABELS, (64, 192), network)
    fixed = dataclasses.replace(spec, input=dataclasses.replace(spec.input, size_step=None))
    write_model(network, fixed, tmp_path / 'fixed.onnx', half=True)
    command = ['model', 'free-size', str(tmp_path / 'fixed.onnx'), '--step', '32', '--out']
    assert main([*command, str(tmp_path / 'free.onnx'), '--manifest', 'free']) == 0
    free = OnnxDetector.named(str(tmp_path / 'free.onnx'))
    assert free.spec.input == spec.input and free.input_hw((300, 400)) == (96, 128)
    assert free.sha256 == load_manifest(tmp_path).models['free'].sha256
    assert main(['model', 'free-size', str(path), '--step', '32', '--out', str(tmp_path / 'x.onnx')]) == 2
    assert 'expected a file of one size' in capsys.readouterr().err
    sized = [*command, str(tmp_path / 'sized.onnx'), '--size']
    assert main([*sized, '256x128']) == 0
    larger = OnnxDetector.load(tmp_path / 'sized.onnx')
    assert larger.spec.input == dataclasses.replace(spec.input, height=128, width=256)
    assert larger.outputs(np.zeros((128, 256, 3), np.uint8))[0].shape[2:] == (16, 32)
    assert main([*sized, '256x100']) == main([*sized, 'camera']) == 2
    assert "expected WIDTHxHEIGHT, got 'camera'" in capsys.readouterr().err


def test_a_graph_that_holds_its_size_is_refused(network, tmp_path, capsys):
    import onnx
    spec = detection_spec('fixed', LABELS, (64, 192), network)
    fixed = dataclasses.replace(spec, input=dataclasses.replace(spec.input, size_step=None))
    model = onnx.load_from_string(to_onnx(network, fixed))
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ['before' if name == last else name for name in node.output]
    shape = [size.dim_value for size in model.graph.output[0].type.tensor_type.shape.dim]
    model.graph.initializer.append(onnx.helper.make_tensor('shape', onnx.TensorProto.INT64, [4], shape))
    model.graph.node.append(onnx.helper.make_node('Reshape', ['before', 'shape'], [last]))
    onnx.save(model, tmp_path / 'fixed.onnx')
    command = ['model', 'free-size', str(tmp_path / 'fixed.onnx'), '--step', '32', '--out']
    assert main([*command, str(tmp_path / 'x.onnx')]) == 2
    assert 'its graph is made for one size' in capsys.readouterr().err
    assert not (tmp_path / 'x.onnx').exists()


def test_the_teacher_network_has_any_size_although_it_shuffles_channels(tmp_path):
    torch.manual_seed(0)
    network = PicoDet(len(LABELS)).eval()
    spec = detection_spec('teacher', LABELS, (64, 192), network)
    free = write_model(network, spec, tmp_path / 'free.onnx')
    for hw in ((64, 192), (96, 128), (128, 96)):
        assert free.input_hw(hw) == hw
        image = np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)
        same = torch_detector(network, detection_spec('torch', LABELS, hw, network))
        for found, expected in zip(free.outputs(image), same.outputs(image)):
            np.testing.assert_allclose(found, expected, atol=1e-4)
    fixed = dataclasses.replace(spec, input=dataclasses.replace(spec.input, size_step=None))
    write_model(network, fixed, tmp_path / 'fixed.onnx')
    assert main(['model', 'free-size', str(tmp_path / 'fixed.onnx'), '--step', '32', '--out',
                 str(tmp_path / 'freed.onnx')]) == 0, 'a file of one size is freed, and computes the same'
    again = load_exported_picodet(tmp_path / 'freed.onnx', len(LABELS))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters()))


def test_sizes_by_example():
    assert input_hw(WIDE, 'camera', (375, 1242)) == (192, 640)
    assert input_hw(WIDE, 'camera', (720, 1280)) == (256, 448)
    assert input_hw(STUDENT, 'camera', (720, 1280)) == (384, 704)
    assert input_hw(STUDENT, 'camera', (375, 500)) == (384, 512), 'not enlarged'
    assert input_hw(STUDENT, 'model', (720, 1280)) == (320, 960)
    assert input_hw(dataclasses.replace(STUDENT, size_step=None), 'camera', (720, 1280)) == (320, 960)
    assert parse_input_size('704x384') == (384, 704) and parse_input_size('camera') == 'camera'
    for text in ('', '704', '704x', 'x384', '0x64', '704x384x3', 'auto'):
        with pytest.raises(ValueError, match='expected camera, model or WIDTHxHEIGHT'):
            parse_input_size(text)
    with pytest.raises(ValueError, match='multiples of size_step'):
        InputSpec(190, 640, size_step=64)


@settings(max_examples=200, deadline=None)
@given(st.integers(50, 3000), st.integers(50, 3000))
def test_no_image_is_shown_smaller_or_at_a_higher_cost(height, width):
    hw = input_hw(STUDENT, 'camera', (height, width))
    assert STUDENT.allows(hw) and hw[0] * hw[1] <= 320 * 960
    own = min(320 / height, 960 / width)
    assert min(hw[0] / height, hw[1] / width) >= own - 1e-9


def test_weights_of_float16_halve_a_float_file_that_training_goes_on_from(tmp_path):
    network = build_network(NetworkSettings('plain', width=0.25), 3).eval()
    with torch.no_grad():
        network.neck.lateral[0].norm.running_mean.normal_()
    spec = detection_spec('kept', LABELS, (64, 96), network)
    whole = write_model(network, spec, tmp_path / 'whole.onnx')
    half = write_model(network, spec, tmp_path / 'half.onnx', half_floats=True)
    assert half.path.stat().st_size < 0.55 * whole.path.stat().st_size
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for found, expected in zip(half.outputs(image), whole.outputs(image)):
        np.testing.assert_allclose(found, expected, atol=0.02 * max(1.0, np.abs(expected).max()))
    started = build_network(NetworkSettings('plain', width=0.25), 3).eval()
    unfold(started, half.path, LABELS)
    again = torch_detector(started, spec)
    for found, expected in zip(again.outputs(image), half.outputs(image)):
        np.testing.assert_allclose(found, expected, atol=0.02 * max(1.0, np.abs(expected).max()))
