# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The loss of YOLOv2, as Darknet's region layer computes it.

Redmon and Farhadi, 'YOLO9000', CVPR 2017, and https://github.com/pjreddie/darknet (src/region_layer.c): an
object belongs to the cell of its centre and to the anchor whose shape fits best. There it teaches the box
(squared errors of sigmoid(t_x), sigmoid(t_y), t_w, t_h, times 2 - the box's share of the image), the class
(cross entropy of the softmax) and the objectness (squared error to the IoU that the predicted box has,
times 5). All other objectness is drawn to 0, except where a predicted box overlaps an object by more than
0.6. Left out: Darknet's pull of all boxes to their anchors over the first 12 800 images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from kd_perception.training.losses.box_losses import pairwise_iou
from kd_perception.training.losses.detection_loss import ImageTargets
from kd_perception.training.networks.head_views import cell_grid

OBJECT_SCALE = 5.0
NO_OBJECT_SCALE = 1.0
CLASS_SCALE = 1.0
COORDINATE_SCALE = 1.0
IGNORE_IOU = 0.6


class YoloV2Loss:
    """
    Loss of a batch, averaged over its images.

    :param classes: number of classes.
    :param anchors_px: (width, height) of each anchor, px of the input; `stride`: px a cell.
    """

    def __init__(self, classes: int, anchors_px: Sequence[tuple[float, float]], stride: int):
        self.classes, self.stride = classes, stride
        self.anchors = torch.tensor(anchors_px, dtype=torch.float32)

    def __call__(self, levels: Sequence[torch.Tensor], targets: Sequence[ImageTargets],
                 pretrained: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """
        Return the terms by name, already weighted, and their sum as 'total'.

        Cells whose predicted box is centred in an ignored region, and whole images on which a class is
        not labelled, teach no absence.

        :param levels: the raw map (N, A * (5 + C), h, w), alone in a sequence.
        :param targets: one for each image.
        :param pretrained: not used; the parameter is there for the interface of `DetectionLoss`.
        """
        del pretrained
        (raw,) = levels
        count, height, width = len(raw), *raw.shape[-2:]
        anchors = self.anchors.to(raw.device) / self.stride
        cells = raw.reshape(count, len(anchors), 5 + self.classes, height * width).permute(0, 1, 3, 2)
        centres = cell_grid(height, width, raw.device) + cells[..., :2].sigmoid()
        # A bound far above any image keeps a wild prediction from overflowing.
        sizes = anchors[:, None] * cells[..., 2:4].clamp_max(10).exp()
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], -1) * self.stride
        sums: dict[str, torch.Tensor] = {}
        for i, target in enumerate(targets):
            terms = self._image(cells[i], boxes[i], centres[i] * self.stride, target, anchors, height, width)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + target.weight * value / count
        return {**sums, 'total': torch.stack(list(sums.values())).sum()}

    def _image(self, cells: torch.Tensor, boxes: torch.Tensor, centres: torch.Tensor, target: ImageTargets,
               anchors: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
        """Return the terms of one image; `cells` (A, h * w, 5 + C), `boxes` (A, h * w, 4) px."""
        objectness = cells[..., 4].sigmoid()
        quiet = self._background(boxes.detach(), centres.detach(), target)
        zero = cells.sum() * 0
        terms = {'box': zero, 'classes': zero, 'objectness': zero}
        if len(target.boxes):
            anchor, place, wanted, owner = self._assign(target, anchors, height, width)
            chosen = cells[anchor, place]
            truth = target.boxes[owner]
            area = (truth[:, 2:] - truth[:, :2]).prod(-1) / (height * width * self.stride ** 2)
            offsets = torch.cat([chosen[:, :2].sigmoid(), chosen[:, 2:4]], -1)
            terms['box'] = COORDINATE_SCALE * (
                (offsets - wanted).square().sum(-1) * (2 - area)).sum()
            terms['classes'] = CLASS_SCALE * functional.cross_entropy(
                chosen[:, 5:], target.classes[owner], reduction='sum')
            overlap = pairwise_iou(boxes[anchor, place].detach(), truth).diagonal()
            terms['objectness'] = OBJECT_SCALE * (objectness[anchor, place] - overlap).square().sum()
            quiet[anchor, place] = 0
        terms['objectness'] = terms['objectness'] + NO_OBJECT_SCALE * (objectness.square() * quiet).sum()
        return terms

    def _assign(self, target: ImageTargets, anchors: torch.Tensor, height: int, width: int
                ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Give each object its anchor and cell.

        :return: anchor (K,), place (K,), wanted sigmoid(t_x), sigmoid(t_y), t_w, t_h (K, 4), and the index
            (K,) of the object. Of two objects for one place the last one has it, as in Darknet.
        """
        centre = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2 / self.stride
        size = (target.boxes[:, 2:] - target.boxes[:, :2]).clamp_min(1e-3) / self.stride
        corner = torch.zeros_like(size)
        fit = pairwise_iou(torch.cat([corner, size], -1), torch.cat([torch.zeros_like(anchors), anchors], -1))
        anchor = fit.argmax(1)
        column = centre[:, 0].floor().clamp(0, width - 1)
        row = centre[:, 1].floor().clamp(0, height - 1)
        place = (row * width + column).long()
        inside = (centre - torch.stack([column, row], -1)).clamp(0, 1)
        wanted = torch.cat([inside, (size / anchors[anchor]).log()], -1)
        last = {(int(a), int(p)): i for i, (a, p) in enumerate(zip(anchor, place))}
        owner = torch.tensor(sorted(last.values()), device=anchor.device)
        return anchor[owner], place[owner], wanted[owner], owner

    @staticmethod
    def _background(boxes: torch.Tensor, centres: torch.Tensor, target: ImageTargets) -> torch.Tensor:
        """Return (A, h * w): 1 where the absence of an object is taught."""
        quiet = boxes.new_ones(boxes.shape[:2])
        if not bool(target.labelled.all()):
            return quiet * 0
        if len(target.boxes):
            overlap = pairwise_iou(boxes.reshape(-1, 4), target.boxes).amax(-1).reshape(quiet.shape)
            quiet[overlap > IGNORE_IOU] = 0
        for box in target.ignore_boxes:
            inside = (centres > box[:2]).all(-1) & (centres < box[2:]).all(-1)
            quiet[inside] = 0
        return quiet
