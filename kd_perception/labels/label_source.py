# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Where the labels of a recording come from: a topic of its own, or a folder of files named as its frames."""
from collections import Counter
import hashlib
from pathlib import Path
from typing import Any

from kd_perception.bags.reader import BagReader
from kd_perception.errors import BagError, EvaluationError
from kd_perception.labels.kitti_bag import BagLabels, read_bag_labels
from kd_perception.labels.kitti_text import (
    decode_label_bytes,
    format_objects,
    KittiObjects,
    parse_label_text,
    read_label_bytes,
)
from kd_perception.labels.label_folder import list_frames
from kd_perception.messages import typestore as ts


class LabelSource:
    """
    Labels by stamp (topic) or by name (folder).

    :param source: recording, folder of images or video that the labels belong to.
    :param labels: folder of label files, or topic of the recording.
    :raises EvaluationError: neither of them, or it holds no labels.
    :raises BagError: no such topic, or of another type.
    """

    def __init__(self, source: Path, labels: str):
        self._folder: dict[str, str] = {}
        self._topic: BagLabels | None = None
        if Path(labels).is_dir():
            self._folder = list_frames(labels)
            if not self._folder:
                raise EvaluationError(f'{labels}: no label file (*.txt)')
        elif source.exists() and labels.startswith('/'):
            self._topic = read_bag_labels(source, labels)
            if not self._topic.objects:
                why = self._topic.problem
                raise EvaluationError(f'{source}: topic {labels} holds no labels'
                                      f'{f"; its messages are left out: {why}" if why else ""}')
        else:
            raise EvaluationError(f'{labels}: neither a folder of labels nor a topic')
        self._digest = hashlib.sha256()
        self._used: set = set()
        self.names = self._topic.names if self._topic else _recorded_names(source)

    def name_of(self, stamp_ns: int, name: str) -> str:
        """Return the frame's own name where the recording tells it, else ``name``."""
        return self.names.get(stamp_ns, name)

    def of(self, stamp_ns: int, name: str) -> KittiObjects | None:
        """Return a frame's labels, None where it has none."""
        key: Any = stamp_ns if self._topic else self.name_of(stamp_ns, name)
        if self._topic:
            found = self._topic.objects.get(stamp_ns)
            if found is None:
                return None
            content = format_objects(found).encode()
        else:
            path = self._folder.get(key)
            if path is None:
                return None
            content = read_label_bytes(path)
            found = parse_label_text(decode_label_bytes(content, path), path, scores=False)
        if key not in self._used:
            self._used.add(key)
            self._digest.update(f'{key}\0{len(content)}\0'.encode())
            self._digest.update(content)
        return found

    def unused(self) -> list[str]:
        """Return the labelled frames that were never asked for."""
        if self._topic:
            rest = [stamp for stamp in self._topic.objects if stamp not in self._used]
            return [self.name_of(stamp, f'stamp {stamp}') for stamp in rest]
        return [name for name in self._folder if name not in self._used]

    @property
    def left_out(self) -> Counter:
        """Label messages that could not be used."""
        return self._topic.left_out if self._topic else Counter()

    @property
    def sha256(self) -> str:
        """Digest of the labels that were used."""
        return self._digest.hexdigest()


def _recorded_names(source: Path) -> dict[int, str]:
    """Return the frame names of a recording made by `convert`, so that label files match by name."""
    try:
        with BagReader(source) as bag:
            topics = [name for name, item in bag.topics.items() if item.msgtype == ts.DETECTION_ARRAY
                      and f'{name}/label_2' in bag.topics]
    except BagError:
        return {}
    return read_bag_labels(source, topics[0]).names if len(topics) == 1 else {}
