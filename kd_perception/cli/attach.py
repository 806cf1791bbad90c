# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model attach`: describe a detector of another origin, check the description, write it into the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kd_perception.config import load_config
from kd_perception.errors import ConfigError
from kd_perception.exit_codes import EXIT_OK
from kd_perception.models.spec import ModelSpec

EXAMPLES = """\
  kd_perception model attach yolo11n.onnx --out described.onnx
                                                   recognise a detector of another origin, and describe it
  kd_perception model attach ssd.onnx --out d.onnx --names classes.txt --color rgb --scale 0-1 \\
                      --check images --labels label_2
                                                   say what the file does not; see whether it is right
  kd_perception model attach net.xml --out described.xml --size 1600x480
                                                   OpenVINO IR, at a size of your own (pip install openvino)
  kd_perception model attach any.onnx --spec any.yaml --out described.onnx
                                                   all of it by hand (docs/reference/models.md)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `model attach`."""
    from kd_perception.attach.class_maps import shipped_maps
    from kd_perception.attach.describe import presets, SCALES
    parser.add_argument('model', help='path of an ONNX file, of the .xml of an OpenVINO IR, or of the .param '
                        'of ncnn (becomes ONNX)')
    parser.add_argument('--out', type=Path, required=True, help='file to write; must not exist')
    parser.add_argument('--spec', type=Path,
                        help='YAML with the fields of ModelSpec; nothing is recognised then')
    parser.add_argument('--preset', metavar='NAME',
                        help=f'family, where it is not recognised: {", ".join(presets())}')
    parser.add_argument('--names', type=Path, metavar='FILE',
                        help="the network's class names by number: a name a line, .csv, .yaml or .json")
    parser.add_argument('--class-map', metavar='NAME|FILE',
                        help=f'what the classes become: {", ".join(shipped_maps())}, or a file like theirs')
    parser.add_argument('--map', action='append', default=[], metavar='NAME=LABEL',
                        help='what one class becomes; NAME= drops it; repeat')
    parser.add_argument('--color', choices=('rgb', 'bgr'),
                        help='order of the channels that the network expects')
    parser.add_argument('--scale', choices=tuple(SCALES),
                        help='range of the values that the network expects')
    parser.add_argument('--size', metavar='WxH', help='input size, for a graph that takes any')
    parser.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', dest='fields',
                        help='any field of the description, such as decoder.box_format=cxcywh; repeat')
    parser.add_argument('--check', type=Path, metavar='IMAGE',
                        help='image, or folder of images: draw the boxes found into OUT.check.jpg')
    parser.add_argument('--labels', type=Path, metavar='PATH',
                        help='KITTI label file, or folder, of --check: compare AP with the common mistakes')


def run(args: argparse.Namespace) -> int:
    """Describe, write, check."""
    from kd_perception.attach.describe import Choices, describe
    from kd_perception.attach.graph_facts import read_facts
    from kd_perception.attach.probe import look_at_outputs, run_once
    from kd_perception.attach.write import write_described
    if args.labels is not None and args.check is None:
        raise ConfigError('--labels: give their images with --check')
    facts = read_facts(Path(args.model))
    images = _images(args.check)
    if args.spec is not None:
        spec = load_config(ModelSpec, args.spec)
    else:
        size = _size(args.size) if args.size else None
        found = describe(facts, Choices(args.preset, args.names, args.class_map, tuple(args.map), args.color,
                                        args.scale, size, _fields(args.fields)))
        first = next(iter(images.items()), (None, None))
        known = found.spec(str(facts.path))
        look_at_outputs(found, known.decoder, run_once(facts, known.input, first[1]), first[0])
        spec = found.spec(str(facts.path))
        _print_table(found.rows())
    detector = write_described(facts, spec, args.out)
    print(f'{args.out}: {args.out.stat().st_size:,} bytes, sha256 {detector.sha256}')
    if images:
        _check(detector, images, args.labels, args.out)
    return EXIT_OK


def _print_table(rows: list[tuple[str, str, str]]) -> None:
    width = max(len(name) for name, _, _ in rows)
    for name, value, source in rows:
        print(f'{name:<{width}}  {value:<40}  from {source}')


def _fields(texts: list[str]) -> dict[str, Any]:
    fields = {}
    for text in texts:
        name, equals, value = text.partition('=')
        if not equals or not name:
            raise ConfigError(f'--set {text}: expected FIELD=VALUE, such as decoder.box_format=cxcywh')
        try:
            fields[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f'--set {text}: {value!r} is no value') from error
    return fields


def _size(text: str) -> tuple[int, int]:
    from kd_perception.benchmark.models import parse_size
    return parse_size(text)


def _images(path: Path | None) -> dict[Path, np.ndarray]:
    if path is None:
        return {}
    from kd_perception.sources.folders import images_in, read_image_file
    if not path.exists():
        raise ConfigError(f'--check {path}: no such image or folder')
    files = images_in(path) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f'--check {path}: holds no images')
    return {file: read_image_file(file) for file in files}


def _check(detector: Any, images: dict[Path, np.ndarray], labels: Path | None, out: Path) -> None:
    """Draw what is found, and with labels compare the description with the common mistakes."""
    import cv2

    from kd_perception.attach.check import measured, mistakes
    from kd_perception.detection.drawing import contact_sheet, draw_detections
    drawn, counts = [], dict.fromkeys(detector.spec.labels, 0)
    for image in list(images.values())[:9]:
        found = detector.detect(image).detections
        drawn.append(draw_detections(image, found, detector.spec.labels))
        for class_id in found.class_ids:
            counts[detector.spec.labels[class_id]] += 1
    picture = out.with_suffix('.check.jpg')
    sheet = drawn[0] if len(drawn) == 1 else contact_sheet(drawn)
    if not cv2.imwrite(str(picture), sheet):
        raise ConfigError(f'{picture}: cannot be written')
    print(f'{picture}: {len(drawn)} images; found {", ".join(f"{n} {label}" for label, n in counts.items())}')
    if labels is None:
        return
    results = measured(detector, lambda each: _mean_ap(each, images, labels))
    for variant, ap in results:
        print(f'  {variant.name:<20} mean AP {ap:5.1f}')
    problems = mistakes(results)
    for problem in problems:
        print(f'warning: {problem}')
    if not problems:
        print('no common mistake does better')


def _mean_ap(detector: Any, images: dict[Path, np.ndarray], labels: Path) -> float:
    """Return AP at IoU 0.5 in percent, a mean over the classes by their objects."""
    from kd_perception.benchmark.accuracy import LabelledImage, LOWEST_SCORE
    from kd_perception.labels.kitti_text import read_label_file
    from kd_perception.training.loop.validation import match_all, report
    labelled = []
    for path, image in images.items():
        file = labels / f'{path.stem}.txt' if labels.is_dir() else labels
        if not file.is_file():
            raise ConfigError(f'{file}: no such label file for {path.name}')
        labelled.append(LabelledImage(image, read_label_file(file)))
    figures = report(match_all(lambda pixels: detector.detect(pixels, LOWEST_SCORE).detections, labelled,
                               detector.spec.labels))
    counted = [(entry['ap50'], entry['objects']) for entry in figures.values() if entry['ap50'] is not None]
    if not counted:
        raise ConfigError(f'{labels}: holds no object of {", ".join(detector.spec.labels)}')
    # By objects: a class of three objects would decide the mean.
    return 100 * sum(ap * count for ap, count in counted) / sum(count for _, count in counted)
