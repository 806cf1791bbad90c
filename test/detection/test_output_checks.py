# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Models whose description is wrong in a way that decodes without an error."""

import numpy as np
import pytest

from kd_perception.cli.main import main
from kd_perception.detection.decode import output_shapes
from kd_perception.detection.output_checks import output_problems
from kd_perception.models.decoder_spec import DecoderSpec
from kd_perception.models.spec import InputSpec, ModelSpec

HW = (64, 96)
RNG = np.random.default_rng(5)
CORNERS = np.sort(RNG.uniform(2, 60, (40, 2, 2)), axis=1).reshape(40, 4).astype(np.float32)
SIZES = np.concatenate([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, CORNERS[:, 2:] - CORNERS[:, :2]], axis=1)
SHARES = CORNERS / np.array([96, 64, 96, 64], np.float32)
SCORES = RNG.uniform(0, 1, (40, 3)).astype(np.float32)
LOGITS = RNG.normal(-2, 3, (40, 3)).astype(np.float32)
SOFTMAX = SCORES / SCORES.sum(axis=1, keepdims=True)
NOTHING = np.zeros((40, 3), np.float32)
ONE_NAN = np.where(np.arange(160).reshape(40, 4) == 7, np.nan, CORNERS).astype(np.float32)


def problems(parts, **decoder):
    spec = ModelSpec(name='m', labels=('Car', 'Pedestrian', 'Cyclist'), decoder=DecoderSpec(**decoder),
                     input=InputSpec(height=HW[0], width=HW[1]))
    return list(output_problems([parts[name] for name in output_shapes(spec)], spec))


def boxes_scores(boxes, scores, **decoder):
    return problems({'boxes': boxes[None], 'scores': scores[None]}, type='boxes_scores', **decoder)


@pytest.mark.parametrize('boxes,scores,decoder,told', [
    (CORNERS, SCORES, {}, ''), (CORNERS, NOTHING, {}, ''), (np.zeros((40, 4), np.float32), NOTHING, {}, ''),
    (SHARES, SCORES, {'box_units': 'normalised'}, ''), (SIZES, SCORES, {'box_format': 'cxcywh'}, ''),
    (CORNERS, LOGITS, {'activation': 'sigmoid'}, ''), (CORNERS, LOGITS, {'activation': 'softmax'}, ''),
    (ONE_NAN, SCORES, {}, "output 'boxes' holds 1 values of 160 that are NaN or infinite"),
    (CORNERS, SCORES * np.nan, {}, "output 'scores' holds 120 values"),
    (CORNERS, LOGITS, {}, 'expected 0 to 1; logits need `activation: sigmoid`'),
    (CORNERS, LOGITS * 0 - 3, {}, 'scores go from -3 to -3'),
    (CORNERS, SCORES, {'activation': 'sigmoid'}, 'scores already'),
    (CORNERS, SOFTMAX, {'activation': 'softmax'}, 'scores already'),
    (SHARES, SCORES, {}, 'need `box_units: normalised`'),
    (CORNERS, SCORES, {'box_units': 'normalised'}, 'px need `box_units: px`'),
    (SIZES, SCORES, {}, 'end before they begin'),
    (CORNERS[:, [2, 3, 0, 1]], SCORES, {}, 'end before they begin'),
    (CORNERS * 10, SCORES, {}, 'lie outside the input of 96x64 px')])
def test_boxes_and_scores(boxes, scores, decoder, told):
    found = boxes_scores(boxes, scores, **decoder)
    assert told in found[0] if told else not found


def test_the_minus_infinity_of_a_masked_class_is_sound():
    masked = np.where(np.arange(3) == 2, -np.inf, LOGITS).astype(np.float32)
    assert not boxes_scores(CORNERS, masked, activation='sigmoid')


@pytest.mark.parametrize('rows,told', [
    (np.c_[CORNERS, SCORES[:, 0], np.arange(40) % 3], ''),
    (np.r_[np.c_[CORNERS, SCORES[:, 0], np.arange(40) % 3], np.zeros((60, 6))], ''),
    (np.zeros((40, 6)), ''),
    (np.c_[CORNERS, SCORES[:, 0], 1 + np.arange(40) % 3], 'class numbers go from 1 to 3, expected whole'),
    (np.c_[CORNERS, 100 * SCORES[:, 0], np.zeros(40)], 'scores go from'),
    (np.c_[SHARES, SCORES[:, 0], np.zeros(40)], 'need `box_units: normalised`')])
def test_rows_that_are_detections(rows, told):
    found = problems({'rows': rows[None].astype(np.float32)}, type='end_to_end')
    assert told in found[0] if told else not found


def test_a_table_of_places():
    table = np.concatenate([SIZES, SCORES], axis=1)
    assert not problems({'predictions': table.T[None]}, type='yolo')
    wrong = np.concatenate([SIZES, LOGITS], axis=1)
    assert 'expected 0 to 1' in problems({'predictions': wrong.T[None]}, type='yolo')[0]
    share = np.concatenate([SIZES / 96, SCORES], axis=1)
    assert 'normalised' in problems({'predictions': share[None]}, type='yolo', arrangement='channels_last')[0]


def constant_model(path, box, score):
    onnx = pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    boxes = np.tile(np.array([[box]], np.float32), (1, 10, 1))
    nodes = [helper.make_node('ReduceMean', ['images'], ['mean'], keepdims=0),
             helper.make_node('Mul', ['mean', 'zero'], ['nothing']),
             helper.make_node('Add', ['B', 'nothing'], ['boxes']),
             helper.make_node('Add', ['S', 'nothing'], ['scores'])]
    graph = helper.make_graph(
        nodes, 'g', [helper.make_tensor_value_info('images', kind, [1, 3, *HW])],
        [helper.make_tensor_value_info('boxes', kind, [1, 10, 4]),
         helper.make_tensor_value_info('scores', kind, [1, 10, 3])],
        [numpy_helper.from_array(boxes, 'B'),
         numpy_helper.from_array(np.full((1, 10, 3), score, np.float32), 'S'),
         numpy_helper.from_array(np.array(0, np.float32), 'zero')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize('name,box,score,told', [
    ('good', [10, 10, 40, 40], 0.6, ''), ('normalised', [0.1, 0.1, 0.4, 0.4], 0.6, 'normalised'),
    ('sizes', [80, 40, 20, 30], 0.6, 'end before they begin'), ('logits', [10, 10, 40, 40], 3, 'from 3 to 3'),
    ('negative', [10, 10, 40, 40], -3, 'from -3 to -3'), ('nan', [np.nan] * 4, 0.6, '40 values of 40')])
def test_attach_refuses_what_its_description_gets_wrong(name, box, score, told, tmp_path, capsys):
    model, out = constant_model(tmp_path / f'{name}.onnx', box, score), tmp_path / 'new' / 'out.onnx'
    spec = tmp_path / 'spec.yaml'
    spec.write_text('name: m\nlabels: [Car, Pedestrian, Cyclist]\nlicence: x\ndecoder: {type: boxes_scores}\n'
                    'input: {height: 64, width: 96, layout: NCHW, dtype: float32, color: rgb}\n')
    code = main(['model', 'attach', str(model), '--spec', str(spec), '--out', str(out)])
    error = capsys.readouterr().err
    if told:
        assert code == 2 and not out.exists() and error.count('\n') == 1 and told in error
        assert error.startswith(f'kd_perception model: error: {model}: ')
        onnx = pytest.importorskip('onnx')
        from kd_perception.config import load_config
        described = onnx.load(str(model))
        onnx.helper.set_model_props(described, load_config(ModelSpec, spec).to_metadata())
        onnx.save(described, str(model))
        assert main(['model', 'verify', str(model)]) == 1, 'a file that was described elsewhere'
        assert told in capsys.readouterr().err
    else:
        assert code == 0 and main(['model', 'verify', str(out)]) == 0
