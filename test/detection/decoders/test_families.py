# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Each family's outputs, written from known boxes by an encoder of its own, give these boxes back."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.config import from_mapping, to_mapping
from kd_perception.detection.decode import decode, output_shapes, shape_fits
from kd_perception.models.decoder_spec import BOX_COLUMNS, DecoderSpec
from kd_perception.models.spec import InputSpec, ModelSpec

HEIGHT, WIDTH, CLASSES = 64, 96, 3
SIZE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], dtype=np.float64)
STRIDES = (8, 16)


def cxcywh(boxes):
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def one_hot(truth, off=0.0, columns=CLASSES):
    scores = np.full((len(truth['class']), columns), off)
    scores[np.arange(len(scores)), truth['class']] = truth['score']
    return scores


def log_odds(p):
    return np.log(p / (1 - p))


def boxes_scores(truth, box_format):
    boxes = truth['boxes']
    forms = {'xyxy': boxes, 'cxcywh': cxcywh(boxes), 'yxyx': boxes[:, [1, 0, 3, 2]],
             'xywh': np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)}
    return [forms[box_format][None], one_hot(truth)[None]], {'box_format': box_format}


def detr_sigmoid(truth):
    return [(cxcywh(truth['boxes'] / SIZE))[None], log_odds(one_hot(truth, 1e-6))[None]], {}


def detr_softmax(truth):
    scores = one_hot(truth, 1e-6, CLASSES + 1)
    scores[:, -1] = 1 - scores[:, :-1].sum(1)
    shift = np.arange(len(scores))[:, None]     # a softmax does not see what is added to a whole row
    return [(cxcywh(truth['boxes'] / SIZE))[None], np.log(scores)[None] + shift], {
        'activation': 'softmax', 'background': 'last'}


def yolo_first(truth):
    return [np.concatenate([cxcywh(truth['boxes']), one_hot(truth)], 1).T[None]], {}


def yolo_normalised(truth):
    rows = np.concatenate([cxcywh(truth['boxes'] / SIZE), one_hot(truth)], 1)
    return [rows[None]], {'arrangement': 'channels_last', 'box_units': 'normalised'}


def yolo_objectness(truth):
    root = np.sqrt(truth['score'])[:, None]
    rows = np.concatenate([cxcywh(truth['boxes']), root, one_hot(truth) / root], 1)
    return [rows[None]], {'arrangement': 'channels_last', 'objectness': True}


def cells(strides, rounding):
    for stride in strides:
        for row in range(rounding(HEIGHT, stride)):
            for column in range(rounding(WIDTH, stride)):
                yield stride, row, column


def yolox(truth):
    table = np.zeros((0, 5 + CLASSES))
    wanted = list(zip(cxcywh(truth['boxes']), truth['score'], truth['class']))
    for place, (stride, row, column) in enumerate(cells(STRIDES, lambda a, b: a // b)):
        values = np.zeros(5 + CLASSES)
        if place % 9 == 4 and wanted:
            box, score, class_id = wanted.pop()
            values[:2] = box[:2] / stride - [column, row]
            values[2:4] = np.log(box[2:] / stride)
            values[4], values[5 + class_id] = np.sqrt(score), np.sqrt(score)
        table = np.concatenate([table, values[None]])
    return [table[None]], {'strides': STRIDES}


def end_to_end(truth, columns, **facts):
    fields = {**dict(zip(('x_min', 'y_min', 'x_max', 'y_max'), truth['boxes'].T)), 'score': truth['score'],
              'class': truth['class'], 'image': np.zeros(len(truth['class']))}
    rows = np.stack([fields[name] for name in columns], axis=1)
    return [rows[None]], {'columns': columns, **facts}


def detection_output(truth):
    (rows,), facts = end_to_end({**truth, 'boxes': truth['boxes'] / SIZE}, (
        'image', 'class', 'score', 'x_min', 'y_min', 'x_max', 'y_max'), box_units='normalised')
    end = np.array([[[-1, 0, 0, 0, 0, 0, 0], [0, 1, .9, .1, .1, .9, .9]]])   # what follows the end is rubbish
    return [np.concatenate([rows, end], axis=1)[None]], facts


def rows_and_labels(truth):
    (rows,), _ = end_to_end(truth, ('x_min', 'y_min', 'x_max', 'y_max', 'score'))
    return [rows[0], truth['class']], {'columns': ('x_min', 'y_min', 'x_max', 'y_max', 'score'),
                                       'outputs': {'rows': 'boxes', 'labels': 'labels'}}


def tensorflow(truth):
    spare = 2                                                                # beyond the count: rubbish
    boxes = np.concatenate([truth['boxes'][:, [1, 0, 3, 2]] / SIZE[[1, 0, 3, 2]], np.ones((spare, 4))])
    scores, classes = (np.append(truth[name], [.9] * spare) for name in ('score', 'class'))
    return [boxes[None], scores[None], classes[None], np.array([len(boxes) - spare])], {
        'box_format': 'yxyx', 'box_units': 'normalised', 'outputs': {
            'boxes': 'detection_boxes', 'scores': 'detection_scores', 'labels': 'detection_classes',
            'count': 'num_detections'}}


def ssd(truth, variances_inside):
    count = len(truth['class'])
    priors = np.random.default_rng(0).uniform([.1, .1, .6, .6], [.4, .4, .9, .9], (count, 4))
    variances = np.array([.1, .1, .2, .2])
    wanted, prior = cxcywh(truth['boxes'] / SIZE), cxcywh(priors)
    offsets = np.concatenate([(wanted[:, :2] - prior[:, :2]) / prior[:, 2:],
                              np.log(wanted[:, 2:] / prior[:, 2:])], 1) / variances
    scores = np.concatenate([np.full((count, 1), .5), one_hot(truth)], 1)
    caffe = np.stack([priors.ravel(), np.tile(variances, count)])[None]
    return [offsets[None], scores[None], caffe if variances_inside else prior[None]], {}


def gfl(truth, arrangement):
    bins, low = 16, -20.0
    scores, distances = [], []
    wanted = list(zip(truth['boxes'], truth['score'], truth['class']))
    for stride, row, column in cells(STRIDES, lambda a, b: -(-a // b)):
        values, sides = np.full(CLASSES, low), np.full((4, bins), low)
        point = np.array([column, row] * 2) + .5
        inside = [i for i, (box, *_) in enumerate(wanted) if (box[:2] < point[:2] * stride).all()
                  and (point[2:] * stride < box[2:]).all()]
        if inside:
            box, score, class_id = wanted.pop(inside[0])
            values[class_id] = log_odds(score)
            for side, distance in enumerate((point - box / stride) * [1, 1, -1, -1]):
                below = int(np.clip(np.floor(distance), 0, bins - 2))
                share = np.clip(distance - below, 1e-9, 1 - 1e-9)
                sides[side, below:below + 2] = np.log([1 - share, share])
        scores.append(values)
        distances.append(sides.ravel())
    assert not wanted or np.isnan(wanted[0][0]).any()
    scores, distances = np.array(scores), np.array(distances)
    facts = {'strides': STRIDES, 'reg_max': bins - 1, 'arrangement': arrangement}
    if arrangement == 'table':
        return [np.concatenate([scores, distances], 1)[None]], facts
    cut = (HEIGHT // 8) * (WIDTH // 8)
    sigmoids = 1 / (1 + np.exp(-scores))
    return [part[None] for table in (sigmoids, distances) for part in (table[:cut], table[cut:])], {
        **facts, 'activation': 'none'}


FAMILIES = {
    **{f'boxes_scores {name}': ('boxes_scores', lambda truth, name=name: boxes_scores(truth, name))
       for name in ('xyxy', 'cxcywh', 'xywh', 'yxyx')},
    'detr sigmoid': ('detr', detr_sigmoid), 'detr softmax': ('detr', detr_softmax),
    'yolo (1, 4 + C, N)': ('yolo', yolo_first), 'yolo shares (1, N, 4 + C)': ('yolo', yolo_normalised),
    'yolo objectness': ('yolo', yolo_objectness), 'yolox': ('yolox', yolox),
    'yolov10': ('end_to_end', lambda t: end_to_end(t, (*BOX_COLUMNS, 'score', 'class'))),
    'paddle': ('end_to_end', lambda t: end_to_end(t, ('class', 'score', *BOX_COLUMNS))),
    'yolov7 nms': ('end_to_end', lambda t: end_to_end(t, ('image', *BOX_COLUMNS, 'class', 'score'))),
    'DetectionOutput': ('end_to_end', detection_output), 'mmdetection': ('end_to_end', rows_and_labels),
    'tensorflow': ('end_to_end', tensorflow),
    'ssd priors': ('ssd', lambda t: ssd(t, False)), 'ssd caffe priors': ('ssd', lambda t: ssd(t, True)),
    'nanodet table': ('gfl', lambda t: gfl(t, 'table')), 'picodet rows': ('gfl', lambda t: gfl(t, 'rows')),
}


@st.composite
def truths(draw):
    """At most six boxes of sides that every head can say, each with a class and a score."""
    count = draw(st.integers(0, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corners = random.uniform([10, 5, 55, 40], [40, 20, 90, 60], (count, 4))
    return {'boxes': corners, 'score': random.uniform(.3, .99, count),
            'class': random.integers(0, CLASSES, count)}


def table(boxes, scores, classes):
    found = np.column_stack([boxes, scores, classes])
    return found[np.argsort(-found[:, 4])]


@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize('family', FAMILIES)
@given(truth=truths(), threshold=st.floats(.05, .95))
def test_known_boxes_come_back(family, truth, threshold):
    truth['score'][np.abs(truth['score'] - threshold) < 1e-3] = .2   # rounding may decide these either way
    kind, encode = FAMILIES[family]
    outputs, facts = encode(truth)
    decoder = DecoderSpec(kind, **facts)
    assert from_mapping(DecoderSpec, to_mapping(decoder), 'metadata') == decoder
    spec = ModelSpec('m', ('a', 'b', 'c'), InputSpec(HEIGHT, WIDTH), decoder)
    outputs = [np.asarray(output, np.int64 if output.dtype.kind == 'i' else np.float32) for output in outputs]
    shapes = output_shapes(spec)
    assert len(shapes) == len(outputs)
    assert all(shape_fits(output.shape, shape) for output, shape in zip(outputs, shapes.values()))
    found = decode(outputs, spec, threshold)
    kept = truth['score'] >= threshold
    assert np.allclose(table(found.boxes_xyxy, found.scores, found.class_ids),
                       table(truth['boxes'][kept], truth['score'][kept], truth['class'][kept]), atol=2e-3)


@pytest.mark.parametrize('family', FAMILIES)
def test_values_that_are_not_finite_give_no_candidate(family):
    truth = {'boxes': np.full((3, 4), np.nan), 'score': np.full(3, .9), 'class': np.array([0, 1, 2])}
    with np.errstate(all='ignore'):
        kind, encode = FAMILIES[family]
        try:
            outputs, facts = encode(truth)
        except ValueError:      # this encoder cannot write such a box
            return
        spec = ModelSpec('m', ('a', 'b', 'c'), InputSpec(HEIGHT, WIDTH), DecoderSpec(kind, **facts))
        assert len(decode([np.asarray(output, np.float32) for output in outputs], spec, .1)) == 0


@pytest.mark.parametrize('facts, message', [
    ({'type': 'yolo', 'outputs': {'boxes': 'x'}}, 'yolo has no part'),
    ({'type': 'yolo', 'background': 'last'}, 'background is given with'),
    ({'type': 'end_to_end', 'outputs': {'boxes': 'b'}}, 'nothing gives score'),
    ({'type': 'end_to_end', 'columns': ('x_min', 'y_min', 'x_max', 'y_max')}, 'nothing gives score'),
    ({'type': 'boxes_scores', 'objectness': True}, 'objectness is given with yolo'),
    ({'type': 'yolox'}, 'strides are given with yolox'),
    ({'type': 'gfl', 'strides': (8,), 'arrangement': 'channels_first'}, 'arrangement: gfl takes'),
    ({'type': 'detr', 'outputs': {'boxes': 'x', 'scores': 'x'}}, 'names must differ'),
])
def test_contradictions_are_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        DecoderSpec(**facts)


def test_outputs_that_disagree_are_refused():
    spec = ModelSpec('m', ('a', 'b', 'c'), InputSpec(HEIGHT, WIDTH), DecoderSpec('end_to_end', outputs={
        'boxes': 'boxes', 'scores': 'scores', 'labels': 'labels'}))
    with pytest.raises(ValueError, match='disagree on the number of detections: .*score 2'):
        decode([np.zeros((3, 4)), np.zeros(2), np.zeros(3)], spec, .1)
