# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Regions for knowledge transfer, and the readers of heads that they come from."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from kd_perception.detection.decode import decode
from kd_perception.errors import TrainingError
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec
from kd_perception.training.distillation.regions import (
    confident_boxes,
    disagreements,
    fitting_level,
    foreground_mask,
    pool_regions,
    select_regions,
)
from kd_perception.training.networks.head_views import gfl_reader, HeadView, log_odds, yolov2_reader
from kd_perception.training.settings.distillation import RegionSettings


def view(scores, boxes):
    return HeadView(torch.tensor(scores).logit()[None, :, None], torch.tensor(boxes)[None])


SPREAD = [[0.0, 0.0, 0.2, 0.2], [0.3, 0.3, 0.5, 0.5], [0.31, 0.3, 0.51, 0.5], [0.6, 0.6, 0.9, 0.9]]


def test_confident_boxes_are_distinct_and_sorted():
    found = confident_boxes(view([0.2, 0.6, 0.9, 0.7], SPREAD), 0, 0.5, 10)
    assert torch.equal(found, torch.tensor([SPREAD[2], SPREAD[3]]))
    assert len(confident_boxes(view([0.2, 0.6, 0.9, 0.7], SPREAD), 0, 0.5, 1)) == 1
    assert confident_boxes(view([0.2] * 4, SPREAD), 0, 0.5, 10).shape == (0, 4)


def test_disagreements_take_the_box_of_who_sees_more():
    student = view([0.1, 0.9, 0.5, 0.3], [[0.0, 0.0, 0.1, 0.1]] * 2 + SPREAD[2:])
    teacher = view([0.8, 0.1, 0.5, 0.35], SPREAD)
    found = disagreements(student, teacher, 0, 0.2, 5)
    # The student's false alarm (0.8) ranks before the teacher's missed object (0.7).
    assert torch.allclose(found, torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.0, 0.0, 0.2, 0.2]]))
    assert len(disagreements(student, teacher, 0, 0.9, 5)) == 0


def test_select_regions_follows_the_settings():
    labelled = [torch.tensor([[0.1, 0.1, 0.4, 1.7], [0.5, 0.5, 0.5, 0.6]])]
    student, teacher = view([0.1] * 4, SPREAD), view([0.8, 0.1, 0.1, 0.45], SPREAD)

    def count(**changes):
        return len(select_regions(RegionSettings(1.0, **changes), labelled, student, teacher)[0])

    assert count(teacher_score=1.0, disagreements=0) == 1  # clipped; the empty one is dropped
    assert count(teacher_score=0.4, disagreements=0) == 3
    assert count(teacher_score=0.6, disagreements=0, ground_truth=False) == 1
    assert count(teacher_score=1.0, disagreements=8, ground_truth=False) == 2
    assert count(teacher_score=0.4, disagreements=8, max_regions=4) == 4
    (only,) = select_regions(RegionSettings(1.0, teacher_score=1.0, disagreements=0), labelled, None, None)
    assert only.max() <= 1


def test_mask():
    boxes = [torch.tensor([[0.0, 0.0, 0.5, 0.25], [0.98, 0.98, 0.99, 0.99]]), torch.zeros(0, 4)]
    mask = foreground_mask(boxes, 4, 8)
    expected = torch.zeros(2, 4, 8, dtype=torch.bool)
    expected[0, 0, :4] = True
    expected[0, 3, 7] = True  # smaller than a cell: the one at its centre
    assert torch.equal(mask, expected)


def test_pooling_samples_where_the_region_is():
    height, width = 8, 16
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    ramp = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None].repeat(2, 1, 1, 1)
    ramp[1] += 10
    boxes = [torch.tensor([[0.25, 0.25, 0.75, 0.5]]), torch.tensor([[0.1, 0.2, 0.5, 0.8]] * 2)]
    pooled = pool_regions(ramp, boxes, 4)
    assert pooled.shape == (3, 2, 4, 4)
    # A linear ramp is sampled exactly: each value is the position of its bin's centre.
    assert torch.allclose(pooled[0, 0, 0], 0.25 + 0.5 * (torch.arange(4) + 0.5) / 4, atol=1e-6)
    assert torch.allclose(pooled[0, 1, :, 0], 0.25 + 0.25 * (torch.arange(4) + 0.5) / 4, atol=1e-6)
    assert torch.allclose(pooled[1], pooled[2]) and (pooled[1] > 9).all()


def test_pooling_reads_nothing_outside_the_region():
    torch.manual_seed(0)
    features = torch.randn(1, 3, 8, 8)
    box = [torch.tensor([[0.25, 0.25, 0.75, 0.75]])]
    changed = features.clone()
    changed[:, :, 0] += 5
    changed[:, :, :, 7] += 5
    assert torch.equal(pool_regions(features, box, 3), pool_regions(changed, box, 3))
    changed[:, :, 4, 4] += 1
    assert not torch.equal(pool_regions(features, box, 3), pool_regions(changed, box, 3))


def test_level_follows_the_size():
    boxes = torch.tensor([[0.0, 0.0, 0.05, 0.05], [0.0, 0.0, 0.3, 0.3], [0.0, 0.0, 1.0, 1.0]])
    assert fitting_level(boxes, [(24, 80), (12, 40), (6, 20)], 5).tolist() == [0, 1, 2]


def decoded(spec, outputs, view_, threshold=0.3):
    found = decode([x.numpy() for x in outputs], spec, threshold)
    scores = view_.logits[0].sigmoid()
    places, classes = np.nonzero(scores.numpy() >= threshold)
    boxes = view_.boxes[0, places].numpy() * np.array([spec.input.width, spec.input.height] * 2)
    mine = np.column_stack([boxes, scores[places, classes].numpy(), classes])
    theirs = np.column_stack([found.boxes_xyxy, found.scores, found.class_ids])
    assert len(mine) == len(theirs) > 5
    order = [table[np.lexsort(table.round(2).T)] for table in (mine, theirs)]
    assert np.allclose(*order, atol=2e-2)


def test_gfl_reader_agrees_with_the_nodes_decoder():
    torch.manual_seed(0)
    spec = ModelSpec('m', ('a', 'b'), InputSpec(64, 96), DecoderSpec('gfl', (8, 16), 7))
    outputs = [torch.randn(1, 34, 64 // s, 96 // s) for s in (8, 16)]
    read = gfl_reader(('level_8', 'level_16'), 2, 7)
    view_ = read({'level_8': outputs[0], 'level_16': outputs[1]})
    assert view_.distributions.shape == (1, 96 + 24, 4, 8)
    decoded(spec, outputs, view_)
    with pytest.raises(TrainingError, match="no map 'level_8'"):
        read({'level_16': outputs[1]})
    with pytest.raises(TrainingError, match='expected 35 for 3 classes'):
        gfl_reader(('level_8',), 3, 7)({'level_8': outputs[0]})


def test_yolov2_reader_agrees_with_the_nodes_decoder():
    torch.manual_seed(1)
    anchors = ((20.0, 30.0), (60.0, 40.0))
    decoder = DecoderSpec('yolov2', (32,), anchors_px=anchors)
    spec = ModelSpec('m', ('a', 'b', 'c'), InputSpec(64, 96), decoder)
    output = torch.randn(1, 16, 2, 3) * 2
    view_ = yolov2_reader('level_32', 3, anchors, 32)({'level_32': output})
    assert view_.distributions is None
    decoded(spec, [output], view_, 0.15)


def test_log_odds():
    p = torch.tensor([1e-6, 0.2, 0.5, 0.999], dtype=torch.float64)
    assert torch.allclose(log_odds(p.log()), p.logit())
    assert torch.isfinite(log_odds(torch.zeros(1)))
