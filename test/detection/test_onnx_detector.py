# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""OnnxDetector: with an injected session, and with real files in stock onnxruntime."""

import hashlib

import numpy as np
import onnx
from onnx import helper, TensorProto
import pytest

from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector, to_tensor
from kd_perception.errors import ModelError
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, ThresholdSpec

HW = (32, 64)
SPEC = ModelSpec('fixed', ('a', 'b'), InputSpec(*HW), DecoderSpec('boxes_scores'),
                 ThresholdSpec(0.5, 0.1, 0.5, 10))


class FixedSession:
    """Answers with the same boxes, and remembers what it was fed."""

    def __init__(self, boxes, scores):
        self.outputs = [np.array(boxes, np.float32).reshape(1, -1, 4),
                        np.array(scores, np.float32).reshape(1, -1, 2)]

    def run(self, names, feeds):
        assert names == ['boxes', 'scores']
        self.fed = feeds['images'].copy()
        return self.outputs


def write_model(path, spec=SPEC, classes=2, input_type=TensorProto.UINT8, input_shape=(1, *HW, 3), names=None,
                metadata=None):
    """A real file: constant boxes, so that the graph itself stays out of the way."""
    boxes = np.array([[[8, 8, 24, 24], [40, 4, 60, 28]]], dtype=np.float32)
    scores = np.zeros((1, 2, classes), dtype=np.float32)
    scores[0, :, 0] = 0.9, 0.3
    names = names or ('boxes', 'scores')
    # The input feeds in with weight 0, or onnxruntime would drop it.
    nodes = [
        helper.make_node('Cast', ['images'], ['f'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', ['f'], ['m'], keepdims=0),
        helper.make_node('Mul', ['m', 'zero'], ['z']),
        helper.make_node('Add', ['b', 'z'], [names[0]]),
        helper.make_node('Add', ['s', 'z'], [names[1]]),
    ]
    graph = helper.make_graph(
        nodes, 'g', [helper.make_tensor_value_info('images', input_type, input_shape)],
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [1, 2, 4]),
         helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [1, 2, classes])],
        [onnx.numpy_helper.from_array(boxes, 'b'), onnx.numpy_helper.from_array(scores, 's'),
         onnx.numpy_helper.from_array(np.zeros((), np.float32), 'zero')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(model, spec.to_metadata() if metadata is None else metadata)
    onnx.save(model, str(path))
    return path


def test_boxes_come_back_in_source_pixels():
    """A source of twice the input's size, letterboxed at the sides: x' = (x - 16) * 2, y' = y * 2."""
    detector = OnnxDetector(FixedSession([[24, 8, 32, 16]], [[0.9, 0]]), SPEC)
    result = detector.detect(np.zeros((64, 64, 3), np.uint8))
    assert result.detections.boxes_xyxy.tolist() == [[16, 16, 32, 32]]
    assert min(result.timings.preprocess_ns, result.timings.inference_ns, result.timings.postprocess_ns) >= 0


def test_boxes_are_clipped_and_those_in_the_padding_dropped():
    detector = OnnxDetector(FixedSession([[0, 0, 10, 32], [10, -5, 30, 40]], [[0.9, 0], [0.8, 0]]), SPEC)
    result = detector.detect(np.zeros((64, 64, 3), np.uint8)).detections
    assert result.boxes_xyxy.tolist() == [[0, 0, 28, 64]]
    assert result.scores.tolist() == pytest.approx([0.8])


def test_thresholds_default_to_the_models_and_can_be_given():
    boxes = [[x, 0, x + 4, 4] for x in range(0, 60, 6)]
    scores = [[0.05 + 0.1 * i, 0] for i in range(10)]
    detector = OnnxDetector(FixedSession(boxes, scores), SPEC)
    image = np.zeros((*HW, 3), np.uint8)
    assert len(detector.detect(image).detections) == 5
    assert len(detector.detect(image, score_threshold=0.1).detections) == 9
    assert len(detector.detect(image, score_threshold=0.01, max_detections=3).detections) == 3
    scores = detector.detect(image, score_threshold=0.01).detections.scores
    assert (np.diff(scores) <= 0).all()


def test_nothing_found_is_empty():
    detector = OnnxDetector(FixedSession(np.zeros((0, 4)), np.zeros((0, 2))), SPEC)
    assert len(detector.detect(np.zeros((5, 7, 3), np.uint8)).detections) == 0


@pytest.mark.parametrize('layout', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('color', ['bgr', 'rgb'])
def test_tensor_layouts(layout, color):
    canvas = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    spec = InputSpec(4, 6, layout, 'float32', color, (10, 20, 30), (2, 4, 8))
    tensor = to_tensor(canvas, spec)
    image = tensor[0] if layout == 'NHWC' else tensor[0].transpose(1, 2, 0)
    ordered = canvas if color == 'bgr' else canvas[..., ::-1]
    assert tensor.shape == spec.shape and tensor.dtype == np.float32 and tensor.flags.c_contiguous
    assert np.allclose(image, (ordered - np.array([10.0, 20, 30])) / [2, 4, 8], atol=1e-5)


def test_uint8_bgr_input_is_not_copied():
    canvas = np.zeros((4, 6, 3), np.uint8)
    assert np.shares_memory(to_tensor(canvas, InputSpec(4, 6)), canvas)


def test_real_file(tmp_path):
    path = write_model(tmp_path / 'm.onnx')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    detector = OnnxDetector.load(path, ExecutionOptions(threads=1), expected_sha256=digest.upper())
    detector.warm_up()
    assert detector.sha256 == digest and detector.spec == SPEC and detector.provider == 'CPUExecutionProvider'
    result = detector.detect(np.zeros((*HW, 3), np.uint8)).detections
    assert result.boxes_xyxy.tolist() == [[8, 8, 24, 24]]
    assert len(detector.detect(np.zeros((*HW, 3), np.uint8), score_threshold=0.2).detections) == 2


@pytest.mark.parametrize('changes,message', [
    (dict(metadata={}), 'holds no metadata'),
    (dict(classes=3), "output 'scores' has shape .*for 2 labels"),
    (dict(names=('boxes', 'probabilities')), "no output 'scores'"),
    (dict(input_type=TensorProto.FLOAT), "input 'images' is float32"),
    (dict(input_shape=(1, 32, 32, 3)), "input 'images' is uint8"),
])
def test_graph_that_contradicts_its_metadata(tmp_path, changes, message):
    path = write_model(tmp_path / 'm.onnx', **changes)
    with pytest.raises(ModelError, match=message) as error:
        OnnxDetector.load(path)
    assert str(error.value).startswith(str(path)) and '\n' not in str(error.value)


@pytest.mark.parametrize('content,message', [
    (None, 'no such model file'),
    (b'', '0 bytes'),
    (b'not a model', 'onnxruntime can load'),
    (bytes(range(256)) * 9, 'onnxruntime can load'),
])
def test_bad_file(tmp_path, content, message):
    path = tmp_path / 'm.onnx'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as error:
        OnnxDetector.load(path)
    assert '\n' not in str(error.value)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelError, match='no such model file'):
        OnnxDetector.load(tmp_path)


def test_wrong_digest_is_refused_before_the_file_is_parsed(tmp_path):
    path = tmp_path / 'm.onnx'
    path.write_bytes(b'evil')
    with pytest.raises(ModelError, match='sha256 is .*, expected 00'):
        OnnxDetector.load(path, expected_sha256='00' * 32)


def test_missing_provider_is_an_error_unless_fallback_is_allowed(tmp_path):
    path = write_model(tmp_path / 'm.onnx')
    import onnxruntime
    if 'TensorrtExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this onnxruntime has TensorRT, so it cannot show a missing provider')
    with pytest.raises(ModelError, match='provider .tensorrt. is not available.*cpu'):
        OnnxDetector.load(path, ExecutionOptions(provider='tensorrt'))
    options = ExecutionOptions(provider='tensorrt', allow_cpu_fallback=True)
    assert OnnxDetector.load(path, options).provider == 'CPUExecutionProvider'


def test_failing_session_and_wrong_output_are_model_errors():
    class Failing:
        def run(self, names, feeds):
            raise RuntimeError('first line\nsecond line')

    with pytest.raises(ModelError, match='inference failed: first line$'):
        OnnxDetector(Failing(), SPEC).detect(np.zeros((*HW, 3), np.uint8))
    session = FixedSession(np.zeros((0, 4)), np.zeros((0, 2)))
    session.outputs[1] = np.zeros((1, 0, 5), np.float32)
    with pytest.raises(ModelError, match="output 'scores' has shape"):
        OnnxDetector(session, SPEC).detect(np.zeros((*HW, 3), np.uint8))


@pytest.mark.parametrize('options', [dict(threads=-1), dict(threads=1000), dict(provider='gpu')])
def test_options_are_checked(options):
    with pytest.raises(ValueError):
        ExecutionOptions(**options)
