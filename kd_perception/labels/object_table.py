# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Objects of many frames as flat arrays: what the vectorised protocols work on."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kd_perception.errors import EvaluationError
from kd_perception.labels.kitti_text import KittiObjects


def fold_case(name: str) -> str:
    """Lower the ASCII letters of a class name, as strcasecmp compares in the official program."""
    return name.encode('utf-8', 'surrogateescape').lower().decode('utf-8', 'surrogateescape')


@dataclass(frozen=True)
class ObjectTable:
    """
    Objects of F frames, frame after frame, in file order (N objects in all).

    :ivar frames: frame names, length F.
    :ivar offsets: (F + 1,) int64: frame f holds the objects offsets[f]:offsets[f + 1].
    :ivar type_names: the distinct type names as written, length T.
    :ivar type_ids: (N,) int32 index into ``type_names``.
    :ivar boxes_xyxy: (N, 4) float64 [px].
    :ivar truncation: (N,) float64.
    :ivar occlusion: (N,) int64.
    :ivar scores: (N,) float64; zeros for labels.
    """

    frames: tuple[str, ...]
    offsets: np.ndarray
    type_names: tuple[str, ...]
    type_ids: np.ndarray
    boxes_xyxy: np.ndarray
    truncation: np.ndarray
    occlusion: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.type_ids)

    @property
    def frame_ids(self) -> np.ndarray:
        """(N,) int64: the frame of each object."""
        return np.repeat(np.arange(len(self.frames)), np.diff(self.offsets))

    def is_type(self, names: Iterable[str]) -> np.ndarray:
        """(N,) bool: the object's type is one of ``names``, without regard to case."""
        wanted = {fold_case(name) for name in names}
        known = np.array([fold_case(name) in wanted for name in self.type_names] + [False])
        return known[self.type_ids]

    def take_frames(self, index: Sequence[int] | np.ndarray) -> 'ObjectTable':
        """Return the table of the frames ``index``, in that order; -1 stands for an empty frame."""
        chosen = np.asarray(index, dtype=np.int64).reshape(-1)
        counts = np.where(chosen >= 0, np.diff(self.offsets, append=0)[chosen], 0)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.repeat(self.offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        names = tuple(self.frames[i] if i >= 0 else '' for i in chosen)
        return ObjectTable(names, offsets, self.type_names, self.type_ids[rows], self.boxes_xyxy[rows],
                           self.truncation[rows], self.occlusion[rows], self.scores[rows])

    def select(self, keep: np.ndarray) -> 'ObjectTable':
        """Return the table with the objects where ``keep`` (N,) bool is set; all frames stay."""
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        return ObjectTable(self.frames, offsets, self.type_names, self.type_ids[keep],
                           self.boxes_xyxy[keep], self.truncation[keep], self.occlusion[keep],
                           self.scores[keep])

    def renamed(self, names: dict[str, str]) -> 'ObjectTable':
        """Return the table with the types of ``names`` {old: new} renamed; case counts."""
        return replace(self, type_names=tuple(names.get(name, name) for name in self.type_names))

    @classmethod
    def from_objects(cls, objects: Sequence[KittiObjects], frames: Sequence[str] = ()) -> 'ObjectTable':
        """
        Gather one `KittiObjects` a frame.

        :param frames: frame names; numbers from 0 where left out.
        :raises EvaluationError: the number of names differs from the number of frames.
        """
        names = tuple(frames) if len(frames) else tuple(f'{i:06d}' for i in range(len(objects)))
        if len(names) != len(objects):
            raise EvaluationError(f'{len(names)} frame names for {len(objects)} frames')
        codes: dict[str, int] = {}
        type_ids: list[int] = []
        for item in objects:
            type_ids.extend(codes.setdefault(name, len(codes)) for name in item.types)
        counts = [len(item) for item in objects]

        boxes = [np.zeros((0, 4))] + [item.boxes_xyxy for item in objects]
        none = [np.zeros(0)]
        truncation = none + [item.truncation for item in objects]
        occlusion = none + [item.occlusion for item in objects]
        scores = none + [np.zeros(len(item)) if item.scores is None else item.scores for item in objects]
        return cls(names, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), tuple(codes),
                   np.array(type_ids, dtype=np.int32), np.concatenate(boxes), np.concatenate(truncation),
                   np.concatenate(occlusion).astype(np.int64), np.concatenate(scores))

    def frame_objects(self, frame: int) -> KittiObjects:
        """Return one frame's objects; columns that the table does not hold are unknown."""
        rows = slice(int(self.offsets[frame]), int(self.offsets[frame + 1]))
        types = [self.type_names[i] for i in self.type_ids[rows]]
        found = KittiObjects.from_boxes(types, self.boxes_xyxy[rows], self.scores[rows])
        return KittiObjects(found.types, self.truncation[rows], self.occlusion[rows], found.alpha,
                            found.boxes_xyxy, found.dimensions, found.location, found.rotation_y,
                            found.scores)


def concatenate_tables(tables: Sequence[ObjectTable]) -> ObjectTable:
    """Return one table of all frames of ``tables``, in order."""
    if not tables:
        return ObjectTable.from_objects([])
    codes: dict[str, int] = {}
    ids = []
    for table in tables:
        mapping = [codes.setdefault(name, len(codes)) for name in table.type_names]
        ids.append(np.array(mapping + [0], dtype=np.int32)[table.type_ids])
    starts = np.cumsum([0] + [len(table) for table in tables])
    offsets = [table.offsets[:-1] + start for table, start in zip(tables, starts)] + [starts[-1:]]
    return ObjectTable(
        tuple(name for table in tables for name in table.frames), np.concatenate(offsets).astype(np.int64),
        tuple(codes), np.concatenate(ids), np.concatenate([table.boxes_xyxy for table in tables]),
        np.concatenate([table.truncation for table in tables]),
        np.concatenate([table.occlusion for table in tables]),
        np.concatenate([table.scores for table in tables]))
