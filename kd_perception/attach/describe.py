# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From what a file says, a preset and the user's own words to a description of the model."""

from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path
import re
from typing import Any

from kd_perception.attach.class_maps import (
    changed,
    ClassMapFile,
    fitting_map,
    labels_of,
    load_class_map,
    names_in_metadata,
    read_names,
)
from kd_perception.attach.description import Description
from kd_perception.attach.family import COCO, image_port, Recognised, Seen, with_sizes
from kd_perception.attach.graph_facts import GraphFacts
from kd_perception.attach.probe import run_once
from kd_perception.attach.recognise import recognise
from kd_perception.attach.tables import from_ultralytics
from kd_perception.config import load_yaml, to_mapping
from kd_perception.errors import ConfigError, ModelError
from kd_perception.models.class_map import ClassMap
from kd_perception.models.spec import InputSpec
from kd_perception.resources import config_folder

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SCALES: dict[str, tuple[tuple[float, ...] | None, tuple[float, ...] | None]] = {
    '0-255': (None, None),
    '0-1': ((0.0,) * 3, (255.0,) * 3),
    '-1-1': ((127.5,) * 3, (127.5,) * 3),
    'imagenet': (IMAGENET_MEAN, IMAGENET_STD),      # of R, G, B, in the order of --color
}
DEFAULT_SIDE = 640


@dataclasses.dataclass(frozen=True)
class Choices:
    """
    What the user says of a model; each None where nothing is said.

    :param names: file of the network's class names; `class_map`: a name or a path; `maps`: changes of it.
    :param size: (height, width) px; `scale`: of `SCALES`.
    :param fields: dotted field -> value, over all else.
    """

    preset: str | None = None
    names: Path | None = None
    class_map: str | None = None
    maps: tuple[str, ...] = ()
    color: str | None = None
    scale: str | None = None
    size: tuple[int, int] | None = None
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


def presets() -> dict[str, dict[str, Any]]:
    """Return the presets that ship, by name."""
    return load_yaml(config_folder() / 'model_presets' / 'presets.yaml')


def describe(facts: GraphFacts, choices: Choices) -> Description:
    """
    Describe a model, after one run on noise.

    :raises ModelError: it is not recognised; ConfigError: something must be said that is not, or what is said
        fits nothing.
    """
    found = Description()
    found.set('name', facts.model_name, 'the file')
    _input(found, facts, choices)
    hw = found.get('input.height'), found.get('input.width')
    family = recognise(_seen(found, facts, choices, hw))
    if family is None and choices.preset is None and 'decoder.type' not in choices.fields:
        raw = all(len(port.shape) == 5 for port in facts.ports.outputs)     # anchors beside rows and columns
        remedy = ('they look like raw anchors: export the model with its boxes decoded' if raw else
                  'describe it with --spec, or with --preset and --set')
        raise ModelError(f'{facts.path}: its outputs are of no known family: {_outputs(facts)}; {remedy}')
    name = choices.preset or (family.preset if family else None)
    preset = _preset(name)
    if name:
        found.update({part: preset[part] for part in ('input', 'decoder', 'thresholds') if part in preset},
                     f'preset {name}')
    if family is not None:
        found.update({'decoder': family.decoder}, family.reason)
        constants = {key: [dict(height=float(hw[0]), width=float(hw[1])).get(v, v) for v in values]
                     for key, values in family.constants.items()}
        if constants:
            found.set('input.constants', constants, family.reason)
    if found.get('input.dtype') == 'uint8':
        for part in ('mean', 'std'):
            found.drop(f'input.{part}')
    _classes(found, facts, family, preset, choices)
    _colours(found, facts, choices, preset, name)
    for field, value in choices.fields.items():
        found.set(field, value, '--set')
    return found


def _seen(found: Description, facts: GraphFacts, choices: Choices, hw: tuple[int, int]) -> Seen:
    """Run the graph once: what its outputs hold tells families apart whose shapes do not."""
    task = facts.metadata.get('task', 'detect')
    if task != 'detect' and from_ultralytics(facts.metadata):
        raise ModelError(f"{facts.path}: its metadata say task '{task}', expected a detector: 'detect'")
    told = {name.partition('.')[2]: value for name, value in choices.fields.items()
            if name.startswith('decoder.')}
    if choices.preset in TOLD_BY_PRESET:
        told = {**TOLD_BY_PRESET[choices.preset], **told}
    names = None
    if choices.names is not None:
        names = len(read_names(choices.names))
    else:
        names = len(_names_of_exporter(facts)[0]) or None
    values: dict[str, Any] = {}
    if len(facts.ports.inputs) == 1:   # other inputs belong to families that the names of outputs tell
        layout = choices.fields.get('input.layout', found.get('input.layout'))
        values = run_once(facts, InputSpec(*hw, layout=layout,
                                           dtype=found.get('input.dtype')))
    return Seen(facts, with_sizes(facts.ports.outputs, values), hw, values, names, told)


# What the user says of a head by naming its family.
TOLD_BY_PRESET: dict[str | None, dict[str, Any]] = {'yolox': {'objectness': True}, 'nanodet': {'type': 'gfl'}}


def _preset(name: str | None) -> dict[str, Any]:
    every = presets()
    if name is None:
        return {}
    if name not in every:
        raise ConfigError(f'--preset {name}: expected one of {", ".join(every)}')
    return every[name]


def _input(found: Description, facts: GraphFacts, choices: Choices) -> None:
    port = image_port(facts)
    if port is None:
        raise ModelError(f'{facts.path}: none of its inputs is one image: '
                         + ', '.join(f'{p.name} {list(p.shape)}' for p in facts.ports.inputs))
    source = f'input {port.name!r} {list(port.shape)}'
    axes = 'HWC' if port.shape[-1] == 3 else 'CHW'
    batch = port.shape[0] if len(port.shape) == 4 else 1
    if isinstance(batch, int) and batch != 1 and not facts.weights:     # an IR can have another
        raise ModelError(f'{facts.path}: {source} takes {batch} images at once, expected 1: export it with '
                         'batch 1, or with a dynamic one')
    unsure = '' if 3 in port.shape else ', a guess: none of its sizes is 3; else --set input.layout=NHWC'
    found.set('input.layout', ('N' if len(port.shape) == 4 else '') + axes, source + unsure)
    found.set('input.dtype', port.dtype, source)
    sizes = [port.shape[len(port.shape) - 3 + axes.index(axis)] for axis in 'HW']
    exported = names_in_metadata(facts.metadata.get('imgsz', ''))
    if choices.size is not None:
        sizes, source = list(choices.size), '--size'
    elif not all(isinstance(size, int) for size in sizes):
        if len(exported) == 2:
            sizes, source = [int(size) for size in exported], 'metadata imgsz'
        else:
            sizes, source = _guessed_size(facts.model_name)
    found.set('input.height', sizes[0], source)
    found.set('input.width', sizes[1], source)


def _guessed_size(name: str) -> tuple[list[int], str]:
    """Return (height, width) of a graph that takes any: what a name such as net_416 or net-640x384 says."""
    said = re.findall(r'(?:^|[-_])(\d{3,4})(?:x(\d{3,4}))?(?=$|[-_])', name)
    if said and all(int(side) % 32 == 0 for side in said[-1] if side):
        width, height = said[-1][0], said[-1][1] or said[-1][0]
        return [int(height), int(width)], 'a guess by the name, the graph takes any: give --size'
    return [DEFAULT_SIDE, DEFAULT_SIDE], 'a guess, the graph takes any: give --size'


def _classes(found: Description, facts: GraphFacts, family: Recognised | None, preset: dict[str, Any],
             choices: Choices) -> None:
    names, source = _names(facts, family, preset, choices)
    if choices.class_map is not None:
        classes: ClassMap | None = _mapped(load_class_map(choices.class_map), names, choices.class_map)
        source = f'{source}; class map {choices.class_map}'
    else:
        fitted = fitting_map(names)
        if fitted is None and not choices.maps:
            raise ConfigError(f'{facts.path}: no class map knows its classes '
                              f'({", ".join(filter(None, names))}); say what they are with --class-map or '
                              '--map NAME=LABEL')
        classes = fitted[1] if fitted else None
        source += f'; class map {fitted[0]}, by their names' if fitted else ''
    if choices.maps:
        classes, source = changed(classes, names, choices.maps), f'{source}; --map'
    found.set('labels', list(labels_of(classes)), source)
    found.set('classes', to_mapping(classes), source)


def _mapped(file: ClassMapFile, names: tuple[str, ...], name: str) -> ClassMap:
    classes = file.for_names(names)
    if classes is None:
        raise ConfigError(f"--class-map {name}: maps none of the network's classes ({', '.join(names)})")
    return classes


def _names(facts: GraphFacts, family: Recognised | None, preset: dict[str, Any], choices: Choices
           ) -> tuple[tuple[str, ...], str]:
    """Return the network's class names and where they are from."""
    count = family.classes if family else None
    for names, source in _candidate_names(facts, family, preset, choices):
        if count is not None and len(names) != count:
            if source.startswith('--'):
                raise ConfigError(f'{source}: holds {len(names)} names, the network has {count} classes')
            continue
        return names, source
    many = f' for its {count} classes' if count else ''
    raise ConfigError(f'{facts.path}: holds no class names{many}; give them with --names FILE')


def _candidate_names(facts: GraphFacts, family: Recognised | None, preset: dict[str, Any], choices: Choices):
    if choices.names is not None:
        yield read_names(choices.names), f'--names {choices.names}'
        return
    names, source = _names_of_exporter(facts)
    if names:
        yield names, source
    for pattern, known in preset.get('models', {}).items():
        if fnmatch.fnmatch(facts.model_name, pattern):
            yield tuple(known), f'preset: {pattern}'
    if choices.class_map is not None and load_class_map(choices.class_map).names:
        yield load_class_map(choices.class_map).names, f'class map {choices.class_map}'
    if family is None:
        return
    numbered = load_class_map('coco_91').names
    if family.by_number:
        for names in (numbered, numbered[1:]):
            yield names, 'a guess: COCO by its own numbers; give --names'
    elif family.classes == COCO or (family.classes is None and family.preset in _USUALLY_COCO):
        yield load_class_map('coco').names, "a guess: COCO's 80 classes; give --names"


def _names_of_exporter(facts: GraphFacts) -> tuple[tuple[str, ...], str]:
    for key in ('names', 'model_info/labels', 'labels', 'classes'):
        names = names_in_metadata(facts.metadata.get(key, ''))
        if not names and key == 'model_info/labels':    # as OpenVINO's exporters write them
            names = tuple(facts.metadata.get(key, '').split())
        if names:
            return names, f'metadata {key}'
    return (), ''


_USUALLY_COCO = ('yolo_end_to_end', 'rtdetr', 'efficient_nms', 'paddle', 'mmdetection')


def _colours(found: Description, facts: GraphFacts, choices: Choices, preset: dict[str, Any],
             name: str | None) -> None:
    if choices.color is not None:
        found.set('input.color', choices.color, '--color')
    if choices.scale is not None:
        mean, std = SCALES[choices.scale]
        if found.get('input.dtype') == 'uint8' and mean is not None:
            raise ConfigError(f'--scale {choices.scale}: the graph takes bytes, which it scales itself')
        if found.get('input.color') == 'bgr' and mean is not None:
            mean, std = mean[::-1], std[::-1]
        for part, value in (('mean', mean), ('std', std)):
            found.drop(f'input.{part}')
            if value is not None:
                found.set(f'input.{part}', list(value), f'--scale {choices.scale}')
    asks = set(preset.get('asks', ())) if preset else {'color', 'scale'}
    given = {'color': found.get('input.color') is not None, 'scale': choices.scale is not None
             or found.get('input.dtype') == 'uint8' or 'input.mean' in choices.fields}
    missing = [f'--{ask} {{{",".join(_ASKED[ask])}}}' for ask in sorted(asks) if not given[ask] and not (
        ask == 'color' and 'input.color' in choices.fields)]
    if missing:
        raise ConfigError(f'{facts.path}: the file does not say how its input is made '
                          f'({name or "no preset"}); give {" and ".join(missing)}, and see with --check '
                          'whether it is right')


_ASKED = {'color': ('rgb', 'bgr'), 'scale': tuple(SCALES)}


def _outputs(facts: GraphFacts) -> str:
    return ', '.join(f'{port.name} {list(port.shape)}' for port in facts.ports.outputs)
