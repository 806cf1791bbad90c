# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model attach`: describe a detector of another origin, check the description, write it into the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    from kd_perception.benchmark.model_check import check_on_images, read_images
    if args.labels is not None and args.check is None:
        raise ConfigError('--labels: give their images with --check')
    facts = read_facts(Path(args.model))
    images = {} if args.check is None else read_images(args.check, '--check')
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
        check_on_images(detector, images, args.labels, args.out.with_suffix('.check.jpg'))
    else:
        print(f'see whether it is right: kd_perception model check {args.out} --images FOLDER')
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
