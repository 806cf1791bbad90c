# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Is a description right? The common mistakes, each tried on labelled images.

A detector that is fed the wrong way still detects something: colours swapped, values ten times too small, an
aspect that training never saw. Only labels tell, so each variant is run on the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import get_args

from kd_perception.attach.describe import SCALES
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.models.spec import InputSpec, Placement

# A variant must be better by this much mean AP to be named: less may be chance on a few images.
NOTABLE_AP = 3.0


@dataclasses.dataclass(frozen=True)
class Variant:
    """
    Another way to feed a model.

    :param name: for people. :param remedy: what to say to `model attach`; empty for the description itself.
    """

    name: str
    remedy: str
    input: InputSpec


def variants(spec: InputSpec) -> list[Variant]:
    """Return the description as it stands, then what is commonly mistaken for it."""
    found = [Variant('as described', '', spec)]
    other = 'bgr' if spec.color == 'rgb' else 'rgb'
    mean, std = spec.mean, spec.std
    reverse = {'mean': mean[::-1] if mean else None, 'std': std[::-1] if std else None}
    found.append(Variant(f'colours as {other}', f'--color {other}', dataclasses.replace(
        spec, color=other, **reverse)))
    if spec.dtype != 'uint8':
        for name, (mean, std) in SCALES.items():
            if mean is not None and spec.color == 'bgr':
                mean, std = mean[::-1], std[::-1]
            if _scale_of(spec) != (mean, std):
                found.append(Variant(f'values {name}', f'--scale {name}', dataclasses.replace(
                    spec, mean=mean, std=std)))
    found += [Variant(f'placed {place}', f'--set input.fit={place}', dataclasses.replace(spec, fit=place))
              for place in get_args(Placement) if place != spec.fit]
    return found


def _scale_of(spec: InputSpec) -> tuple:
    if spec.mean in (None, (0.0,) * 3) and spec.std in (None, (1.0,) * 3):
        return None, None
    return spec.mean, spec.std


def fed_as(detector: OnnxDetector, variant: Variant) -> OnnxDetector:
    """Return the same model, fed another way."""
    return detector.with_input(variant.input)


def mistakes(aps: Sequence[tuple[Variant, float]]) -> list[str]:
    """
    Say which variants are notably better than the description.

    :param aps: variants with their mean AP in percent, the description first.
    """
    described = aps[0][1]
    better = sorted(((ap, variant) for variant, ap in aps[1:] if ap > described + NOTABLE_AP),
                    key=lambda entry: -entry[0])
    return [f'{variant.name}: mean AP {ap:.1f} against {described:.1f} as described; try {variant.remedy}'
            for ap, variant in better]


def measured(detector: OnnxDetector, mean_ap: Callable[[OnnxDetector], float]) -> list[tuple[Variant, float]]:
    """Return each variant with its mean AP, the description first."""
    return [(variant, mean_ap(fed_as(detector, variant))) for variant in variants(detector.spec.input)]
