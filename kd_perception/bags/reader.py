# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Read rosbag2 recordings (sqlite3 and MCAP; a folder or a single file) without ROS.

Damage is the normal end of a recording on a vehicle (power cut, full disk). The readable part is served, and
what is missing is counted and said in `BagReader.problems`; only a recording that yields nothing is an error.
"""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
import re
from typing import Dict, Iterator, List, Optional

from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader
import yaml

from kd_perception.bags.salvage import Record, salvage_mcap, salvage_sqlite3
from kd_perception.errors import BagError
from kd_perception.files import read_text

STORAGE_SUFFIXES = ('.mcap', '.db3')
MAX_METADATA_BYTES = 16 * 2 ** 20
MAX_MESSAGE_BYTES = 2 ** 28


@dataclass(frozen=True)
class BagTopic:
    """A topic of a recording; `count` messages can be read, `latched` if it was offered transient-local."""

    name: str
    msgtype: str
    count: int
    latched: bool = False


def natural_key(text: str) -> tuple:
    """Sort key that puts `frame_2` before `frame_10`."""
    return tuple((1, int(part), part) if part.isdigit() else (0, 0, part)
                 for part in re.split(r'(\d+)', text))


def is_bag(path) -> bool:
    """Tell whether `path` looks like a rosbag2 folder or storage file (by names, nothing is opened)."""
    path = Path(path)
    if path.is_dir():
        return (path / 'metadata.yaml').is_file() or any(
            item.suffix in STORAGE_SUFFIXES or item.name.endswith(('.mcap.zstd', '.db3.zstd'))
            for item in path.iterdir())
    return path.suffix in STORAGE_SUFFIXES


class _IndexedPart:
    """An intact storage file, or a whole compressed folder, read through rosbags in stamp order."""

    def __init__(self, path: Path):
        self.path = path
        self._reader = Reader(path)
        self._reader.open()
        self._connections = [item for item in self._reader.connections
                             if item.ext.serialization_format == 'cdr']
        self.counts = Counter()
        self.types = {}
        for item in self._connections:
            self.counts[item.topic] += item.msgcount
            self.types[item.topic] = item.msgtype
        self.latched = {item.topic for item in self._connections if any(
            qos.durability == QosDurability.TRANSIENT_LOCAL for qos in item.ext.offered_qos_profiles)}
        self.start_ns = self._reader.start_time if self._reader.message_count else None

    def records(self, topics, start_ns, problems) -> Iterator[Record]:
        wanted = [item for item in self._connections if topics is None or item.topic in topics]
        if not wanted:
            return
        served, last_ns, at_last = Counter(), None, Counter()
        try:
            for connection, log_ns, raw in self._reader.messages(wanted, start=start_ns):
                if log_ns != last_ns:
                    last_ns, at_last = log_ns, Counter()
                at_last[connection.topic] += 1
                served[connection.topic] += 1
                yield Record(connection.topic, connection.msgtype, log_ns, bytes(raw))
            return
        except GeneratorExit:
            raise
        except Exception as error:  # rosbags raises many kinds on damaged bytes
            problems.append(f'{self.path.name}: damaged after {sum(served.values())} messages '
                            f'({_one_line(error)}), going on with what can be found behind')
        if self.path.is_dir():
            return
        # The rest in file order, without what was served (several messages may share the last stamp).
        for record in _SalvagedPart.walk(self.path, []):
            if topics is not None and record.topic not in topics:
                continue
            if start_ns is not None and record.log_ns < start_ns:
                continue
            if last_ns is not None and record.log_ns < last_ns:
                continue
            if record.log_ns == last_ns and at_last[record.topic] > 0:
                at_last[record.topic] -= 1
                continue
            yield record

    def close(self):
        self._reader.close()


class _SalvagedPart:
    """A storage file without a usable index, walked in file order."""

    def __init__(self, path: Path, problems: List[str]):
        self.path = path
        self.counts = Counter()
        self.types = {}
        self.latched = set()
        self.start_ns = None
        for record in self.walk(path, problems):
            self.counts[record.topic] += 1
            self.types[record.topic] = record.msgtype
            self.start_ns = record.log_ns if self.start_ns is None else min(self.start_ns, record.log_ns)

    @staticmethod
    def walk(path, problems) -> Iterator[Record]:
        return salvage_mcap(path, problems) if path.suffix == '.mcap' else salvage_sqlite3(path, problems)

    def records(self, topics, start_ns, problems) -> Iterator[Record]:
        for record in self.walk(self.path, []):  # the first walk has told the problems
            if (topics is None or record.topic in topics) and (start_ns is None or record.log_ns >= start_ns):
                yield record

    def close(self):
        pass


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())[:200] or type(error).__name__


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
        self.problems: List[str] = []
        self._parts: list = []
        self._declared: Optional[Dict[str, int]] = None
        if not self.path.exists():
            raise BagError(f'{self.path}: no such recording')
        try:
            self._open()
        except BagError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise BagError(f'{self.path}: not a readable recording: {_one_line(error)}') from None
        counts, types = Counter(), {}
        for part in self._parts:
            counts.update(part.counts)
            types.update(part.types)
        latched = set().union(*(part.latched for part in self._parts))
        self.topics: Dict[str, BagTopic] = {
            name: BagTopic(name, types[name], counts[name], name in latched) for name in sorted(types)}
        self.lost_messages: Optional[int] = None if self._salvaged else 0
        if self._declared is not None:
            total = sum(self._declared.values())
            self.lost_messages = sum(max(0, count - counts[name]) for name, count in self._declared.items())
            if self.lost_messages:
                self.problems.append(f'{self.lost_messages} of {total} recorded messages cannot be read')
        if not types:
            self.close()
            detail = '; '.join(self.problems) or 'it holds no message'
            raise BagError(f'{self.path}: nothing in this recording can be read: {detail}')

    @property
    def _salvaged(self) -> bool:
        return any(isinstance(part, _SalvagedPart) for part in self._parts)

    @property
    def start_ns(self) -> Optional[int]:
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
        self._parts = []

    def messages(self, topics=None, start_ns: int = None) -> Iterator[Record]:
        """
        Yield the messages in stamp order (file order where the index is lost).

        :param topics: names to serve, None for all.
        :param start_ns: skip what was logged earlier.
        """
        topics = None if topics is None else set(topics)
        served = Counter()
        for part in self._parts:
            for record in part.records(topics, start_ns, self.problems):
                if len(record.raw) > MAX_MESSAGE_BYTES:
                    self.problems.append(f'{record.topic}: a message of {len(record.raw)} bytes was skipped')
                    self.lost_messages = (self.lost_messages or 0) + 1
                    continue
                served[record.topic] += 1
                yield record
        if start_ns is None:
            missing = sum(max(0, topic.count - served[name]) for name, topic in self.topics.items()
                          if topics is None or name in topics)
            if missing and self.lost_messages == 0:
                self.lost_messages = missing
                self.problems.append(f'{missing} messages could not be read')

    def _open(self) -> None:
        if not self.path.is_dir():
            if self.path.suffix == '.bag':
                raise BagError(f'{self.path}: a ROS 1 bag; convert it first (rosbags-convert)')
            if self.path.suffix not in STORAGE_SUFFIXES:
                raise BagError(f'{self.path}: not a recording, expected a folder, .mcap or .db3')
            self._parts.append(self._open_part(self.path))
            return
        metadata = self._read_metadata()
        if metadata and str(metadata.get('compression_mode') or 'none').lower() != 'none':
            self._parts.append(_IndexedPart(self.path))
            return
        names = [Path(str(name)).name for name in metadata.get('relative_file_paths') or []]
        if not names:
            names = sorted((item.name for item in self.path.iterdir() if item.suffix in STORAGE_SUFFIXES),
                           key=natural_key)
            self.problems.append('metadata.yaml is missing or empty (the recorder did not finish)')
        if not names:
            raise BagError(f'{self.path}: the folder holds no .mcap or .db3 file')
        for name in names:
            if (self.path / name).is_file():
                self._parts.append(self._open_part(self.path / name))
            else:
                self.problems.append(f'{name}: this file of the recording is missing')

    def _read_metadata(self) -> dict:
        path = self.path / 'metadata.yaml'
        if not path.is_file():
            return {}
        try:
            text = read_text(path, MAX_METADATA_BYTES, BagError)
        except BagError as error:
            self.problems.append(f'metadata.yaml: ignored ({str(error).removeprefix(f"{path}: ")})')
            return {}
        try:
            info = yaml.safe_load(text)['rosbag2_bagfile_information']
            self._declared = {item['topic_metadata']['name']: int(item['message_count'])
                              for item in info['topics_with_message_count']}
            return dict(info)
        except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            self._declared = None
            self.problems.append(f'metadata.yaml: unreadable ({_one_line(error)})')
            return {}

    def _open_part(self, path: Path):
        log = path.with_name(path.name + '-wal')
        if path.suffix == '.db3' and log.exists() and log.stat().st_size:
            self.problems.append(
                f'{log.name}: the recorder was stopped before it merged this log, which is read too')
            return _SalvagedPart(path, self.problems)
        try:
            return _IndexedPart(path)
        except Exception as error:  # rosbags raises many kinds on damaged bytes
            self.problems.append(f'{path.name}: no usable index ({_one_line(error)}), read without it')
            return _SalvagedPart(path, self.problems)
