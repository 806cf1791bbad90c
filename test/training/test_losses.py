# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Box decoding, assignment and losses."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')

from kd_perception.boxes.overlap import box_iou
from kd_perception.detection.decode import decode
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec
from kd_perception.training.losses.assigner import assign
from kd_perception.training.losses.box_losses import (
    distribution_focal_loss,
    flatten_levels,
    giou_loss,
    pairwise_iou,
)
from kd_perception.training.losses.detection_loss import (
    DetectionLoss,
    ImageTargets,
    soft_focal_loss,
    varifocal_loss,
)
from kd_perception.training.settings.run import LossSettings

STRIDES, BINS = (8, 16, 32, 64), 8


def _levels(classes=3, hw=(64, 128), seed=0, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    shapes = [(1, classes + 4 * BINS, -(-hw[0] // s), -(-hw[1] // s)) for s in STRIDES]
    return [scale * torch.randn(shape, generator=rng) for shape in shapes]


def _targets(boxes, classes, ignore=(), ignore_classes=(), labelled=(True, True, True), **kwargs):
    values = {'weight': 1.0, 'distil': 1.0, **kwargs}
    return ImageTargets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                        torch.tensor(classes, dtype=torch.long),
                        torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
                        torch.tensor(ignore_classes, dtype=torch.bool).reshape(-1, 3),
                        torch.tensor(labelled), **values)


def test_torch_and_numpy_decoders_agree():
    levels = _levels()
    flat = flatten_levels(levels, STRIDES, 3, BINS - 1)
    spec = ModelSpec('m', ('a', 'b', 'c'), InputSpec(64, 128), DecoderSpec('gfl', STRIDES, BINS - 1))
    found = decode([level.numpy() for level in levels], spec, 1e-6)
    scores = flat.logits[0].sigmoid().numpy()
    assert len(found) == scores.size
    for class_id in range(3):  # scores differ from one another, so they put both in the same order
        theirs = found.select(found.class_ids == class_id).by_score()
        order = np.argsort(-scores[:, class_id], kind='stable')
        np.testing.assert_allclose(theirs.scores, scores[order, class_id], atol=1e-5)
        np.testing.assert_allclose(theirs.boxes_xyxy, flat.boxes[0].numpy()[order], atol=1e-2)


def test_pairwise_iou_is_the_projects_iou():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (2, 20, 2))
    a, b = (np.concatenate([c, c + rng.uniform(1, 40, (20, 2))], 1) for c in corners)
    ours = pairwise_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(ours, box_iou(a, b), atol=1e-9)


def test_giou_loss_known_values():
    same = torch.tensor([[0., 0., 10., 10.]])
    apart = torch.tensor([[20., 0., 30., 10.]])
    assert giou_loss(same, same).item() == pytest.approx(0)
    # No overlap; hull 30x10 of which 200 is covered: 1 + 100/300.
    assert giou_loss(same, apart).item() == pytest.approx(1 + 1 / 3)


def test_distribution_loss_is_least_at_the_two_neighbouring_bins():
    distances = torch.full((1, 4), 2.25)
    best = torch.full((1, 4, BINS), -30.0)
    best[..., 2], best[..., 3] = np.log(0.75), np.log(0.25)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert distribution_focal_loss(best, distances).item() == pytest.approx(entropy, abs=1e-4)
    flat = distribution_focal_loss(torch.zeros(1, 4, BINS), distances).item()
    assert flat == pytest.approx(np.log(BINS), abs=1e-4)


def test_varifocal_weighs_negatives_by_their_score():
    logits = torch.tensor([-4.0, 0.0, 4.0])
    loss = varifocal_loss(logits, torch.zeros(3))
    p = logits.sigmoid()
    torch.testing.assert_close(loss, 0.75 * p ** 2 * torch.nn.functional.softplus(logits))
    assert varifocal_loss(torch.tensor([30.0]), torch.tensor([1.0])).item() == pytest.approx(0, abs=1e-6)


def test_soft_focal_is_zero_only_at_agreement():
    targets = torch.tensor([0.1, 0.5, 0.9])
    assert soft_focal_loss(torch.logit(targets), targets).abs().max() < 1e-8
    assert (soft_focal_loss(torch.logit(targets) + 1, targets) > 1e-3).all()


def _assign(boxes, classes, scores=None, predicted=None, top_k=10):
    flat = flatten_levels(_levels(scale=0.0), STRIDES, 3, BINS - 1)
    count = len(flat.points)
    return flat, assign(torch.full((count, 3), 0.1) if scores is None else scores,
                        flat.boxes[0] if predicted is None else predicted, flat.points, flat.strides,
                        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                        torch.tensor(classes, dtype=torch.long), BINS - 1, top_k, 1.0, 6.0)


def test_positives_lie_inside_their_object():
    boxes = [[4., 4., 60., 40.], [70., 10., 90., 60.]]
    flat, found = _assign(boxes, [0, 1])
    for i, box in enumerate(boxes):
        points = flat.points[found.object_index == i]
        assert 1 <= len(points) <= 10
        assert (points > torch.tensor(box[:2])).all() and (points < torch.tensor(box[2:])).all()
    assert (found.target[found.object_index < 0] == 0).all()
    assert (found.target[found.object_index >= 0] >= 0.05).all()


def test_object_smaller_than_a_cell_gets_one_point():
    flat, found = _assign([[17., 17., 19., 19.]], [2])
    (index,) = torch.nonzero(found.object_index >= 0)[:, 0].tolist()
    assert flat.strides[index] == 8 and (flat.points[index] - 18).abs().max() <= 4


def test_level_that_cannot_reach_the_edges_is_not_used():
    flat, found = _assign([[0., 0., 128., 64.]], [0])
    assert (flat.strides[found.object_index >= 0] > 8).all()


def test_no_objects_gives_background():
    _, found = _assign([], [])
    assert (found.object_index == -1).all() and (found.target == 0).all()


def test_best_predicted_point_gets_its_iou_as_target():
    box = [16., 8., 72., 56.]
    flat, _ = _assign([box], [0])
    predicted = flat.boxes[0].clone()
    inside = ((flat.points > torch.tensor(box[:2])) & (flat.points < torch.tensor(box[2:]))).all(1)
    best = torch.nonzero(inside & (flat.strides == 16))[0, 0]
    predicted[best] = torch.tensor(box)
    _, found = _assign([box], [0], predicted=predicted)
    assert found.target[best] == pytest.approx(1.0, abs=1e-5) and found.target.argmax() == best


def _loss(levels, target, distilled=(), pretrained=None, pair=None):
    return DetectionLoss(LossSettings(), 3, STRIDES, BINS - 1, distilled, pair)(levels, [target], pretrained)


def test_unlabelled_classes_and_ignored_regions_cost_nothing():
    levels = _levels(seed=3)
    everything = _loss(levels, _targets([], []))['classes']
    assert _loss(levels, _targets([], [], labelled=(False,) * 3))['total'] == 0
    assert _loss(levels, _targets([], [], [[0., 0., 999., 999.]], [[True] * 3]))['total'] == 0
    # A region ignored for class 0 only takes exactly that class's share away.
    part = _loss(levels, _targets([], [], [[0., 0., 999., 999.]], [[True, False, False]]))['classes']
    only = _loss(levels, _targets([], [], labelled=(False, True, True)))['classes']
    assert part == only and 0 < part < everything


def test_positive_in_an_ignored_region_still_learns():
    levels = _levels(seed=4, scale=0.1)
    box = [[16., 8., 72., 56.]]
    losses = _loss(levels, _targets(box, [1], [[0., 0., 999., 999.]], [[True] * 3]))
    assert losses['box'] > 0 and losses['classes'] > 0


def test_gradient_step_on_one_image_lowers_the_loss():
    levels = [level.requires_grad_() for level in _levels(seed=5, scale=0.1)]
    target = _targets([[16., 8., 72., 56.], [90., 20., 100., 50.]], [0, 1])
    optimiser = torch.optim.Adam(levels, 0.05)
    first = None
    for _ in range(60):
        losses = _loss(levels, target)
        first = first if first is not None else losses['total'].item()
        optimiser.zero_grad()
        losses['total'].backward()
        optimiser.step()
    assert losses['total'].item() < 0.5 * first
    flat = flatten_levels([level.detach() for level in levels], STRIDES, 3, BINS - 1)
    best = flat.logits[0][:, 0].argmax()
    assert pairwise_iou(flat.boxes[0][best][None], target.boxes[:1]).item() > 0.7


def test_distillation_teaches_only_its_classes_and_spares_riders():
    levels = _levels(seed=6)
    flat = flatten_levels(levels, STRIDES, 3, BINS - 1)
    view = flat.logits.sigmoid().clone()
    view[..., 2] = 1 - view[..., 2]  # class 2 disagrees wildly but is not taught
    nothing = _targets([], [], labelled=(False,) * 3)
    assert _loss(levels, nothing, (0, 1), view)['distil'] == pytest.approx(0, abs=1e-6)
    view[..., 1] = 1 - view[..., 1]
    assert _loss(levels, nothing, (0, 1), view)['distil'] > 0.01
    rider = _targets([[-1., -1., 999., 999.]], [2], labelled=(False,) * 3)
    assert _loss(levels, rider, (0, 1), view, (2, 1))['distil'] == pytest.approx(0, abs=1e-6)
    assert _loss(levels, rider, (0, 1), view)['distil'] > 0.01
