# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The demo's contact sheet: which frames it shows, and who answered them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

import cv2
import numpy as np

from kd_perception.boxes.detections import Detections
from kd_perception.demo.answers import Answer, FROM_TEACHER, Key
from kd_perception.detection.drawing import class_color, contact_sheet, draw_detections
from kd_perception.fallback.provenance import Source

TILES, TILE_WIDTH_PX = 9, 640
BORDER_PX = 8
# Okabe and Ito's colours (RGB) that the first three classes do not have, and a grey for the ordinary case.
SOURCE_RGB = {
    Source.STUDENT.value: (150, 150, 150), Source.TEACHER.value: (86, 180, 233),
    Source.MERGED.value: (204, 121, 167), Source.CARRIED.value: (140, 86, 75),
    Source.STUDENT_LATE_TEACHER.value: (230, 159, 0),
    Source.STUDENT_NO_TEACHER.value: (240, 228, 66)}
DASHED = "dashed: the student's boxes, where the teacher answered"
# Of the tiles at least this part shows frames that were sent to the teacher, where there are so many.
SENT_PART = 3
_DASH_PX = 5
_MAX_PX = 20_000
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
_ROW_PX, _GAP_PX, _SWATCH_PX = 30, 22, 18


def choose_frames(answers: Mapping[Key, Answer]) -> set[Key]:
    """
    Choose what the sheet shows: not the best frames, this is no trailer.

    The frames are split into equal parts in the order of their stamps; of each part the middle one is
    taken. Where fewer than a third of these were sent to the teacher, the tiles that are nearest to frames
    that were, counted in frames, show those instead, as many as that takes.
    """
    keys = sorted(answers, key=lambda key: (key[1], key[0]))
    parts = np.array_split(np.arange(len(keys)), min(TILES, len(keys))) if keys else []
    chosen = [int(part[len(part) // 2]) for part in parts]
    sent = {i for i, key in enumerate(keys) if answers[key].sent}
    showing = {place for place, i in enumerate(chosen) if i in sent}
    while len(showing) < min(math.ceil(len(chosen) / SENT_PART), len(sent)):
        _, place, i = min((abs(chosen[place] - i), place, i) for place in range(len(chosen))
                          for i in sent if place not in showing and i not in chosen)
        chosen[place] = i
        showing.add(place)
    return {keys[i] for i in chosen}


def tile(image_bgr: np.ndarray, shown: Detections, labels: Sequence[str], source: str = '',
         student: Detections | None = None) -> np.ndarray:
    """
    Draw a frame at the size of a tile, where captions stay readable.

    :param image_bgr: (H, W, 3) uint8. :param shown: px of the image.
    :param source: who answered; gives the border's colour. Empty: there is no border.
    :param student: the student's detections, where somebody else answered.
    :return: (H', 640, 3) uint8 BGR.
    """
    width = TILE_WIDTH_PX - (2 * BORDER_PX if source else 0)
    scale = width / image_bgr.shape[1]
    size_wh = width, max(1, round(image_bgr.shape[0] * scale))
    small = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if student is not None:
        for box in student.boxes_xyxy * scale:
            _draw_dashed(small, box)
    if source:
        for box, class_id in zip(shown.boxes_xyxy * scale, shown.class_ids.tolist()):
            corners = np.clip(np.round(box), -_MAX_PX, _MAX_PX).astype(int).tolist()
            cv2.rectangle(small, corners[:2], corners[2:], class_color(class_id), 2)
    small = draw_detections(
        small, Detections(shown.boxes_xyxy * scale, shown.scores, shown.class_ids), labels)
    if not source:
        return small
    return cv2.copyMakeBorder(small, *(BORDER_PX,) * 4, cv2.BORDER_CONSTANT, value=_bgr(source))


def caption(answer: Answer, camera: str, seconds: float, count: int) -> str:
    """
    Say who answered, why, and after how long.

    :param camera: empty where there is only one. :param seconds: since the first frame.
    :param count: of objects in the answer.
    """
    where = f'{camera} ' if camera else ''
    if not answer.facts:
        return f'{where}{seconds:.1f} s: {count} objects'
    why = f'{answer.facts.get("reason", "?")} {answer.number("ambiguity"):.2f}'
    unverified = answer.facts.get('unverified')
    why += f' ({unverified})' if unverified else ''
    objects = '1 object' if count == 1 else f'{count} objects'
    return f'{where}{seconds:.1f} s  {answer.source}: {why}, {objects}, {answer.number("waited_ms"):.0f} ms'


def sheet(tiles: Sequence[np.ndarray], captions: Sequence[str], answers: Mapping[Key, Answer]) -> np.ndarray:
    """Arrange the tiles (at least one); where there is a fallback, with a legend that counts all frames."""
    picture = contact_sheet(tiles, captions, tile_width=TILE_WIDTH_PX)
    counts = {source: sum(answer.source == source for answer in answers.values()) for source in SOURCE_RGB}
    if not sum(counts.values()):
        return picture
    return np.concatenate([picture, legend(picture.shape[1], counts)])


def legend(width: int, counts: Mapping[str, int]) -> np.ndarray:
    """
    Draw what the borders mean.

    :param counts: frames by source. :return: (H, width, 3) uint8 BGR; as many rows as it takes.
    """
    entries: list[tuple[str, str | None]] = [
        (f'{source}: {count} frame{"" if count == 1 else "s"}', source) for source, count in counts.items()]
    if any(counts.get(source) for source in FROM_TEACHER):
        entries.append((DASHED, None))
    places, x, row = [], _GAP_PX, 0
    for text, _ in entries:
        size = _SWATCH_PX + 8 + cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0]
        if x > _GAP_PX and x + size > width:
            x, row = _GAP_PX, row + 1
        places.append((x, row))
        x += size + _GAP_PX
    picture = np.full((_ROW_PX * (row + 1) + 4, width, 3), 32, np.uint8)
    for (text, source), (x, row) in zip(entries, places):
        top = row * _ROW_PX + (_ROW_PX - _SWATCH_PX) // 2 + 2
        if source:
            cv2.rectangle(picture, (x, top), (x + _SWATCH_PX, top + _SWATCH_PX), _bgr(source), cv2.FILLED)
        else:
            _draw_dashed(picture, np.array([x, top, x + _SWATCH_PX, top + _SWATCH_PX]))
        cv2.putText(picture, text, (x + _SWATCH_PX + 8, top + _SWATCH_PX - 4), _FONT, _FONT_SCALE,
                    (230, 230, 230), 1, cv2.LINE_AA)
    return picture


def _bgr(source: str) -> tuple[int, int, int]:
    return SOURCE_RGB.get(source, (255, 255, 255))[::-1]


def _draw_dashed(canvas: np.ndarray, box_xyxy: np.ndarray) -> None:
    """Draw a thin outline of black and white dashes, which shows on any ground."""
    # Far outside is as good as infinitely far: a wild number must not cost a million dashes.
    x0, y0, x1, y1 = (int(v) for v in np.clip(np.round(box_xyxy), -_MAX_PX, _MAX_PX))
    cv2.rectangle(canvas, (x0, y0), (x1, y1), (0, 0, 0), 1)
    for x in range(x0, x1, 2 * _DASH_PX):
        for y in (y0, y1):
            cv2.line(canvas, (x, y), (min(x + _DASH_PX, x1), y), (255, 255, 255), 1)
    for y in range(y0, y1, 2 * _DASH_PX):
        for x in (x0, x1):
            cv2.line(canvas, (x, y), (x, min(y + _DASH_PX, y1)), (255, 255, 255), 1)
