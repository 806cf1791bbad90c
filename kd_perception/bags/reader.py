# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Read rosbag2 recordings (sqlite3 and MCAP; a folder or a single file) without ROS.

Damage is the normal end of a recording on a vehicle (power cut, full disk). The readable part is served, and
what is missing is counted and said in `BagReader.problems`; only a recording that yields nothing is an error.
"""
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
import heapq
import itertools
from pathlib import Path

import yaml

from kd_perception.bags.inventory import metadata_file, METADATA_NAME, open_folder
from kd_perception.bags.parts import (
    is_storage_name,
    open_part,
    ROSBAG1,
    Scratch,
    storage_of,
    STORAGE_SUFFIXES,
    unpack_message,
)
from kd_perception.bags.salvage import Record
from kd_perception.errors import BagError, one_line
from kd_perception.files import read_text

MAX_METADATA_BYTES = 16 * 2 ** 20
MAX_MESSAGE_BYTES = 2 ** 28


@dataclass(frozen=True)
class BagTopic:
    """
    A topic of a recording; `count` messages can be read, `latched` if it was offered transient-local.

    :param definition: of the message, as recorded (.msg text of the type and those in it); empty: unknown.
    """

    name: str
    msgtype: str
    count: int
    latched: bool = False
    definition: str = ''


def is_bag(path) -> bool:
    """
    Tell whether `path` looks like a rosbag2 folder or storage file.

    A folder by the names in it, a file also by its first bytes: a renamed recording is one.
    """
    path = Path(path)
    if path.is_dir():
        return metadata_file(path) is not None or any(is_storage_name(item.name) for item in path.iterdir())
    if is_storage_name(path.name):
        return True
    try:
        return path.is_file() and bool(storage_of(path))
    except OSError:
        return False


class BagReader:
    """
    An open recording; a context manager.

    :param path: rosbag2 folder (with or without `metadata.yaml`), `.mcap` or `.db3` file.
    :raises BagError: missing, not a recording, or nothing in it can be read.

    `topics` maps a name to its `BagTopic`; `problems` holds one line for each thing that could not be read;
    `lost_messages` counts the messages that the recording says it has and that cannot be read (0 if intact,
    None where the recording does not say). Both are complete once `messages()` has run to its end.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.problems: list[str] = []
        self._listed: list = []
        self._others: list = []
        self._scratch = Scratch()
        self._declared: dict[str, int] | None = None
        if not self.path.exists():
            raise BagError(f'{self.path}: no such recording')
        try:
            self._open()
            self._count()
        except BagError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise BagError(f'{self.path}: not a readable recording: {one_line(error)}') from None

    def _count(self) -> None:
        counts: Counter = Counter()
        types: dict[str, str] = {}
        definitions: dict[str, str] = {}
        latched: set[str] = set()
        for part in self._parts:
            counts.update(part.counts)
            types.update(part.types)
            latched |= part.latched
            definitions.update(getattr(part, 'definitions', {}))
        self.topics: dict[str, BagTopic] = {
            name: BagTopic(name, types[name], counts[name], name in latched, definitions.get(name, ''))
            for name in sorted(types)}
        self.lost_messages: int | None = 0 if all(part.intact for part in self._parts) else None
        if self._declared is not None:
            total = sum(self._declared.values())
            self.lost_messages = sum(max(0, count - counts[name]) for name, count in self._declared.items())
            if self.lost_messages:
                self.problems.append(f'{self.lost_messages} of {total} recorded messages cannot be read')
        if not types:
            detail = '; '.join(self.problems) or 'it holds no message'
            raise BagError(f'{self.path}: nothing in this recording can be read: {detail}')
        self._lost_at_open = self.lost_messages

    @property
    def _parts(self) -> list:
        return [*self._listed, *self._others]

    @property
    def start_ns(self) -> int | None:
        """Log time of the first message; None if there is none."""
        return min((part.start_ns for part in self._parts if part.start_ns is not None), default=None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Close the files; harmless when called twice."""
        for part in self._parts:
            part.close()
        self._listed, self._others = [], []
        self._scratch.close()

    def messages(self, topics=None, start_ns: int | None = None) -> Iterator[Record]:
        """
        Yield the messages in stamp order (file order where the index is lost).

        :param topics: names to serve, None for all.
        :param start_ns: skip what was logged earlier.
        """
        topics = None if topics is None else set(topics)
        served: Counter = Counter()
        lost = 0
        for record in self._records(topics, start_ns):
            try:
                if len(record.raw) > MAX_MESSAGE_BYTES:
                    raise BagError(f'a message of {len(record.raw)} bytes is too long')
                record = unpack_message(record, MAX_MESSAGE_BYTES)
            except BagError as error:
                self._note(f'{record.topic}: {error}, it was left out')
                lost += 1
                served[record.topic] += 1
                self.lost_messages = (self._lost_at_open or 0) + lost
                continue
            served[record.topic] += 1
            yield record
        if start_ns is None:
            missing = sum(max(0, topic.count - served[name]) for name, topic in self.topics.items()
                          if topics is None or name in topics)
            if missing and self._lost_at_open == 0:
                self.lost_messages = lost + missing
                self._note(f'{missing} messages could not be read')

    def _records(self, topics, start_ns) -> Iterator[Record]:
        """Yield from the parts of metadata.yaml one after the other, from others by their log times."""
        problems: list[str] = []
        listed = itertools.chain.from_iterable(
            part.records(topics, start_ns, problems) for part in self._listed)
        others = [part.records(topics, start_ns, problems) for part in self._others]
        for record in heapq.merge(listed, *others, key=lambda record: record.log_ns):
            yield record
            while problems:
                self._note(problems.pop(0))
        for problem in problems:
            self._note(problem)

    def _note(self, problem: str) -> None:
        """Keep a problem once, however often the messages are read."""
        if problem not in self.problems:
            self.problems.append(problem)

    def _open(self) -> None:
        if not self.path.is_dir():
            storage = storage_of(self.path)
            if storage == ROSBAG1:
                raise BagError(f'{self.path}: a ROS 1 bag; convert it first (rosbags-convert)')
            if storage not in STORAGE_SUFFIXES:
                raise BagError(f'{self.path}: not a recording, expected a folder, .mcap or .db3')
            self._others.append(open_part(self.path, self._scratch, self.problems))
            return
        metadata = self._read_metadata()
        names = [Path(str(name)).name for name in metadata.get('relative_file_paths') or []]
        if not names:
            self.problems.append(f'{METADATA_NAME} is missing or empty (the recorder did not finish)')
        parts = open_folder(self.path, names, self._scratch, self.problems)
        self._listed, self._others = parts.listed, parts.others
        if not self._parts:
            raise BagError(f'{self.path}: the folder holds no .mcap or .db3 file that can be read: '
                           f'{"; ".join(self.problems)}')

    def _read_metadata(self) -> dict:
        path = metadata_file(self.path)
        if path is None:
            return {}
        try:
            text = read_text(path, MAX_METADATA_BYTES, BagError)
        except BagError as error:
            self.problems.append(f'{METADATA_NAME}: ignored ({str(error).removeprefix(f"{path}: ")})')
            return {}
        try:
            info = yaml.safe_load(text)['rosbag2_bagfile_information']
            self._declared = {item['topic_metadata']['name']: int(item['message_count'])
                              for item in info['topics_with_message_count']}
            return dict(info)
        except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            self._declared = None
            self.problems.append(f'{METADATA_NAME}: unreadable ({one_line(error)})')
            return {}
