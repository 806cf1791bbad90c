# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""YOLOv2's loss against the region layer's definition, and that it teaches what the decoder reads."""

import math

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from kd_perception.detection.decode import decode
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec
from kd_perception.training.losses.detection_loss import ImageTargets
from kd_perception.training.losses.yolov2_loss import YoloV2Loss

ANCHORS = ((20.0, 30.0), (60.0, 40.0))
LOSS = YoloV2Loss(3, ANCHORS, 32)
SHAPE = (1, 2 * 8, 2, 3)  # two anchors, three classes, 64x96 px


def target(boxes=(), classes=(), ignore=(), labelled=(True, True, True), weight=1.0):
    return ImageTargets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                        torch.tensor(classes, dtype=torch.long),
                        torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
                        torch.ones(len(ignore), 3, dtype=torch.bool), torch.tensor(labelled), weight, 1.0)


OBJECTS = target([[10, 12, 28, 46], [40, 8, 90, 56]], [2, 0])


def loop_loss(raw, found):
    """Darknet's region layer, object by object and cell by cell, in float64."""
    cells = raw.detach().double().numpy().reshape(2, 8, 2, 3)

    def box_of(a, row, column):
        t = cells[a, :, row, column]
        x, y = (column + 1 / (1 + math.exp(-t[0]))) * 32, (row + 1 / (1 + math.exp(-t[1]))) * 32
        w, h = ANCHORS[a][0] * math.exp(t[2]), ANCHORS[a][1] * math.exp(t[3])
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2

    def iou(p, q):
        w = max(0, min(p[2], q[2]) - max(p[0], q[0]))
        h = max(0, min(p[3], q[3]) - max(p[1], q[1]))
        union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - w * h
        return w * h / union

    truths = found.boxes.tolist()
    taken, box_term, class_term, object_term = set(), 0, 0, 0
    for truth, class_id in zip(truths, found.classes.tolist()):
        w, h = truth[2] - truth[0], truth[3] - truth[1]
        x, y = (truth[0] + truth[2]) / 2 / 32, (truth[1] + truth[3]) / 2 / 32
        a = max(range(2), key=lambda k: iou((0, 0, w, h), (0, 0, *ANCHORS[k])))
        row, column = int(y), int(x)
        t = cells[a, :, row, column]
        taken.add((a, row, column))
        wanted = (x - column, y - row, math.log(w / ANCHORS[a][0]), math.log(h / ANCHORS[a][1]))
        given = (1 / (1 + math.exp(-t[0])), 1 / (1 + math.exp(-t[1])), t[2], t[3])
        box_term += (2 - w * h / (64 * 96)) * sum((g - v) ** 2 for g, v in zip(given, wanted))
        class_term += math.log(sum(math.exp(v) for v in t[5:])) - t[5 + class_id]
        object_term += 5 * (1 / (1 + math.exp(-t[4])) - iou(box_of(a, row, column), truth)) ** 2
    for a, row, column in np.ndindex(2, 2, 3):
        if (a, row, column) not in taken and all(iou(box_of(a, row, column), q) <= 0.6 for q in truths):
            object_term += (1 / (1 + math.exp(-cells[a, 4, row, column]))) ** 2
    return box_term, class_term, object_term


@pytest.mark.parametrize('seed', range(6))
def test_agrees_with_the_region_layer(seed):
    raw = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    terms = LOSS([raw], [OBJECTS])
    found = [float(terms[name]) for name in ('box', 'classes', 'objectness')]
    assert found == pytest.approx(loop_loss(raw, OBJECTS), rel=1e-4)
    assert float(terms['total']) == pytest.approx(sum(found), rel=1e-5)


def test_learning_it_gives_the_boxes_back():
    """Descend on a free map: the node's decoder then finds the objects, and nothing else."""
    torch.manual_seed(0)
    raw = torch.zeros(SHAPE, requires_grad=True)
    optimiser = torch.optim.Adam([raw], 0.1)
    for _ in range(400):
        optimiser.zero_grad()
        LOSS([raw], [OBJECTS])['total'].backward()
        optimiser.step()
    decoder = DecoderSpec('yolov2', (32,), anchors_px=ANCHORS)
    spec = ModelSpec('m', ('a', 'b', 'c'), InputSpec(64, 96), decoder)
    found = decode([raw.detach().numpy()], spec, 0.5)
    order = np.argsort(found.boxes_xyxy[:, 0])
    assert found.class_ids[order].tolist() == [2, 0]
    assert np.allclose(found.boxes_xyxy[order], OBJECTS.boxes.numpy(), atol=1.5)


def test_what_is_not_known_teaches_no_absence():
    raw = torch.full(SHAPE, 2.0)
    everything = float(LOSS([raw], [target()])['total'])
    assert everything == pytest.approx(12 / (1 + math.exp(-2)) ** 2, rel=1e-5)
    assert float(LOSS([raw], [target(labelled=(True, False, True))])['total']) == 0
    # Predicted centres lie at 0.88 of a cell: one cell of each anchor falls into this region.
    part = float(LOSS([raw], [target(ignore=[[20, 20, 31, 31]])])['total'])
    assert part == pytest.approx(everything * 10 / 12, rel=1e-5)
    assert float(LOSS([raw], [target(weight=0.25)])['total']) == pytest.approx(everything / 4)


def test_objects_at_the_edge_and_on_one_place():
    crowd = target([[90, 58, 102, 70], [10, 10, 30, 40], [12, 11, 31, 41]], [0, 1, 2])
    raw = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    terms = LOSS([raw], [crowd])
    terms['total'].backward()
    assert torch.isfinite(terms['total']) and torch.isfinite(raw.grad).all()
    # The last of two objects for one place has it.
    alone = LOSS([raw], [target([[90, 58, 102, 70], [12, 11, 31, 41]], [0, 2])])
    assert float(terms['classes'].detach()) == pytest.approx(float(alone['classes'].detach()))


def test_batches_are_averaged():
    raw = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    one = LOSS([raw], [OBJECTS])
    two = LOSS([torch.cat([raw, raw])], [OBJECTS, OBJECTS])
    assert all(float(two[name]) == pytest.approx(float(one[name]), rel=1e-5) for name in one)
