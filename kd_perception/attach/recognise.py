# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Which family a graph is of, by the names and shapes of its outputs and what its exporter wrote.

A rule looks at the outputs and returns a preset's name, the decoder's fields and the number of classes, or
None. The first that fits counts; what a graph cannot tell (colour, scale) is left to the preset or asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import itertools
from typing import Any

from kd_perception.attach.graph_facts import GraphFacts
from kd_perception.detection.decoders.gfl import cell_counts
from kd_perception.detection.graph_ports import Port
from kd_perception.models.decoder_spec import BOX_COLUMNS

STRIDE_SETS = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (8, 16), (4, 8, 16, 32), (8, 16, 32, 64, 128))
COCO, COCO_NUMBERS = 80, (90, 91)


@dataclasses.dataclass(frozen=True)
class Recognised:
    """
    A family.

    :param preset: of `config/model_presets`. :param decoder: fields of `DecoderSpec`.
    :param reason: what it was recognised by. :param classes: how many the head has; None where it does not
        tell. :param constants: of other inputs; a value 'height' or 'width' stands for the input's.
    :param by_number: class numbers are COCO's own, from 1 and with gaps.
    """

    preset: str
    decoder: dict[str, Any]
    reason: str
    classes: int | None = None
    constants: dict[str, tuple[float | str, ...]] = dataclasses.field(default_factory=dict)
    by_number: bool = False


def recognise(facts: GraphFacts, input_hw: tuple[int, int] | None) -> Recognised | None:
    """
    Return the family of a graph.

    :param input_hw: the input's size where it is known: places are counted with it.
    """
    for rule in _RULES:
        found = rule(facts, input_hw)
        if found is not None:
            return found
    return None


def image_port(facts: GraphFacts) -> Port | None:
    """Return the input that takes the image: the one of three or four axes, of which one has three values."""
    images = [port for port in facts.ports.inputs if len(port.shape) in (3, 4) and 3 in (
        port.shape[-1], port.shape[-3])]
    wide = [port for port in facts.ports.inputs if len(port.shape) == 4]
    images = images or wide
    return images[0] if len(images) == 1 else None


def _sizes(port: Port) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in port.shape)


def _named(facts: GraphFacts, *names: str) -> list[str] | None:
    """Return the outputs of these names, a number or a path around them aside; None unless all are there."""
    found = {port.name.split('/')[-1].split(':')[0].lower(): port.name for port in facts.ports.outputs}
    return [found[name] for name in names] if all(name in found for name in names) else None


def _port(facts: GraphFacts, name: str) -> Port:
    return next(port for port in facts.ports.outputs if port.name == name)


def _tensorflow(facts: GraphFacts, _: Any) -> Recognised | None:
    names = _named(facts, 'detection_boxes', 'detection_scores', 'detection_classes', 'num_detections')
    if names is None:
        return None
    roles = dict(zip(('boxes', 'scores', 'labels', 'count'), names))
    return Recognised('tensorflow', {'type': 'end_to_end', 'outputs': roles, 'box_format': 'yxyx',
                                     'box_units': 'normalised'}, 'outputs detection_boxes, ...',
                      by_number=True)


def _efficient_nms(facts: GraphFacts, _: Any) -> Recognised | None:
    names = _named(facts, 'det_boxes', 'det_scores', 'det_classes', 'num_dets') or _named(
        facts, 'det_boxes', 'det_scores', 'det_classes', 'num_detections')
    if names is None:
        return None
    roles = dict(zip(('boxes', 'scores', 'labels', 'count'), names))
    return Recognised('efficient_nms', {'type': 'end_to_end', 'outputs': roles},
                      'outputs num_dets, det_boxes, ...')


def _rtdetr(facts: GraphFacts, _: Any) -> Recognised | None:
    names = _named(facts, 'labels', 'boxes', 'scores')
    if names is None:
        return None
    roles = dict(zip(('labels', 'boxes', 'scores'), names))
    sizes = [port.name for port in facts.ports.inputs if port.name == 'orig_target_sizes']
    if sizes:
        return Recognised('rtdetr', {'type': 'end_to_end', 'outputs': roles},
                          'input orig_target_sizes, outputs labels, boxes, scores',
                          constants={sizes[0]: ('width', 'height')})
    return Recognised('torchvision', {'type': 'end_to_end', 'outputs': roles},
                      'outputs boxes, labels, scores', by_number=True)


def _transformers(facts: GraphFacts, _: Any) -> Recognised | None:
    names = _named(facts, 'pred_boxes', 'logits') or _named(facts, 'pred_boxes', 'pred_logits')
    if names is None:
        return None
    values = _sizes(_port(facts, names[1]))[-1]
    decoder: dict[str, Any] = {'type': 'detr', 'outputs': dict(zip(('boxes', 'scores'), names))}
    if values == COCO_NUMBERS[1] + 1:  # DETR itself: COCO's numbers and a last class for nothing
        decoder.update(activation='softmax', background='last')
        return Recognised('detr', decoder, 'outputs pred_boxes and 92 logits', COCO_NUMBERS[1],
                          by_number=True)
    return Recognised('detr', decoder, 'outputs pred_boxes, logits', values, by_number=values in COCO_NUMBERS)


def _dets_labels(facts: GraphFacts, _: Any) -> Recognised | None:
    names = _named(facts, 'dets', 'labels') or _named(facts, 'boxes', 'labels')
    if names is None or len(facts.ports.outputs) > 3:
        return None
    boxes, labels = (_port(facts, name) for name in names)
    if len(labels.shape) == 3 and _sizes(boxes)[-1] == 4:
        return Recognised('rfdetr', {'type': 'detr', 'outputs': {'boxes': names[0], 'scores': names[1]}},
                          'outputs dets and class logits', _sizes(labels)[-1], by_number=True)
    if _sizes(boxes)[-1] != 5:
        return None
    decoder = {'type': 'end_to_end', 'columns': (*BOX_COLUMNS, 'score'),
               'outputs': {'rows': names[0], 'labels': names[1]}}
    preset = 'intel' if facts.producer == 'OpenVINO' and 'ExperimentalDetectronROIFeatureExtractor' not in (
        facts.operators) else 'mmdetection'
    return Recognised(preset, decoder, f'outputs {names[0]} [N, 5] and {names[1]}')


def _paddle(facts: GraphFacts, _: Any) -> Recognised | None:
    extra = {port.name for port in facts.ports.inputs} & {'scale_factor', 'im_shape'}
    rows = [port for port in facts.ports.outputs if len(port.shape) == 2 and _sizes(port)[-1] == 6]
    if 'scale_factor' not in extra or len(rows) != 1:
        return None
    roles = {'rows': rows[0].name}
    roles.update(('count', port.name) for port in facts.ports.outputs if len(port.shape) == 1)
    constants = {'scale_factor': (1.0, 1.0), 'im_shape': ('height', 'width')}
    decoder = {'type': 'end_to_end', 'columns': ('class', 'score', *BOX_COLUMNS), 'outputs': roles}
    return Recognised('paddle', decoder, 'input scale_factor, output [N, 6]',
                      constants={name: constants[name] for name in extra})


def _detection_output(facts: GraphFacts, _: Any) -> Recognised | None:
    rows = [port for port in facts.ports.outputs if len(port.shape) == 4 and _sizes(port)[-1] == 7]
    if len(facts.ports.outputs) != 1 or not rows:
        return None
    columns = ('image', 'class', 'score', *BOX_COLUMNS)
    preset = 'intel' if facts.producer == 'OpenVINO' else 'detection_output'
    return Recognised(preset, {'type': 'end_to_end', 'columns': columns, 'box_units': 'normalised',
                               'outputs': {'rows': rows[0].name}}, 'output [1, 1, N, 7] of DetectionOutput')


def _levels(facts: GraphFacts, input_hw: tuple[int, int] | None) -> Recognised | None:
    """PicoDet: for each stride scores (1, N, C) and distributions (1, N, 4 bins)."""
    shapes = {port.name: _sizes(port) for port in facts.ports.outputs}
    half = len(shapes) // 2
    if input_hw is None or half < 2 or len(shapes) != 2 * half or any(
            len(s) != 3 or None in s[1:] for s in shapes.values()):
        return None
    ordered = sorted(shapes, key=lambda name: -shapes[name][1])
    counts = [shapes[name][1] for name in ordered[::2]]
    strides = _strides(counts, input_hw)
    last = {shapes[name][2] for name in shapes}
    if strides is None or len(last) != 2 or any(
            shapes[a][1] != shapes[b][1] for a, b in zip(ordered[::2], ordered[1::2])):
        return None
    first_is_scores = shapes[next(iter(shapes))][2]
    bins = next(size for size in last if size != first_is_scores)
    if bins % 4:
        return None
    roles = {f'{part}_{stride}': next(name for name in shapes if shapes[name][1:] == (count, size))
             for part, size in (('scores', first_is_scores), ('distances', bins))
             for stride, count in zip(strides, counts)}
    return Recognised('picodet', {'type': 'gfl', 'arrangement': 'rows', 'strides': strides, 'outputs': roles,
                                  'activation': 'none', 'reg_max': bins // 4 - 1},
                      f'{half} levels of class scores and box distributions', first_is_scores)


def _strides(counts: Sequence[int], input_hw: tuple[int, int]) -> tuple[int, ...] | None:
    return next((s for s in STRIDE_SETS if list(counts) == cell_counts(s, input_hw)), None)


def _one_table(facts: GraphFacts, input_hw: tuple[int, int] | None) -> Recognised | None:
    """Families with one output of three axes, which may stand beside maps that are not needed."""
    tables = [port for port in facts.ports.outputs if len(port.shape) == 3]
    if len(facts.ports.outputs) != 1 or not tables:
        return _rows_of_seven(facts)
    name, (_, second, third) = tables[0].name, _sizes(tables[0])
    if third == 6 and (second is None or second <= 1000):
        return Recognised('yolo_end_to_end', {'type': 'end_to_end', 'outputs': {'rows': name}},
                          'output [1, N, 6]')
    ours = _from_ultralytics(facts)
    places = None if input_hw is None else {s: sum(cell_counts(s, input_hw)) for s in STRIDE_SETS}
    if second is not None and (third is None or second < third) and 4 < second:
        return Recognised('ultralytics' if ours else 'yolo', {
            'type': 'yolo', 'arrangement': 'channels_first', 'outputs': {'predictions': name}},
            f'output [1, {second}, {third or "N"}]', second - 4)
    if third is None or third <= 5:
        return None
    return _channels_last(facts, name, second, third, places, ours)


def _channels_last(facts: GraphFacts, name: str, count: int | None, values: int,
                   places: dict[tuple[int, ...], int] | None, ours: bool) -> Recognised | None:
    strides = next((s for s, n in (places or {}).items() if n == count), None)
    table = {'outputs': {'predictions': name}}
    if strides is not None and _is_gfl(values, facts):
        return Recognised('nanodet', {'type': 'gfl', 'strides': strides, 'arrangement': 'table', 'reg_max': 7,
                                      **table},
                          f'output [1, {count}, C + 4 x 8], a distribution a side', values - 32)
    reason = f'output [1, {count or "N"}, {values}]'
    if strides is not None and not ours:
        if 'Exp' in facts.operators:
            return Recognised('yolox', {'type': 'yolo', 'arrangement': 'channels_last', 'objectness': True,
                                        **table},
                              f'{reason}, one place a cell, boxes decoded (Exp)', values - 5)
        return Recognised('yolox', {'type': 'yolox', 'strides': strides, **table},
                          f'{reason}, one place a cell, boxes not decoded', values - 5)
    return Recognised('ultralytics' if ours else 'yolo', {
        'type': 'yolo', 'arrangement': 'channels_last', 'objectness': True, **table}, reason, values - 5)


def _is_gfl(values: int, facts: GraphFacts) -> bool:
    return values - 32 in (COCO, 1, 3) and 'Exp' not in facts.operators


def _from_ultralytics(facts: GraphFacts) -> bool:
    return 'Ultralytics' in facts.metadata.get('author', '') or {'names', 'stride'} <= set(facts.metadata)


def _rows_of_seven(facts: GraphFacts) -> Recognised | None:
    """(N, 7): YOLOv7 with NMS puts the class before the score, YOLO-NAS after it."""
    rows = [port for port in facts.ports.outputs if len(port.shape) == 2 and _sizes(port)[-1] == 7]
    if len(facts.ports.outputs) != 1 or not rows:
        return None
    order = ('score', 'class') if rows[0].name.startswith('graph') else ('class', 'score')
    family = 'YOLO-NAS' if order[0] == 'score' else 'YOLOv7'
    return Recognised('yolo_end_to_end', {
        'type': 'end_to_end', 'columns': ('image', *BOX_COLUMNS, *order), 'outputs': {'rows': rows[0].name}},
        f'output [N, 7]; {order[0]} before {order[1]}, as in {family}')


def _ssd(facts: GraphFacts, _: Any) -> Recognised | None:
    priors = [port for port in facts.ports.outputs
              if 'prior' in port.name.lower() or 'anchor' in port.name.lower()]
    others = [port for port in facts.ports.outputs if port not in priors and len(port.shape) == 3]
    if len(priors) != 1 or len(others) != 2:
        return None
    others.sort(key=lambda port: _sizes(port)[-1] != 4)
    values = _sizes(others[1])[-1]
    return Recognised('ssd', {'type': 'ssd', 'outputs': {
        'boxes': others[0].name, 'scores': others[1].name, 'priors': priors[0].name}},
        'outputs of box offsets, class values and priors', None if values is None else values - 1)


def _boxes_scores(facts: GraphFacts, _: Any) -> Recognised | None:
    """Two outputs (1, N, 4) and (1, N, C) of one length."""
    ports = list(facts.ports.outputs)
    for boxes, scores in itertools.permutations(ports, 2) if len(ports) == 2 else ():
        if len(boxes.shape) == len(scores.shape) == 3 and _sizes(boxes)[-1] == 4 and (
                _sizes(boxes)[1] == _sizes(scores)[1]):
            return Recognised('boxes_scores', {
                'type': 'boxes_scores', 'outputs': {'boxes': boxes.name, 'scores': scores.name}},
                f'outputs {boxes.name} [1, N, 4] and {scores.name} [1, N, C]', _sizes(scores)[-1])
    return None


_RULES: tuple[Callable[[GraphFacts, Any], Recognised | None], ...] = (
    _tensorflow, _efficient_nms, _rtdetr, _transformers, _paddle, _dets_labels, _detection_output, _levels,
    _ssd, _boxes_scores, _one_table)
