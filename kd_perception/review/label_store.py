# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A folder of labels that a person makes frame by frame: saved at each change, resumed where it was left.

Decisions are the truth (`.review/frames/<name>.json`); what training reads is made of them: images/<name>.jpg
or .png and label_2/<name>.txt of the accepted frames alone. Every file is written beside its place and moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
import dataclasses
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any, NamedTuple

from kd_perception.errors import ConfigError
from kd_perception.files import take_lock, write_whole
from kd_perception.labels.kitti_text import format_objects, KittiObjects
from kd_perception.output_folder import check_folder_place
from kd_perception.recording.recorded import MAX_BOXES

OPEN, ACCEPTED, REJECTED = 'open', 'accepted', 'rejected'
STATUSES = (OPEN, ACCEPTED, REJECTED)
# A label of less is a slip of the mouse, and training drops it anyway.
MIN_SIDE_PX = 1.0
_HIDDEN, _IMAGES, _LABELS = '.review', 'images', 'label_2'
_MAX_DECISION_BYTES = 4 << 20


class LabelBox(NamedTuple):
    """One label: class name, and left, top, right, bottom [px]."""

    name: str
    box_xyxy: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Decision:
    """
    What a person said about a frame.

    :param status: `open` (touched, not decided), `accepted` or `rejected`.
    :param boxes: its labels. :param revision: how often it was saved.
    """

    status: str = OPEN
    boxes: tuple[LabelBox, ...] = ()
    revision: int = 0


class StaleDecision(Exception):
    """The frame was changed elsewhere since it was read."""


def checked_boxes(items: Any, classes: Sequence[str], image_hw: tuple[int, int]) -> tuple[LabelBox, ...]:
    """
    Read boxes as they come from outside, cut at the image's borders.

    :param items: [{'class': name, 'box_xyxy': [left, top, right, bottom]}] in px of the image.
    :raises ConfigError: another form, an unknown class, or a box with less than 1 px inside the image.
    """
    if not isinstance(items, list) or len(items) > MAX_BOXES:
        raise ConfigError(f'boxes: expected a list of at most {MAX_BOXES}')
    height, width = image_hw
    found = []
    for i, item in enumerate(items):
        name = item.get('class') if isinstance(item, Mapping) else None
        if not isinstance(name, str) or name not in classes:
            raise ConfigError(f'boxes[{i}].class: expected one of {", ".join(classes)}')
        box = item.get('box_xyxy')
        if not isinstance(box, list) or len(box) != 4 or not all(
                isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
                for value in box):
            raise ConfigError(f'boxes[{i}].box_xyxy: expected four finite numbers [px]')
        left, right = (min(max(float(value), 0.0), width) for value in box[0::2])
        top, bottom = (min(max(float(value), 0.0), height) for value in box[1::2])
        if not (right - left >= MIN_SIDE_PX and bottom - top >= MIN_SIDE_PX):
            raise ConfigError(f'boxes[{i}]: {" ".join(f"{value:g}" for value in box)} has less than '
                              f'{MIN_SIDE_PX:g} px inside the image of {width}x{height} px')
        found.append(LabelBox(name, (round(left, 2), round(top, 2), round(right, 2), round(bottom, 2))))
    return tuple(found)


class LabelStore:
    """
    The folder of one editor; not thread-safe.

    :param write: as `files.write_whole`; a seam for tests.
    :raises ConfigError: as `open` says.
    """

    def __init__(self, folder: Path, write: Callable[..., None] = write_whole):
        self.folder, self._write = folder, write
        self._decisions: dict[str, Decision] = {}
        self._lock: Any = None

    def open(self) -> None:
        """
        Take the folder, read the decisions, and make the label files agree with them.

        :raises ConfigError: it cannot be written, holds labels of another origin or a damaged decision, or
            another editor has it.
        """
        hidden = self.folder / _HIDDEN
        for name in (_IMAGES, _LABELS):
            place = self.folder / name
            if not hidden.is_dir() and place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise ConfigError(f'{place}: exists and is not of an earlier review; choose another folder')
        check_folder_place(self.folder)
        try:
            for place in (hidden / 'frames', hidden / _IMAGES, self.folder / _IMAGES, self.folder / _LABELS):
                place.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(hidden / 'lock')
        except OSError as error:
            raise self._unwritable(error) from error
        if self._lock is None:
            raise ConfigError(f'{self.folder}: is open in another editor; close that one first')
        try:
            for path in sorted((hidden / 'frames').glob('*.json')):
                self._decisions[path.stem] = _read_decision(path)
            for name, decision in self._decisions.items():
                self._publish(name, self._stage(name, decision))
        except OSError as error:
            self.close()
            raise self._unwritable(error) from error
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def image(self, name: str) -> Path | None:
        """Return where a frame's image lies; None where it was not added yet."""
        return next((path for path in (self.folder / _HIDDEN / _IMAGES / f'{name}.{suffix}'
                                       for suffix in ('jpg', 'png')) if path.is_file()), None)

    def add_image(self, name: str, data: bytes, suffix: str) -> Path:
        """
        Keep a frame's image for the editor, whatever is decided about it.

        :raises ConfigError: it cannot be written.
        """
        path = self.folder / _HIDDEN / _IMAGES / f'{name}.{suffix}'
        try:
            self._write(path, data)
        except OSError as error:
            raise self._unwritable(error) from error
        return path

    def get(self, name: str) -> Decision | None:
        """Return what was said about a frame, None where nothing was."""
        return self._decisions.get(name)

    def save(self, name: str, status: str, boxes: tuple[LabelBox, ...], revision: int,
             facts: Mapping[str, Any]) -> Decision:
        """
        Save what was said about a frame; when this returns, it is on the disk.

        :param revision: the one that the change was made on. :param facts: kept beside the decision.
        :raises StaleDecision: the frame was saved since.
        :raises OSError: it cannot be written; everything is as before, where the disk is full.
        """
        before = self._decisions.get(name, Decision())
        if revision != before.revision:
            raise StaleDecision
        decision = Decision(status, boxes, revision + 1)
        document = {**facts, 'status': status, 'revision': decision.revision,
                    'boxes': [{'class': box.name, 'box_xyxy': list(box.box_xyxy)} for box in boxes]}
        # All that needs space is written beside its place first; to move it there needs none.
        staged = self.folder / _HIDDEN / f'{name}.json'
        try:
            label = self._stage(name, decision)
            self._write(staged, json.dumps(document, indent=1, allow_nan=False) + '\n', durable=True)
        except OSError:
            if before.status != ACCEPTED:
                with suppress(OSError):
                    self._withdraw(name)
            raise
        os.replace(staged, self.folder / _HIDDEN / 'frames' / staged.name)
        self._decisions[name] = decision
        self._publish(name, label)
        return decision

    def counts(self, names: Iterable[str]) -> dict[str, int]:
        """Return the number of frames by status, of the given ones; untouched frames are open."""
        found = Counter(self._decisions.get(name, Decision()).status for name in names)
        return {status: found[status] for status in STATUSES}

    def summary(self) -> dict[str, Any]:
        """Return what the folder holds for training: images, labels by class, and empty frames."""
        accepted = [item for item in self._decisions.values() if item.status == ACCEPTED]
        labels = Counter(box.name for item in accepted for box in item.boxes)
        return {'images': len(accepted), 'labels': dict(sorted(labels.items())),
                'empty': sum(not item.boxes for item in accepted)}

    def names(self) -> set[str]:
        """Return the frames that something was said about, those of earlier inputs too."""
        return set(self._decisions)

    def _stage(self, name: str, decision: Decision) -> Path | None:
        """Write image and label of an accepted frame, the label beside its place; None for other frames."""
        source = self.image(name)
        if decision.status != ACCEPTED or source is None:
            return None
        image = self.folder / _IMAGES / source.name
        if not image.exists():
            _link(source, image)
        text = format_objects(KittiObjects.from_boxes([box.name for box in decision.boxes],
                                                      [box.box_xyxy for box in decision.boxes]))
        label = self.folder / _LABELS / f'{name}.txt'
        if label.is_file() and label.read_bytes() == text.encode():
            return label
        staged = self.folder / _HIDDEN / label.name
        self._write(staged, text, durable=True)
        return staged

    def _publish(self, name: str, staged: Path | None) -> None:
        """Move a label to its place, or remove what a frame without one has left."""
        if staged is None:
            self._withdraw(name)
        else:
            os.replace(staged, self.folder / _LABELS / staged.name)

    def _withdraw(self, name: str) -> None:
        # The label first: training looks for the image of each label.
        (self.folder / _LABELS / f'{name}.txt').unlink(missing_ok=True)
        for suffix in ('jpg', 'png'):
            (self.folder / _IMAGES / f'{name}.{suffix}').unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f'{self.folder}: cannot be written ({error.strerror or error})')


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the disk has none."""
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(f'.{target.name}')
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)


def _read_decision(path: Path) -> Decision:
    try:
        if path.stat().st_size > _MAX_DECISION_BYTES:
            raise ValueError(f'larger than {_MAX_DECISION_BYTES} bytes')
        document = json.loads(path.read_text(encoding='utf-8'))
        boxes = []
        for item in document['boxes']:
            left, top, right, bottom = map(float, item['box_xyxy'])
            boxes.append(LabelBox(str(item['class']), (left, top, right, bottom)))
        if document['status'] not in STATUSES or not all(
                all(map(math.isfinite, box.box_xyxy)) for box in boxes):
            raise ValueError('a status or box that no editor writes')
        return Decision(document['status'], tuple(boxes), int(document['revision']))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f'{path}: is not a decision of the editor ({error}); remove it to decide again'
                          ) from None
