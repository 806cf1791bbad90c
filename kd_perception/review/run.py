# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A review of recorded frames: a page, its records, and where they are wanted labelled images."""

from __future__ import annotations

import json
from typing import Any

from kd_perception.errors import ConfigError, ImageError
from kd_perception.files import write_whole
from kd_perception.output_folder import OutputFolder
from kd_perception.progress import progress
from kd_perception.recording.disagreement import MIN_IOU
from kd_perception.review.kitti_export import KittiExport
from kd_perception.review.page import draw_thumbnail, picture_uri, render
from kd_perception.review.selection import chosen_frames, record, Selection

COMMAND = 'kd_perception review'
PAGE_NAME, DOCUMENT_NAME = 'review.html', 'review.json'
DOCUMENT_VERSION = 1


def write_review(selection: Selection, out: OutputFolder, export: KittiExport | None = None,
                 overwrite: bool = False, quiet: bool = False) -> dict[str, Any]:
    """
    Write page and records, and the labelled images of `export`.

    :param out: entered. :return: the content of review.json.
    :raises BagError: the input holds no hard frames. :raises ConfigError: there is an earlier review.
    """
    for name in (PAGE_NAME, DOCUMENT_NAME):
        if (out.path / name).exists() and not overwrite:
            raise ConfigError(f'{out.path / name}: exists already; give --overwrite or another --out')
    scores = selection.scores
    found, frames, differences = chosen_frames(selection)
    out.make_room(overwrite, alone=False)
    if export:
        export.begin(frames)
    pictures: dict = {}
    problems: dict = {}
    for frame, image in progress(found.images(frames), total=len(frames), unit='frame', quiet=quiet):
        if image is None:
            problems[frame.key] = 'its image is missing'
            continue
        try:
            pixels = image.decode()
        except ImageError as error:
            problems[frame.key] = str(error)
            continue
        pictures[frame.key] = picture_uri(draw_thumbnail(pixels, frame, differences[frame.key], scores))
        if export:
            export.add(frame, image, pixels)
    document = {
        'version': DOCUMENT_VERSION, 'command': COMMAND, 'input': str(selection.input),
        'sort': selection.sort,
        'working_scores': {'student': scores.student, 'teacher': scores.teacher}, 'min_iou': MIN_IOU,
        'counts': {
            'frames': len(found.frames), 'shown': len(frames),
            'with_disagreement': sum(bool(item and item.count) for item in differences.values()),
            'without_teacher': sum(item is None for item in differences.values()),
            'without_picture': len(problems)},
        'export': export.summary() if export else None, 'problems': found.problems,
        'frames': [record(frame, differences[frame.key], problems.get(frame.key, '')) for frame in frames]}
    page = render(document, [pictures.get(frame.key) for frame in frames])
    write_whole(out.new(DOCUMENT_NAME), json.dumps(document, indent=1, allow_nan=False) + '\n')
    write_whole(out.new(PAGE_NAME), page)
    return document
