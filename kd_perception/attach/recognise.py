# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Which family a graph is of, by the names and shapes of its outputs and what its exporter wrote.

A rule looks at the outputs and returns a preset's name, the decoder's fields and the number of classes, or
None. The first that fits counts; what a graph cannot tell (colour, scale) is left to the preset or asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import itertools
from typing import Any

from kd_perception.attach.family import COCO_NUMBERS, Recognised, Seen, sizes, STRIDE_SETS
from kd_perception.attach.tables import one_table
from kd_perception.detection.decoders.gfl import cell_counts
from kd_perception.errors import ConfigError
from kd_perception.models.decoder_spec import BOX_COLUMNS


def recognise(seen: Seen) -> Recognised | None:
    """
    Return the family of a graph; None where it is of none that is known.

    :raises ConfigError: it may be of several, and the message says what tells them apart.
    """
    for rule in _RULES:
        found = rule(seen)
        if found is not None:
            return found
    return None


def _tensorflow(seen: Seen) -> Recognised | None:
    names = seen.named('detection_boxes', 'detection_scores', 'detection_classes', 'num_detections')
    if names is None:
        return None
    roles = dict(zip(('boxes', 'scores', 'labels', 'count'), names))
    return Recognised('tensorflow', {'type': 'end_to_end', 'outputs': roles, 'box_format': 'yxyx',
                                     'box_units': 'normalised'}, 'outputs detection_boxes, ...',
                      by_number=True)


def _efficient_nms(seen: Seen) -> Recognised | None:
    names = seen.named('det_boxes', 'det_scores', 'det_classes', 'num_dets') or seen.named(
        'det_boxes', 'det_scores', 'det_classes', 'num_detections')
    if names is None:
        return None
    roles = dict(zip(('boxes', 'scores', 'labels', 'count'), names))
    return Recognised('efficient_nms', {'type': 'end_to_end', 'outputs': roles},
                      'outputs num_dets, det_boxes, ...')


def _rtdetr(seen: Seen) -> Recognised | None:
    names = seen.named('labels', 'boxes', 'scores')
    if names is None:
        return None
    roles = dict(zip(('labels', 'boxes', 'scores'), names))
    asked = [port.name for port in seen.facts.ports.inputs if port.name == 'orig_target_sizes']
    if asked:
        return Recognised('rtdetr', {'type': 'end_to_end', 'outputs': roles},
                          'input orig_target_sizes, outputs labels, boxes, scores',
                          constants={asked[0]: ('width', 'height')})
    return Recognised('torchvision', {'type': 'end_to_end', 'outputs': roles},
                      'outputs boxes, labels, scores', by_number=True)


def _transformers(seen: Seen) -> Recognised | None:
    names = seen.named('pred_boxes', 'logits') or seen.named('pred_boxes', 'pred_logits')
    if names is None:
        return None
    values = sizes(seen.port(names[1]))[-1]
    decoder: dict[str, Any] = {'type': 'detr', 'outputs': dict(zip(('boxes', 'scores'), names))}
    if values == COCO_NUMBERS[1] + 1:  # DETR itself: COCO's numbers and a last class for nothing
        decoder.update(activation='softmax', background='last')
        return Recognised('detr', decoder, 'outputs pred_boxes and 92 logits', COCO_NUMBERS[1],
                          by_number=True)
    if values is not None and seen.names == values - 1:
        decoder.update(activation='softmax', background='last')
        return Recognised('detr', decoder, f'outputs pred_boxes, {values} logits for {seen.names} classes',
                          seen.names)
    return Recognised('detr', decoder, 'outputs pred_boxes, logits', values,
                      by_number=values in COCO_NUMBERS)


def _dets_labels(seen: Seen) -> Recognised | None:
    names = seen.named('dets', 'labels') or seen.named('boxes', 'labels')
    if names is None or len(seen.outputs) > 3:
        return None
    boxes, labels = (seen.port(name) for name in names)
    if len(labels.shape) == 3 and sizes(boxes)[-1] == 4:
        return Recognised('rfdetr', {'type': 'detr', 'outputs': {'boxes': names[0], 'scores': names[1]}},
                          'outputs dets and class logits', sizes(labels)[-1], by_number=True)
    if sizes(boxes)[-1] != 5:
        return None
    decoder = {'type': 'end_to_end', 'columns': (*BOX_COLUMNS, 'score'),
               'outputs': {'rows': names[0], 'labels': names[1]}}
    two_stages = 'ExperimentalDetectronROIFeatureExtractor' in seen.facts.operators
    preset = 'intel' if seen.facts.producer == 'OpenVINO' and not two_stages else 'mmdetection'
    return Recognised(preset, decoder, f'outputs {names[0]} [N, 5] and {names[1]}')


def _paddle(seen: Seen) -> Recognised | None:
    extra = {port.name for port in seen.facts.ports.inputs} & {'scale_factor', 'im_shape'}
    rows = [port for port in seen.outputs if len(port.shape) == 2 and sizes(port)[-1] == 6]
    if 'scale_factor' not in extra or len(rows) != 1:
        return None
    roles = {'rows': rows[0].name}
    roles.update(('count', port.name) for port in seen.outputs if len(port.shape) == 1)
    constants = {'scale_factor': (1.0, 1.0), 'im_shape': ('height', 'width')}
    decoder = {'type': 'end_to_end', 'columns': ('class', 'score', *BOX_COLUMNS), 'outputs': roles}
    return Recognised('paddle', decoder, 'input scale_factor, output [N, 6]',
                      constants={name: constants[name] for name in extra})


def _detection_output(seen: Seen) -> Recognised | None:
    rows = [port for port in seen.outputs if len(port.shape) == 4 and sizes(port)[-1] == 7]
    if len(seen.outputs) != 1 or not rows:
        return None
    columns = ('image', 'class', 'score', *BOX_COLUMNS)
    preset = 'intel' if seen.facts.producer == 'OpenVINO' else 'detection_output'
    return Recognised(preset, {'type': 'end_to_end', 'columns': columns, 'box_units': 'normalised',
                               'outputs': {'rows': rows[0].name}}, 'output [1, 1, N, 7] of DetectionOutput')


def _levels(seen: Seen) -> Recognised | None:
    """PicoDet: for each stride scores (1, N, C) and distributions (1, N, 4 bins)."""
    shapes = {port.name: sizes(port) for port in seen.outputs}
    half = len(shapes) // 2
    if half < 2 or len(shapes) != 2 * half or any(
            len(s) != 3 or None in s[1:] for s in shapes.values()):
        return None
    ordered = sorted(shapes, key=lambda name: -shapes[name][1])
    counts = [shapes[name][1] for name in ordered[::2]]
    strides = _strides(counts, seen.input_hw)
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


def _ssd(seen: Seen) -> Recognised | None:
    priors = [port for port in seen.outputs
              if 'prior' in port.name.lower() or 'anchor' in port.name.lower()]
    others = [port for port in seen.outputs if port not in priors and len(port.shape) == 3]
    if len(priors) != 1 or len(others) != 2:
        return None
    others.sort(key=lambda port: sizes(port)[-1] != 4)
    values = sizes(others[1])[-1]
    return Recognised('ssd', {'type': 'ssd', 'outputs': {
        'boxes': others[0].name, 'scores': others[1].name, 'priors': priors[0].name}},
        'outputs of box offsets, class values and priors', None if values is None else values - 1)


def _boxes_scores(seen: Seen) -> Recognised | None:
    """Two outputs (1, N, 4) and (1, N, C) of one length."""
    if len(seen.outputs) != 2 or any(len(port.shape) != 3 for port in seen.outputs):
        return None
    fits = [(boxes, scores) for boxes, scores in itertools.permutations(seen.outputs, 2)
            if sizes(boxes)[-1] == 4 and sizes(boxes)[1] == sizes(scores)[1]]
    if len(fits) == 2:  # four classes: the shapes do not tell, the names may
        fits = [(boxes, scores) for boxes, scores in fits
                if any(part in boxes.name.lower() for part in ('box', 'loc', 'bbox', 'reg'))
                and not any(part in scores.name.lower() for part in ('box', 'loc', 'bbox', 'reg'))]
        if not fits and 'outputs' not in seen.told:
            first, second = (port.name for port in seen.outputs)
            raise ConfigError(
                f'{seen.facts.path}: outputs {first} and {second} have both 4 values a place; say which '
                f'are the boxes: --set "decoder.outputs={{boxes: {first}, scores: {second}}}"')
    if not fits:
        return None
    (boxes, scores), values = fits[0], sizes(fits[0][1])[-1]
    decoder = {'type': 'boxes_scores', 'outputs': {'boxes': boxes.name, 'scores': scores.name}}
    if 'background' in seen.told:
        values = None if values is None else values - (seen.told['background'] != 'none')
    elif values is not None and seen.names == values - 1:
        raise ConfigError(f'{seen.facts.path}: output {scores.name} has {values} values a place, for '
                          f'{seen.names} class names: say where the background stands, '
                          '--set decoder.background=first or last')
    return Recognised('boxes_scores', decoder,
                      f'outputs {boxes.name} [1, N, 4] and {scores.name} [1, N, C]', values)


_RULES: tuple[Callable[[Seen], Recognised | None], ...] = (
    _tensorflow, _efficient_nms, _rtdetr, _transformers, _paddle, _dets_labels, _detection_output, _levels,
    _ssd, _boxes_scores, one_table)
