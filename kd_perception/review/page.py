# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""review.html: hard frames with both models' boxes, one file, no script, nothing loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from kd_perception import html_page
from kd_perception.html_page import esc
from kd_perception.recording.disagreement import Disagreement, WorkingScores
from kd_perception.recording.recorded import Boxes, RecordedFrame

THUMBNAIL_WIDTH_PX, MAX_THUMBNAIL_HEIGHT_PX = 480, 640
_JPEG_QUALITY = 80
# Vermilion and blue of Okabe and Ito's palette (BGR); solid and dashed, for those who see them alike.
STUDENT_BGR, TEACHER_BGR = (0, 94, 213), (178, 114, 0)
_DASH_PX = 7
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_STYLE = """
:root { --ink: #1d2733; --soft: #5b6775; --line: #e1e6ec; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: #f4f6f9; margin: 0; }
main { max-width: 1600px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } p { margin: 6px 0 12px; max-width: 90ch; }
.sub { color: var(--soft); }
.warn { background: #fff; border: 1px solid var(--line); border-left: 4px solid #e69f00;
  padding: 10px 18px; }
.warn ul { margin: 4px 0; padding-left: 20px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
  background: #fff; }
figure img { display: block; width: 100%; }
.none { padding: 40px 10px; color: var(--soft); text-align: center; }
figcaption { padding: 8px 12px 10px; font-size: 13px; }
figcaption span { color: var(--soft); display: block; }
.key i { display: inline-block; width: 26px; height: 0; margin: 0 6px 4px 16px;
  border-top: 3px solid #d55e00; }
.key i.teacher { border-top: 3px dashed #0072b2; }
"""


def draw_thumbnail(image: np.ndarray, frame: RecordedFrame, difference: Disagreement | None,
                   scores: WorkingScores) -> np.ndarray:
    """
    Draw both models' boxes on a small copy of an image.

    The student's are solid, the teacher's dashed; what they disagree on is thick and has class and score.

    :param image: (H, W, 3) uint8 BGR.
    :return: (H', W', 3) uint8 BGR, at most `THUMBNAIL_WIDTH_PX` wide and `MAX_THUMBNAIL_HEIGHT_PX` high.
    """
    height, width = image.shape[:2]
    scale = min(THUMBNAIL_WIDTH_PX / width, MAX_THUMBNAIL_HEIGHT_PX / height, 1.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    if difference is None:
        student = frame.student.above(scores.student)
        _draw(canvas, student, range(len(student.names)), scale, STUDENT_BGR, dashed=False)
        return canvas
    marked_student = {*difference.only_student, *(i for i, _ in difference.renamed)}
    marked_teacher = {*difference.only_teacher, *(j for _, j in difference.renamed)}
    _draw(canvas, difference.teacher, marked_teacher, scale, TEACHER_BGR, dashed=True)
    _draw(canvas, difference.student, marked_student, scale, STUDENT_BGR, dashed=False)
    return canvas


def _draw(canvas: np.ndarray, boxes: Boxes, marked: Any, scale: float, color: tuple, dashed: bool) -> None:
    limit = 4 * max(canvas.shape)
    for i, (box, score, name) in enumerate(zip(boxes.boxes_xyxy, boxes.scores, boxes.names)):
        # Far outside is as good as infinitely far: a hostile number must not cost a million dashes.
        x1, y1, x2, y2 = (int(round(float(v))) for v in np.clip(box * scale, -limit, limit))
        thickness = 2 if i in marked else 1
        if dashed:
            for start, end in (((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)),
                               ((x2, y1), (x2, y2))):
                _dashed_line(canvas, start, end, color, thickness)
        else:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness)
        if i in marked:
            # The student's above its box and the teacher's below, so that they do not cover one another.
            y = y2 + 11 if dashed else y1 - 3
            corner = max(x1, 0), min(max(y, 10), canvas.shape[0] - 3)
            text = f'{name} {score:.2f}'.encode('ascii', 'replace').decode()[:40]
            cv2.putText(canvas, text, corner, _FONT, 0.38, color, 3, cv2.LINE_AA)
            cv2.putText(canvas, text, corner, _FONT, 0.38, (255, 255, 255), 1, cv2.LINE_AA)


def _dashed_line(canvas: np.ndarray, start: tuple, end: tuple, color: tuple, thickness: int) -> None:
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    first, vector = np.array(start, float), np.subtract(end, start) / max(length, 1)
    for at in range(0, max(length, 1), 2 * _DASH_PX):
        a, b = first + at * vector, first + min(at + _DASH_PX, length) * vector
        cv2.line(canvas, tuple(a.round().astype(int).tolist()), tuple(b.round().astype(int).tolist()),
                 color, thickness)


def picture_uri(thumbnail: np.ndarray) -> str | None:
    """Return a picture as a `data:` address, JPEG; None where it cannot be encoded."""
    good, data = cv2.imencode('.jpg', thumbnail, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode('ascii') if good else None


def render(document: dict[str, Any], pictures: Sequence[str | None]) -> str:
    """
    Return the page.

    :param document: content of review.json. :param pictures: one address for each of its frames, or None.
    """
    counts, scores = document['counts'], document['working_scores']
    shown = f'{counts["shown"]:,} of {counts["frames"]:,} frames, sorted by {document["sort"]}'
    warnings = html_page.warning_box(document['problems'][:20])
    key = (f'<p class="sub key"><i></i>student, from score {scores["student"]:g}<i class="teacher"></i>'
           f'teacher, from score {scores["teacher"]:g}; thick: only one of them has this box '
           f'(IoU {document["min_iou"]:g}), or they name it differently</p>')
    tiles = ''.join(_tile(item, picture) for item, picture in zip(document['frames'], pictures))
    return html_page.document('Hard frames', (
            f'<p class="sub">{esc(document["input"])}: {shown}; {counts["without_teacher"]:,} without an '
            f'answer of the teacher</p>{warnings}{key}<div class="gallery">{tiles}</div>'), _STYLE)


def _tile(item: dict[str, Any], picture: str | None) -> str:
    if item['disagreement'] is None:
        title = 'no answer of the teacher'
    elif not item['disagreement']:
        title = 'both agree'
    else:
        parts = [(len(item['only_student']), 'only the student'),
                 (len(item['only_teacher']), 'only the teacher'),
                 (len(item['renamed']), 'named differently')]
        title = ', '.join(f'{count} {what}' for count, what in parts if count)
    image = f'<div class="none">{esc(item["image_problem"] or "no picture")}</div>'
    if picture:
        image = f'<img loading="lazy" alt="{esc(item["name"])}: {esc(title)}" src="{esc(picture)}">'
    facts = [('reason', item['reason']), ('ambiguity', _number(item['ambiguity'])),
             ('source', item['source']), ('waited', _number(item['waited_ms'], ' ms')),
             ('unverified', item['unverified'])]
    line = ' &middot; '.join(f'{name} {esc(value)}' for name, value in facts if value)
    place = f'{item["camera"]} {item["stamp_ns"] // 10 ** 9}.{item["stamp_ns"] % 10 ** 9:09d}'
    bag = f' in {item["bag"]}' if item['bag'] else ''
    return (f'<figure>{image}<figcaption><b>{esc(title)}</b><span>{line}</span>'
            f'<span>{esc(place + bag)}</span></figcaption></figure>')


def _number(value: float | None, unit: str = '') -> str:
    return '' if value is None else f'{value:.3g}{unit}'
