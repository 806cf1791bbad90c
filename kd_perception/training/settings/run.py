# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The training configuration: what a file under config/training may say."""

from __future__ import annotations

import dataclasses
from typing import Literal

from kd_perception.training.settings.activations import ActivationSettings
from kd_perception.training.settings.binarization import BinarizationSettings
from kd_perception.training.settings.distillation import DistillationSettings
from kd_perception.training.settings.network import NetworkSettings


def _share(owner: str, **values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f'{owner}.{name}: expected 0 to 1, got {value}')


@dataclasses.dataclass(frozen=True)
class DatasetSettings:
    """
    One set of labelled images under the data root, and how far to trust it.

    The folder holds `images/<name>.jpg|png` and `label_2/<name>.txt` (KITTI object text).

    :param split: a key of `<data root>/splits.json` under the folder's name, or 'all'.
    :param train_below: images whose name hashes (see `datasets.hash_fraction`) below this are
        trained on; the others are held out.
    :param develop: the held-out images serve as development set (choices are made on them);
        otherwise they are never opened.
    :param develop_below: of the held-out images only those that hash below this; the rest is never opened.
    :param labelled: classes that are labelled throughout, so that their absence is background.
    :param complete: False adds the pretrained network's confident detections to the labels and
        leaves its uncertain ones out of the loss.
    :param verify: classes whose boxes count only where the pretrained network agrees (weak or noisy
        labels); the others are left out of the loss.
    :param ignore: label type -> classes that must not be penalised inside its boxes. A type that is
        also one of our classes is then ignored too.
    :param riders_over: a Pedestrian that overlaps a label of these types rides something that is
        none of our classes (a motorcycle): ignored.
    :param share: part of the training samples drawn from this set, relative to the other sets.
    :param weight: factor of the supervised loss.
    :param distil: factor of the self-distillation loss.
    :param width_px: range of the width that the whole image is scaled to before cropping.
    """

    folder: str
    width_px: tuple[int, int]
    labelled: tuple[str, ...] = ('Car', 'Pedestrian', 'Cyclist')
    split: str = 'all'
    train_below: float = 1.0
    develop: bool = False
    develop_below: float = 1.0
    complete: bool = True
    verify: tuple[str, ...] = ()
    ignore: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    riders_over: tuple[str, ...] = ()
    share: float = 1.0
    weight: float = 1.0
    distil: float = 1.0
    licence: str = ''

    def __post_init__(self):
        """Check ranges."""
        _share(self.folder, train_below=self.train_below, develop_below=self.develop_below)
        if not 0 < self.width_px[0] <= self.width_px[1] <= 8192:
            raise ValueError(f'{self.folder}.width_px: expected 0 < low <= high <= 8192, got {self.width_px}')
        if min(self.share, self.weight, self.distil) < 0:
            raise ValueError(f'{self.folder}: share, weight and distil must not be negative')


@dataclasses.dataclass(frozen=True)
class InitSettings:
    """
    Where the weights start.

    :param kind: 'picodet_onnx' reads the published PicoDet-S file (given with `--init`); 'model' goes on from
        a network trained before (`--start`): a checkpoint, or a model file of this package (PicoDet-S, or the
        plain network by `unfold`); 'random' needs none.
    :param class_rows: for 'picodet_onnx', the COCO row that each of our labels starts from.
    """

    kind: Literal['picodet_onnx', 'model', 'random'] = 'picodet_onnx'
    class_rows: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PasteSettings:
    """
    Copies of people and riders, shrunk and laid over training crops (see `cutouts`).

    :param probability: of a crop to get copies; 0 turns it off.
    :param classes: of which objects are cut out, from all training images; each is drawn as often.
    :param most: copies a crop.
    :param height_px: range of a copy's height, in px of the crop, drawn log-uniformly.
    :param source_height_px: least height of an object to cut out, in px of its image.
    """

    probability: float = 0.0
    classes: tuple[str, ...] = ('Pedestrian', 'Cyclist')
    most: int = 3
    height_px: tuple[float, float] = (15.0, 60.0)
    source_height_px: float = 48.0

    def __post_init__(self):
        """Check ranges."""
        _share('augmentation.paste', probability=self.probability)
        if self.most < 1 or not 4 <= self.height_px[0] <= self.height_px[1] or self.source_height_px < 12:
            raise ValueError('augmentation.paste: expected most >= 1, 4 <= low <= high in height_px and '
                             'source_height_px >= 12')


@dataclasses.dataclass(frozen=True)
class AugmentationSettings:
    """
    Random changes of a training image; probabilities in 0..1.

    :param around_object: of a crop to be cut around one of the image's objects.
    :param prefer: classes that this object is drawn from where the image has any, with probability
        `preference`.
    """

    flip: float = 0.5
    around_object: float = 0.7
    prefer: tuple[str, ...] = ()
    preference: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    gamma: float = 0.3
    saturation: float = 0.3
    hue_deg: float = 6.0
    grey: float = 0.05
    blur: float = 0.1
    noise: float = 0.1
    min_visible: float = 0.35
    min_height_px: float = 8.0
    paste: PasteSettings = PasteSettings()

    def __post_init__(self):
        """Check ranges."""
        _share('augmentation', flip=self.flip, around_object=self.around_object, grey=self.grey,
               preference=self.preference,
               blur=self.blur, noise=self.noise, min_visible=self.min_visible,
               brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """Factors of the loss terms (PicoDet's own by default) and of the assigner (TOOD's)."""

    classes: float = 1.0
    box: float = 2.0
    distribution: float = 0.25
    distil: float = 0.5
    top_k: int = 10
    score_power: float = 1.0
    iou_power: float = 6.0


@dataclasses.dataclass(frozen=True)
class PseudoLabelSettings:
    """
    Thresholds on the pretrained network's detections (see `reconcile`).

    :param scale: how many times larger than in training that network sees the images: a student of small
        images can be told what only shows in large ones.
    """

    car: float = 0.45
    person: float = 0.5
    rider: float = 0.4
    uncertain: float = 0.2
    agree_iou: float = 0.6
    scale: float = 1.0

    def __post_init__(self):
        """Check ranges."""
        _share('pseudo_labels', car=self.car, person=self.person, rider=self.rider, uncertain=self.uncertain,
               agree_iou=self.agree_iou)
        if not 0.25 <= self.scale <= 8:
            raise ValueError(f'pseudo_labels.scale: expected 0.25 to 8, got {self.scale}')


@dataclasses.dataclass(frozen=True)
class OptimiserSettings:
    """AdamW with linear warm-up and a cosine to `final_lr_share` of `lr`."""

    lr: float = 2e-4
    backbone_lr_share: float = 0.5
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    final_lr_share: float = 0.05
    clip_norm: float = 10.0
    ema_decay: float = 0.998


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """
    Facts written into the model file.

    :param score: working threshold; None takes the best F1 over all classes of the development set.
    :param average_with_initial: share of the initial weights in the exported ones (WiSE-FT,
        Wortsman et al., CVPR 2022), 0 for the tuned weights alone.
    :param float_bits: of weights that are neither binary nor of 8 bits: 16 for networks that are kept to be
        trained on, see `half_floats`.
    :param scale_bits: of the scales and biases of binary and 8-bit layers: 16 makes a small file smaller, see
        `half_scales`.
    """

    name: str = 'picodet_s'
    score: float | None = None
    score_low: float = 0.05
    nms_iou: float = 0.6
    max_detections: int = 100
    licence: str = ''
    average_with_initial: float = 0.0
    scale_bits: Literal[16, 32] = 32
    float_bits: Literal[16, 32] = 32

    def __post_init__(self):
        """Check ranges."""
        _share('export', score=self.score or 0.0, score_low=self.score_low, nms_iou=self.nms_iou,
               average_with_initial=self.average_with_initial)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """A labelled set that the exported model is measured on; never used for a choice."""

    folder: str
    split: str = 'all'
    sizes_hw: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """
    A whole training run.

    :param labels: classes in the order of the network's channels.
    :param train_hw: (height, width) px of the training crops; multiples of 32.
    :param input_hw: (height, width) px that validation and export use; multiples of 32.
    :param binarization: makes the weights binary in stages; None (the default) trains in float.
    :param activations: rounds activations to integers, on top of binary weights; None leaves them float.
    :param distillation: what a teacher (given with `--teacher`) teaches; None trains without one.
    :param image_cache_mib: memory for decoded training images in each worker process, MiB; 0 decodes an image
        each time it is drawn.
    :param rendered: number of rendered images to make instead of reading the data root (0: none);
        for smoke runs on a machine without data.
    :param threads: of each process; 0: one for each core that the process may use.
    :param precision: of forward and backward passes; `auto` measures at the start what is faster here (see
        `autocast`).
    """

    labels: tuple[str, ...]
    train_hw: tuple[int, int]
    input_hw: tuple[int, int]
    datasets: tuple[DatasetSettings, ...]
    steps: int
    batch: int = 8
    seed: int = 0
    threads: int = 2
    workers: int = 1
    image_cache_mib: int = 0
    checkpoint_every: int = 100
    validate_every: int = 500
    rendered: int = 0
    precision: Literal['auto', 'float32', 'bfloat16'] = 'auto'
    network: NetworkSettings = NetworkSettings()
    binarization: BinarizationSettings | None = None
    activations: ActivationSettings | None = None
    distillation: DistillationSettings | None = None
    init: InitSettings = InitSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    loss: LossSettings = LossSettings()
    pseudo_labels: PseudoLabelSettings = PseudoLabelSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    export: ExportSettings = ExportSettings()
    evaluation: tuple[EvaluationSettings, ...] = ()

    def __post_init__(self):
        """Check ranges and names."""
        for name in ('train_hw', 'input_hw'):
            step = self.network.size_step_px
            if any(side <= 0 or side % step for side in getattr(self, name)):
                raise ValueError(f'{name}: expected positive multiples of {step}, got {getattr(self, name)}')
        if min(self.steps, self.batch, self.checkpoint_every, self.validate_every) <= 0:
            raise ValueError('steps, batch, checkpoint_every and validate_every must be positive')
        if min(self.threads, self.workers, self.image_cache_mib, self.rendered) < 0:
            raise ValueError('threads, workers, image_cache_mib and rendered must not be negative')
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f'labels: expected distinct names, got {self.labels}')
        if not self.datasets or sum(d.share for d in self.datasets) <= 0:
            raise ValueError('datasets: expected at least one with a positive share')
        if self.init.kind == 'model' and self.export.average_with_initial > 0:
            raise ValueError('export.average_with_initial: goes with init.kind picodet_onnx only')
        if self.init.kind == 'picodet_onnx' and self.network.kind != 'picodet_s':
            raise ValueError(f'init.kind: picodet_onnx does not fit network.kind {self.network.kind}')
        if self.init.kind == 'picodet_onnx' and len(self.init.class_rows) != len(self.labels):
            raise ValueError(f'init.class_rows: expected one row for each of {len(self.labels)} labels')
        if self.activations is not None and (self.network.kind != 'plain' or self.binarization is None
                                             or self.binarization.kept_bits != 8):
            raise ValueError('activations: need network.kind plain and binarization.kept_bits 8')
        pasted = self.augmentation.paste.classes if self.augmentation.paste.probability > 0 else ()
        unknown = {*self.augmentation.prefer, *pasted} - set(self.labels)
        if unknown:
            raise ValueError(f'augmentation: {sorted(unknown)} are not among labels')
        for dataset in self.datasets:
            named = {*dataset.labelled, *dataset.verify}.union(*dataset.ignore.values())
            if named - set(self.labels):
                raise ValueError(f'{dataset.folder}: {sorted(named - set(self.labels))} are not among labels')


def at_any_pace(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings without what changes how a run goes and reports, but not its weights."""
    return dataclasses.replace(settings, checkpoint_every=1, validate_every=1, threads=1, workers=0,
                               image_cache_mib=0, precision='auto')
