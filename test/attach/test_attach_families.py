# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Graphs with the outputs of each family are recognised by `model attach`, and find their boxes."""

import hashlib
import json
import re

import cv2
import numpy as np
import pytest

from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ModelError
from kd_perception.models.spec import ModelSpec

onnx = pytest.importorskip('onnx', reason='graphs are built with onnx')
from onnx import helper, numpy_helper, TensorProto

HEIGHT, WIDTH = 64, 96
BOXES = np.array([[8, 8, 40, 32], [50, 10, 58, 40], [30, 20, 60, 60.]])
SCORES = np.array([.9, .8, .7])
CLASSES = np.array([2, 0, 2])         # COCO: car, person, car
SIZE = np.array([WIDTH, HEIGHT] * 2)
CENTRES = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], 1)
ONE_HOT = np.zeros((3, 80))
ONE_HOT[[0, 1, 2], CLASSES] = SCORES
TYPES = {'float32': TensorProto.FLOAT, 'float16': TensorProto.FLOAT16, 'uint8': TensorProto.UINT8,
         'int64': TensorProto.INT64}


def graph(outputs, shape=(1, 3, HEIGHT, WIDTH), dtype='float32', name='images', extra=(), metadata=None,
          ops=(), dynamic=()):
    """A graph that answers with these arrays whatever it sees; `dynamic` axes of the input have names."""
    axes = ''.join('NCHW'[i] for i in range(4)) if len(shape) == 4 else 'CHW'
    declared = [axes[i] if axes[i] in dynamic else size for i, size in enumerate(shape)]
    inputs = [helper.make_tensor_value_info(name, TYPES[dtype], declared)]
    inputs += [helper.make_tensor_value_info(other, TYPES[kind], size) for other, kind, size in extra]
    nodes = [helper.make_node('Cast', [name], ['seen'], to=TensorProto.FLOAT),
             helper.make_node('ReduceMean', ['seen'], ['mean'], keepdims=0),
             helper.make_node('Mul', ['mean', 'zero'], ['nothing'])]
    nodes += [helper.make_node(op, ['nothing'], [f'unused_{op}']) for op in ops]
    constants, values = [numpy_helper.from_array(np.array(0, np.float32), 'zero')], []
    for each, value in outputs.items():
        value = np.asarray(value)
        kind = 'int64' if value.dtype.kind == 'i' else 'float32'
        constants.append(numpy_helper.from_array(value.astype(kind), f'{each}_value'))
        nodes += [helper.make_node('Cast', ['nothing'], [f'{each}_zero'], to=TYPES[kind]),
                  helper.make_node('Add', [f'{each}_value', f'{each}_zero'], [each])]
        values.append(helper.make_tensor_value_info(each, TYPES[kind], value.shape))
    model = helper.make_model(helper.make_graph(nodes, 'g', inputs, values, constants),
                              opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 9
    helper.set_model_props(model, metadata or {})
    return model


def ultralytics(**more):
    names = dict(enumerate(['car', 'pedestrian', 'van']))
    return {'author': 'Ultralytics', 'names': str(names), 'stride': '32', 'task': 'detect', **more}


def channels_first():
    table = np.zeros((7, 40))
    table[:4, :3], table[4:, :3] = CENTRES.T, np.diag(SCORES)
    return table[None]


def yolox_table():
    """One place a cell of strides 8, 16, 32; the boxes on the first three, undecoded."""
    table = np.zeros((12 * 8 + 6 * 4 + 3 * 2, 85))
    for place in range(3):
        table[place, :2] = CENTRES[place, :2] / 8 - [place, 0]
        table[place, 2:4] = np.log(CENTRES[place, 2:] / 8)
        table[place, 4], table[place, 5:] = 1, ONE_HOT[place]
    return table[None]


def decoded_yolox():
    table = np.zeros((126, 85))     # a place without an object has a box at its cell
    table[:, :4] = [[(column + .5) * stride, (row + .5) * stride, stride, stride] for stride in (8, 16, 32)
                    for row in range(HEIGHT // stride) for column in range(WIDTH // stride)]
    table[:3] = np.concatenate([CENTRES, np.ones((3, 1)), ONE_HOT], 1)
    return table[None]


def log_odds(p):
    return np.log(np.clip(p, 1e-6, 1)) - np.log1p(-np.clip(p, 1e-6, 1 - 1e-9))


def picodet():
    counts, bins = (12 * 8, 6 * 4, 3 * 2, 2 * 1), 8
    scores, sides = [np.zeros((1, n, 80)) for n in counts], [np.zeros((1, n, 4 * bins)) for n in counts]
    for box, score, class_id in zip(BOXES, SCORES, CLASSES):
        place = int(box[1] // 16 + 1) * 6 + int((box[0] + box[2]) / 2 // 16)      # of stride 16
        point = (np.array([place % 6, place // 6] * 2) + .5) * 16
        scores[1][0, place, class_id] = score
        distances = (point - box) * [1, 1, -1, -1] / 16
        logits = np.full((4, bins), -30.0)
        for side, distance in enumerate(distances):
            share = distance - int(distance)
            logits[side, int(distance):int(distance) + 2] = np.log([1 - share + 1e-12, share + 1e-12])
        sides[1][0, place] = logits.ravel()
    return {f'out_{i}': value for i, value in enumerate([*scores, *sides])}


def numbered(values):
    """COCO's own numbers: person 1, car 3."""
    return np.where(values == 0, 1, 3)


FAMILIES = {
    'yolo11': (graph({'output0': channels_first()}, metadata=ultralytics()), []),
    'yolo11 dynamic': (graph({'output0': channels_first()}, dynamic='NHW', metadata=ultralytics(
        imgsz=str([HEIGHT, WIDTH]))), []),
    'yolo11 half': (graph({'output0': channels_first()}, dtype='float16', metadata=ultralytics()), []),
    'yolov10': (graph({'output0': np.column_stack([BOXES, SCORES, CLASSES])[None]}), []),
    'yolov5': (graph({'output0': np.concatenate([CENTRES, np.ones((3, 1)), ONE_HOT], 1)[None]}),
               ['--scale', '0-1']),
    'yolox': (graph({'output': yolox_table()}), []),
    'yolox decoded': (graph({'output': decoded_yolox()}, ops=['Exp']), []),
    'yolov7 nms': (graph({'output': np.column_stack([np.zeros(3), BOXES, CLASSES, SCORES])}), []),
    'picodet': (graph(picodet(), name='image'), []),
    'paddle': (graph({'boxes': np.column_stack([CLASSES, SCORES, BOXES]), 'count': np.array([3])},
                     name='image', extra=[('scale_factor', 'float32', [1, 2])]), []),
    'rtdetr': (graph({'labels': CLASSES[None], 'boxes': BOXES[None], 'scores': SCORES[None]},
                     extra=[('orig_target_sizes', 'int64', [1, 2])]), []),
    'transformers': (graph({'logits': log_odds(ONE_HOT)[None], 'pred_boxes': (CENTRES / SIZE)[None]},
                           name='pixel_values'), ['--scale', '0-1']),
    'torchvision': (graph({'boxes': BOXES, 'labels': numbered(CLASSES), 'scores': SCORES},
                          shape=(3, HEIGHT, WIDTH)), []),
    'mmdetection': (graph({'dets': np.column_stack([BOXES, SCORES])[None], 'labels': CLASSES[None]}),
                    ['--scale', 'imagenet', '--color', 'rgb']),
    'efficient nms': (graph({'num_dets': np.array([[3]]), 'det_boxes': BOXES[None],
                             'det_scores': SCORES[None], 'det_classes': CLASSES[None]}), []),
    'tensorflow': (graph({
        'detection_boxes': (BOXES / SIZE)[None][..., [1, 0, 3, 2]], 'detection_scores': SCORES[None],
        'detection_classes': numbered(CLASSES)[None].astype(float), 'num_detections': np.array([3.0])},
        shape=(1, HEIGHT, WIDTH, 3), dtype='uint8', name='input_tensor'), []),
    'boxes and logits': (graph({'a': (CENTRES / SIZE)[None], 'b': log_odds(ONE_HOT)[None]}),
                         ['--scale', '0-255', '--color', 'bgr']),
    'boxes and scores': (graph({'b': ONE_HOT[None], 'a': BOXES[None]}), ['--scale', '0-1', '--color', 'rgb']),
}


def attach(tmp_path, model, *options):
    source, out = tmp_path / 'foreign.onnx', tmp_path / 'described.onnx'
    onnx.save(model, str(source))
    return main(['model', 'attach', str(source), '--out', str(out), *options]), out


@pytest.mark.parametrize('family', FAMILIES)
def test_each_family_is_recognised_and_finds_its_boxes(family, tmp_path, capsys):
    model, options = FAMILIES[family]
    status, out = attach(tmp_path, model, *options)
    assert status == 0, capsys.readouterr().err
    assert main(['model', 'verify', str(out)]) == 0
    detector = OnnxDetector.load(out)
    assert detector.spec.input.hw == (HEIGHT, WIDTH)
    found = detector.detect(np.zeros((HEIGHT, WIDTH, 3), np.uint8), .3).detections
    labels = [detector.spec.labels[i] for i in found.class_ids]
    assert labels == (['Car', 'Pedestrian'] if 'yolo11' in family else ['Car', 'Pedestrian', 'Car'])
    count = len(labels)     # yolo11's third class is a van, which has no label
    assert np.allclose(found.boxes_xyxy, BOXES[:count], atol=.1)
    assert np.allclose(found.scores, SCORES[:count], atol=1e-3)


def test_what_is_said_of_each_field_names_its_source(tmp_path, capsys):
    status, _ = attach(tmp_path, FAMILIES['yolox'][0], '--map', 'truck=Truck',
                       '--set', 'thresholds.score=0.5')
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    for field, value, source in (
            ('input.fit', 'top_left', 'from preset yolox'), ('input.height', '64', "from input 'images'"),
            ('decoder.type', 'yolox', 'boxes not decoded'), ('thresholds.score', '0.5', 'from --set'),
            ('labels', 'Car, Pedestrian, Cyclist, Truck', "a guess: COCO's 80 classes")):
        (line,) = [line for line in lines if line.startswith(f'{field} ')]
        assert value in line and source in line


@pytest.mark.parametrize('family, options, message', [
    ('boxes and scores', [], r'does not say how its input is made .*--color \{rgb,bgr\} and --scale'),
    ('yolo11', ['--preset', 'yolov99'], 'expected one of ultralytics'),
    ('yolo11', ['--size', '100x64'], 'its input is fixed at 96x64 px, not 100x64'),
    ('yolo11', ['--map', 'tram=Tram'], r'with a class of the network \(car, pedestrian, van\)'),
    ('yolo11', ['--class-map', 'nobody'], 'no such file, nor one of bdd100k'),
    ('yolo11', ['--set', 'decoder.typ=yolo'], 'unknown key typ'),
    ('tensorflow', ['--scale', '0-1'], 'the graph takes bytes'),
])
def test_what_cannot_be_known_is_asked_for_in_one_line(family, options, message, tmp_path, capsys):
    status, out = attach(tmp_path, FAMILIES[family][0], *options)
    error = capsys.readouterr().err
    assert status == 2 and not out.exists() and len(error.splitlines()) == 1
    assert re.search(message, error), error


def two_scales():
    """A network that halves its input twice and adds what it doubles again: its sides are multiples of 4."""
    weight = numpy_helper.from_array(np.full((3, 3, 1, 1), .1, np.float32), 'w')
    nodes = [helper.make_node('Conv', ['images', 'w'], ['half'], strides=[2, 2]),
             helper.make_node('Conv', ['half', 'w'], ['quarter'], strides=[2, 2]),
             helper.make_node('Resize', ['quarter', '', 'twice'], ['again'], mode='nearest'),
             helper.make_node('Add', ['half', 'again'], ['sum']),
             helper.make_node('ReduceMean', ['sum'], ['mean'], keepdims=0),
             helper.make_node('Mul', ['mean', 'zero'], ['nothing']),
             helper.make_node('Add', ['table', 'nothing'], ['output0'])]
    constants = [weight, numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), 'twice'),
                 numpy_helper.from_array(np.array(0, np.float32), 'zero'),
                 numpy_helper.from_array(channels_first().astype(np.float32), 'table')]
    model = helper.make_model(helper.make_graph(
        nodes, 'g', [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 'height', 'width'])],
        [helper.make_tensor_value_info('output0', TensorProto.FLOAT, [1, 7, 40])], constants),
        opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 9
    helper.set_model_props(model, ultralytics())
    return model


def test_an_impossible_size_is_refused_with_the_multiple_it_needs(tmp_path, capsys):
    status, out = attach(tmp_path, two_scales(), '--size', '98x62')
    assert status == 2 and not out.exists()
    assert 'cannot take 98x62 px: its height and width must be multiples of 4, such as 100x64' in (
        capsys.readouterr().err)
    status, out = attach(tmp_path, two_scales(), '--size', '100x64')
    assert status == 0 and OnnxDetector.load(out).spec.input.hw == (64, 100)


@pytest.mark.parametrize('change, message', [
    (lambda m: m.graph.node.append(helper.make_node('Foo', ['images'], ['foo'], domain='org.none')),
     'needs operators of org.none, which'),
    (lambda m: m.graph.node.append(helper.make_node('NoSuchOp', ['images'], ['foo'])),
     'needs operator NoSuchOp of opset 17, which'),
    (lambda m: setattr(m.opset_import[0], 'version', 999), 'needs opset 999, which'),
    (lambda m: setattr(m, 'ir_version', 999), 'needs ONNX IR version 999, which'),
])
def test_what_onnxruntime_lacks_is_named(change, message, tmp_path, capsys):
    model = onnx.ModelProto()
    model.CopyFrom(FAMILIES['yolo11'][0])
    change(model)
    status, out = attach(tmp_path, model)
    error = capsys.readouterr().err
    assert status == 2 and message in error and len(error.splitlines()) == 1 and not out.exists()


def with_external_data(tmp_path, location='weights.bin'):
    path = tmp_path / 'foreign.onnx'
    model = onnx.ModelProto()
    model.CopyFrom(FAMILIES['yolo11'][0])
    onnx.save_model(model, str(path), save_as_external_data=True, location='weights.bin', size_threshold=0)
    if location != 'weights.bin':
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = location if entry.key == 'location' else entry.value
        onnx.save(model, str(path))
    return path


def test_external_data_are_taken_in(tmp_path):
    out = tmp_path / 'out' / 'described.onnx'
    out.parent.mkdir()
    assert main(['model', 'attach', str(with_external_data(tmp_path)), '--out', str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert len(OnnxDetector.load(out).detect(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).detections) == 2


@pytest.mark.parametrize('location', ['../weights.bin', '/etc/hostname', 'folder/weights.bin', 'absent.bin'])
def test_external_data_from_elsewhere_are_refused(location, tmp_path, capsys):
    path, out = with_external_data(tmp_path, location), tmp_path / 'described.onnx'
    assert main(['model', 'attach', str(path), '--out', str(out)]) == 2 and not out.exists()
    error = capsys.readouterr().err
    expected = 'no such model file' if location == 'absent.bin' else 'expected a file in its own folder'
    assert expected in error


def test_external_data_are_verified_when_a_model_is_loaded(tmp_path):
    """A file that keeps its weights beside it is loaded only with those that its metadata pin."""
    path = with_external_data(tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    spec = json.loads(ModelSpec.from_metadata(_described(tmp_path), 'x').to_metadata()['kd_perception.spec'])
    digest = hashlib.sha256((tmp_path / 'weights.bin').read_bytes()).hexdigest()
    for names, message in (({}, 'its weights lie in a file that its metadata do not name'),
                           ({'weights.bin': '0' * 64}, 'weights.bin: sha256 is .* expected 0000'),
                           ({'weights.bin': digest}, None)):
        helper.set_model_props(model, {'kd_perception.spec': json.dumps({**spec, 'external_data': names})})
        onnx.save(model, str(path))
        if message is None:
            assert len(OnnxDetector.load(path).detect(np.zeros((9, 9, 3), np.uint8)).detections) == 2
            continue
        with pytest.raises(ModelError, match=message):
            OnnxDetector.load(path)


def _described(tmp_path):
    folder = tmp_path / 'plain'
    folder.mkdir()
    _, out = attach(folder, FAMILIES['yolo11'][0])
    return {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}


def test_an_export_of_several_images_is_refused_by_its_batch(tmp_path, capsys):
    status, out = attach(tmp_path, graph({'output0': channels_first()}, shape=(4, 3, HEIGHT, WIDTH),
                                         metadata=ultralytics()))
    error = capsys.readouterr().err
    assert status == 2 and not out.exists() and len(error.splitlines()) == 1
    assert "input 'images' [4, 3, 64, 96] takes 4 images at once, expected 1: export it with batch 1" in error


def test_a_picture_shows_what_is_found(tmp_path, capsys):
    """Boxes drawn where the objects are; what is in doubt where nothing is sure."""
    status, out = attach(tmp_path, FAMILIES['yolox'][0])
    assert status == 0 and f'model check {out}' in capsys.readouterr().out
    image, picture = tmp_path / 'image.png', tmp_path / 'found.png'
    assert cv2.imwrite(str(image), np.full((HEIGHT, WIDTH, 3), 50, np.uint8))
    assert main(['model', 'check', str(out), '--images', str(image), '--out', str(picture)]) == 0
    assert 'found.png: 1 images; found 2 Car, 1 Pedestrian, 0 Cyclist' in capsys.readouterr().out
    drawn = np.abs(cv2.imread(str(picture)).astype(int) - 50).max(axis=2) > 20
    for x_min, y_min, x_max, y_max in BOXES.astype(int):
        edges = [drawn[y_min, x_min:x_max], drawn[y_max, x_min:x_max], drawn[y_min:y_max, x_min],
                 drawn[y_min:y_max, x_max]]
        assert all(edge.mean() > .8 for edge in edges)
    unsure = tmp_path / 'unsure'
    unsure.mkdir()
    status, out = attach(unsure, FAMILIES['yolox'][0], '--set', 'thresholds.score=0.95')
    assert main(['model', 'check', str(out), '--images', str(image), '--out', str(picture)]) == 0
    assert 'from score 0.05 on, since nothing reaches 0.95' in capsys.readouterr().out
    for words, message in ((['--images', str(tmp_path / 'none')], 'no such image or folder'),
                           (['--images', str(image), '--out', str(tmp_path / 'x.mov')], 'cannot be written')):
        assert main(['model', 'check', str(out), *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize('opset', [12, 14, 16, 18, 20, 22])
def test_opsets_of_the_last_years(opset, tmp_path, capsys):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f'this onnx writes opsets up to {onnx.defs.onnx_opset_version()}')
    model = onnx.ModelProto()
    model.CopyFrom(FAMILIES['yolo11'][0])
    model.opset_import[0].version = opset
    status, out = attach(tmp_path, model)
    assert status == 0, capsys.readouterr().err
    assert len(OnnxDetector.load(out).detect(np.zeros((9, 9, 3), np.uint8)).detections) == 2


@pytest.mark.parametrize('shapes, message', [
    ([(1, 3, 8, 12, 85), (1, 3, 4, 6, 85)], 'out0 .1, 3, 8, 12, 85., out1 .*raw anchors: export the model'),
    ([(1, 80, 16, 24), (1, 2, 16, 24)], 'of no known family: out0 .1, 80, 16, 24., .*describe it with'),
])
def test_outputs_that_nothing_is_known_of_are_named(shapes, message, tmp_path, capsys):
    status, out = attach(tmp_path, graph({f'out{i}': np.zeros(shape) for i, shape in enumerate(shapes)}))
    error = capsys.readouterr().err
    assert status == 2 and not out.exists() and len(error.splitlines()) == 1
    assert re.search(message, error), error
