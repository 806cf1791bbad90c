# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Exports with the heads of well-known families are attached, and find what the families' own rules find.

The networks have random weights: what they find means nothing, and every place of their heads is used. The
expected boxes are computed from the raw maps, place by place (`export_heads`).
"""


import re

import cv2
import numpy as np
import pytest

from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector

onnx = pytest.importorskip('onnx', reason='graphs are built with onnx')
from onnxruntime import InferenceSession

import export_heads as heads
from export_heads import CLASSES, Graph, HEIGHT, QUERIES, WIDTH

NAMES = ('person', 'car', 'truck', 'bus', 'train')
LABELS = {'person': 'Pedestrian', 'car': 'Car', 'truck': 'Truck', 'bus': 'Bus'}
MAPS = ['--map', 'truck=Truck', '--map', 'bus=Bus']     # trains are left out
V5_METADATA = {'names': str(dict(enumerate(NAMES))), 'stride': '32'}
ULTRALYTICS = {**V5_METADATA, 'author': 'Ultralytics', 'task': 'detect'}
THRESHOLD = 0.2


def table(head, boxes_of, **options):
    """A family with one output."""
    def build(g, image):
        *raws, output = head(g, g.maps(image), **options)
        return raws, {'output0': (output, 'f')}
    return build, boxes_of


def detr(values, scores_of, names=('pred_boxes', 'logits')):
    def build(g, image):
        raw, boxes, logits = heads.queries(g, g.maps(image), values)
        return [raw], {names[1]: (logits, 'f'), names[0]: (boxes, 'f')}
    return build, lambda raws: heads.query_boxes(raws[0], scores_of)


def sigmoid_queries(raws):
    return heads.query_boxes(raws[0], heads.sigmoid)


def rtdetr_ultralytics(g, image):
    raw, boxes, logits = heads.queries(g, g.maps(image), CLASSES)
    return [raw], {'output0': (g.op('Concat', boxes, g.op('Sigmoid', logits), axis=2), 'f')}


def rtdetr_deployed(g, image):
    """Its own post-processor: the best (query, class) pairs, boxes in px of `orig_target_sizes`."""
    raw, boxes, logits = heads.queries(g, g.maps(image), CLASSES)
    scores = g.shaped(g.op('Sigmoid', logits), 1, -1)
    best, places = g.op('TopK', scores, np.array([QUERIES], np.int64), outputs=2)
    query = g.op('Unsqueeze', g.op('Div', places, np.array(CLASSES, np.int64)), np.array([2], np.int64))
    of_pair = g.op('Expand', query, np.array([1, 1, 4], np.int64))
    centre, half = g.part(boxes, 0, 2, 2), g.f('Div', g.part(boxes, 2, 4, 2), 2)
    boxes = g.op('Concat', g.op('Sub', centre, half), g.op('Add', centre, half), axis=2)
    size = g.op('Unsqueeze', 'orig_target_sizes', np.array([1], np.int64))
    size = g.op('Cast', size, to=onnx.TensorProto.FLOAT)
    boxes = g.op('Mul', g.op('GatherElements', boxes, of_pair, axis=1), g.op('Concat', size, size, axis=2))
    return [raw], {'labels': (g.op('Mod', places, np.array(CLASSES, np.int64)), 'i'),
                   'boxes': (boxes, 'f'), 'scores': (best, 'f')}


def ssd(decoded):
    """With its priors as an output, or decoded with background and logits."""
    def build(g, image):
        raw, _, logits = heads.queries(g, g.maps(image), CLASSES + 1)
        offsets = g.part(raw, 0, 4, 2)
        priors = heads.PRIORS[None].astype(np.float32)
        if not decoded:
            return [raw], {'loc': (offsets, 'f'), 'conf': (g.op('Softmax', logits, axis=2), 'f'),
                           'priors': (g.op('Identity', priors), 'f')}
        scaled = g.f('Mul', offsets, heads.VARIANCES)
        centre = g.op('Add', g.op('Mul', g.part(scaled, 0, 2, 2), priors[..., 2:]), priors[..., :2])
        half = g.f('Div', g.op('Mul', g.op('Exp', g.part(scaled, 2, 4, 2)), priors[..., 2:]), 2)
        boxes = g.op('Concat', g.op('Sub', centre, half), g.op('Add', centre, half), axis=2)
        return [raw], {'scores': (g.op('Softmax', logits, axis=2), 'f'), 'boxes': (boxes, 'f')}
    return build, lambda raws: heads.ssd_boxes(raws[0])


def best(boxes_of):
    return lambda raws: heads.best_pairs(boxes_of(raws))


# family: builder and oracle, fit, colour, divisor, metadata of the exporter, what the user must say
SCALE, BGR = ['--scale', '0-1'], ['--scale', '0-255', '--color', 'bgr']
V5, V8 = ('centre', 'rgb', 255, {}, SCALE), ('centre', 'rgb', 255, ULTRALYTICS, [])
ROWS = {'arrangement': 'channels_last'}
EXPORTS = {
    'yolov5': (table(heads.yolov5, heads.yolov5_boxes), *V5),
    'yolov5 official': (table(heads.yolov5, heads.yolov5_boxes), *V5[:3], V5_METADATA, []),
    'yolov5 normalised': (table(heads.yolov5, heads.yolov5_boxes, units='normalised'), *V5),
    'yolov6': (table(heads.yolov8, heads.yolov8_boxes, obj=True, **ROWS), *V5),
    'yolov8': (table(heads.yolov8, heads.yolov8_boxes), *V8),
    'yolov8 transposed': (table(heads.yolov8, heads.yolov8_boxes, **ROWS), *V5),
    'yolov8 normalised': (table(heads.yolov8, heads.yolov8_boxes, units='normalised'), *V8),
    'yolov8 corners': (table(heads.yolov8, heads.yolov8_boxes, box='xyxy'), *V8),
    'yolov10': (table(heads.yolov10, best(heads.yolov8_boxes)), *V8),
    'yolox': (table(heads.yolox, heads.yolox_boxes), 'top_left', 'bgr', 1, {}, []),
    'yolox decoded': (table(heads.yolox, heads.yolox_boxes, decoded=True), 'top_left', 'bgr', 1, {}, []),
    'nanodet': (table(heads.nanodet, heads.nanodet_boxes), 'centre', 'bgr',
                np.array([57.375, 57.12, 58.395]), {}, []),
    'detr': (detr(CLASSES + 1, heads.softmax_without_last), 'stretch', 'rgb', 255, {}, SCALE),
    'rt-detr by transformers': (detr(CLASSES, heads.sigmoid), 'stretch', 'rgb', 255, {}, SCALE),
    'rt-detr by ultralytics': ((rtdetr_ultralytics, sigmoid_queries), 'stretch', 'rgb', 255, {
        **ULTRALYTICS, 'description': 'Ultralytics rtdetr-l'}, []),
    'rt-detr deployed': ((rtdetr_deployed, best(sigmoid_queries)), 'stretch', 'rgb', 255, {}, []),
    'ssd with priors': (ssd(decoded=False), 'stretch', 'bgr', 1, {}, BGR),
    'ssd decoded': (ssd(decoded=True), 'stretch', 'bgr', 1, {}, [
        *BGR, '--set', 'decoder.background=first', '--set', 'input.fit=stretch']),
}


def export(family, kind='f', layout='NCHW', batch=1, dynamic=False):
    """Return the export, and a model that gives its raw maps for a float tensor (1, 3, H, W)."""
    (build, _), _, _, divisor, metadata, _ = EXPORTS[family]
    raw_graph = Graph(7)
    raws, _ = build(raw_graph, 'images')
    side = {'orig_target_sizes': ('i', [1, 2])} if 'deployed' in family else {}
    raw = raw_graph.model({'images': ('f', [1, 3, HEIGHT, WIDTH]), **side},
                          {f'raw{i}': (value, 'f') for i, value in enumerate(raws)})
    g, x = Graph(7), 'images'
    if kind != 'f':
        x = g.op('Cast', x, to=onnx.TensorProto.FLOAT)
    if layout == 'NHWC':
        x = g.op('Transpose', x, perm=[0, 3, 1, 2])
    if kind == 'u':     # such graphs scale by themselves
        x = g.f('Div', x, divisor)
    _, outputs = build(g, x)
    if kind == 'h':
        outputs = {name: (g.op('Cast', value, to=onnx.TensorProto.FLOAT16), 'h')
                   for name, (value, _) in outputs.items()}
    height, width = ('height', 'width') if dynamic else (HEIGHT, WIDTH)
    shape = {'NCHW': [batch, 3, height, width], 'NHWC': [batch, height, width, 3]}[layout]
    model = g.model({'images': (kind, shape), **side}, outputs, metadata)
    return model if dynamic else onnx.shape_inference.infer_shapes(model), raw


def expected(family, raw, image):
    """Label, score and box (px of the image) of each candidate, by the family's own rules."""
    (_, boxes_of), fit, color, divisor, _, _ = EXPORTS[family]
    canvas = np.full((HEIGHT, WIDTH, 3), 0 if family == 'nanodet' else 114, np.uint8)
    top, scale_y = {'centre': (16, 1), 'top_left': (0, 1), 'stretch': (0, 2)}[fit]
    canvas[top:top + 32 * scale_y] = cv2.resize(image, (96, 32 * scale_y))
    canvas = canvas[..., ::-1] if color == 'rgb' else canvas
    mean = [103.53, 116.28, 123.675] if family == 'nanodet' else 0
    tensor = ((canvas.astype(np.float32) - mean) / divisor).transpose(2, 0, 1)[None].astype(np.float32)
    session = InferenceSession(raw.SerializeToString())
    feeds = {each.name: tensor if each.name == 'images' else np.array([[WIDTH, HEIGHT]])
             for each in session.get_inputs()}
    found = []
    for box, scores in boxes_of([value[0].astype(float) for value in session.run(None, feeds)]):
        x_min, y_min, x_max, y_max = np.array(box, float)
        ys = np.clip((np.array([y_min, y_max]) - top) / scale_y, 0, 32)
        xs = np.clip([x_min, x_max], 0, 96)
        if np.ptp(xs) > 0 and np.ptp(ys) > 0:
            found += [(LABELS[NAMES[i]], score, (xs[0], ys[0], xs[1], ys[1]))
                      for i, score in enumerate(scores) if score >= THRESHOLD and NAMES[i] in LABELS]
    return found


def attach(tmp_path, model, *options):
    (tmp_path / 'names.txt').write_text('\n'.join(NAMES))
    source, out = tmp_path / 'export.onnx', tmp_path / 'out.onnx'
    onnx.save(model, str(source))
    return main(['model', 'attach', str(source), '--out', str(out), *options]), out


def check(family, tmp_path, capsys, model, raw, tolerance=2e-3, more=()):
    metadata, options = EXPORTS[family][4:]
    names = [] if metadata else ['--names', str(tmp_path / 'names.txt')]
    status, out = attach(tmp_path, model, *names, *MAPS, *options, *more)
    said = capsys.readouterr()
    assert status == 0, said.err
    detector = OnnxDetector.load(out)
    image = np.random.default_rng(11).integers(0, 256, (32, 96, 3), dtype=np.uint8)
    found = detector.detect(image, THRESHOLD, nms_iou=1.0, max_detections=10000).detections
    labels = detector.spec.labels
    assert set(labels) == set(LABELS.values())
    ours = [(labels[i], score, box) for i, score, box in zip(
        found.class_ids, found.scores, found.boxes_xyxy)]
    theirs = expected(family, raw, image)
    assert len(theirs) >= 5, 'a network that finds nothing tests nothing'
    near = [entry for entry in theirs if abs(entry[1] - THRESHOLD) < tolerance]
    assert abs(len(ours) - len(theirs)) <= len(near)
    for label, score, box in theirs:
        if score > THRESHOLD + tolerance:
            assert any(own == label and abs(s - score) < tolerance and np.abs(b - box).max() < 100 * tolerance
                       for own, s, b in ours), (label, score, box)


@pytest.mark.parametrize('family', EXPORTS)
def test_a_family_finds_what_its_own_rules_find(family, tmp_path, capsys):
    check(family, tmp_path, capsys, *export(family))


@pytest.mark.parametrize('kind, layout', [('f', 'NHWC'), ('h', 'NCHW'), ('u', 'NHWC'), ('u', 'NCHW')])
@pytest.mark.parametrize('family', ['yolov8', 'rt-detr deployed', 'ssd with priors'])
def test_any_type_and_layout_of_the_input(family, kind, layout, tmp_path, capsys):
    """Bytes, half and single floats, channels first or last; half floats come out, too."""
    check(family, tmp_path, capsys, *export(family, kind, layout), tolerance=0.02 if kind == 'h' else 2e-3)


@pytest.mark.parametrize('family', ['yolov5', 'yolov8', 'yolox', 'nanodet', 'detr'])
def test_open_sizes_are_those_that_the_user_names(family, tmp_path, capsys):
    """An export that takes any batch and size says less: one run shows the rest."""
    model, raw = export(family, batch='batch', dynamic=True)
    check(family, tmp_path, capsys, model, raw, more=['--size', f'{WIDTH}x{HEIGHT}'])


@pytest.mark.parametrize('family, options, message', [
    ('yolov5', [], r'holds no class names, and output output0 has 10 values a place: give --names FILE '
     r'\(a box and 6 classes, or a box, an objectness and 5 classes'),
    ('yolov8 transposed', ['--names', 'two.txt'], 'output output0 has 9 values a place, which 2 class names '
     'do not explain: a box and 5 classes, or'),
    ('ssd decoded', ['--names', 'names.txt'], 'output scores has 6 values a place, for 5 class names: say '
     'where the background stands, --set decoder.background=first or last'),
    ('detr', ['--names', 'two.txt'], 'holds 2 names, the network has 6 classes'),
])
def test_what_shapes_do_not_tell_is_asked_for(family, options, message, tmp_path, capsys):
    (tmp_path / 'two.txt').write_text('car\nperson\n')
    options = [str(tmp_path / each) if each.endswith('.txt') else each for each in options]
    status, out = attach(tmp_path, export(family)[0], *options, '--scale', '0-1', '--color', 'rgb')
    error = capsys.readouterr().err
    assert status == 2 and not out.exists() and len(error.splitlines()) == 1
    assert re.search(message, error), error


def test_a_network_for_masks_or_poses_is_no_detector(tmp_path, capsys):
    model, _ = export('yolov8')
    onnx.helper.set_model_props(model, {**ULTRALYTICS, 'task': 'pose'})
    status, out = attach(tmp_path, model)
    assert status == 2 and not out.exists()
    assert "its metadata say task 'pose', expected a detector" in capsys.readouterr().err


def test_a_layout_that_no_size_tells_is_a_guess_that_the_user_can_mend(tmp_path, capsys):
    model, raw = export('yolov8', layout='NHWC', batch='batch', dynamic=True)
    channels = model.graph.input[0].type.tensor_type.shape.dim[3]
    channels.Clear()
    channels.dim_param = 'channels'
    size = ['--size', f'{WIDTH}x{HEIGHT}']
    status, out = attach(tmp_path, model, *MAPS, *size)
    assert status == 2 and not out.exists(), 'taken as NCHW it does not run'
    capsys.readouterr()
    check('yolov8', tmp_path, capsys, model, raw, more=[*size, '--set', 'input.layout=NHWC'])
