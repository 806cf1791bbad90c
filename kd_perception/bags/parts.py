# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
One storage file of a recording: known by its content, unpacked, read with or without index.

A part serves its messages as stored; what a message holds is the reader's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
import shutil
import tempfile
from typing import Any

try:
    from compression import zstd  # Python 3.14
except ImportError:
    from backports import zstd
from rosbags.interfaces import MessageDefinitionFormat, QosDurability
from rosbags.rosbag2 import Reader

from kd_perception.bags.salvage import note_foreign, Record, salvage_mcap, salvage_sqlite3
from kd_perception.errors import BagError, one_line

MCAP, SQLITE3, ROSBAG1 = '.mcap', '.db3', '.bag'
STORAGE_SUFFIXES = (MCAP, SQLITE3)
# rosbag2 writes .zstd, the command-line tool zstd .zst.
ZSTD_SUFFIXES = ('.zstd', '.zst')
ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
_MAGIC = {b'\x89MCAP0\r\n': MCAP, b'SQLite format 3\0': SQLITE3, b'#ROSBAG V': ROSBAG1}
_CHUNK_BYTES = 4 << 20
# Left free where compressed parts are unpacked.
_RESERVE_BYTES = 256 << 20


def part_key(name: str) -> str:
    """Return what a part, its compressed form and copies of other case have in common: `b_0.mcap`."""
    lower = name.lower()
    for suffix in ZSTD_SUFFIXES:
        lower = lower.removesuffix(suffix)
    return lower


def is_storage_name(name: str) -> bool:
    """Tell whether a file is named like a part of a recording, compressed or not."""
    return part_key(name).endswith(STORAGE_SUFFIXES)


def storage_of(path: Path) -> str:
    """
    Return `.mcap`, `.db3` or `.bag` by a file's first bytes, else by its name; '' if neither tells.

    :raises OSError: it cannot be read.
    """
    with path.open('rb') as file:
        head = file.read(16)
    if head.startswith(ZSTD_MAGIC):
        try:
            with zstd.open(path, 'rb') as file:
                head = file.read(16)
        except (EOFError, zstd.ZstdError):
            head = b''
    for magic, storage in _MAGIC.items():
        if head.startswith(magic):
            return storage
    return next((item for item in (*STORAGE_SUFFIXES, ROSBAG1) if part_key(path.name).endswith(item)), '')


def open_part(path: Path, scratch: Scratch, problems: list[str]):
    """
    Open one storage file.

    :param scratch: where it is unpacked if it is compressed. :param problems: gets a line for what is wrong.
    :return: an `IndexedPart` or `SalvagedPart`.
    :raises OSError, BagError: it cannot be read; no room to unpack it.
    """
    storage = storage_of(path)
    if storage == ROSBAG1:
        raise BagError(f'{path}: a ROS 1 bag; convert it first (rosbags-convert)')
    plain = scratch.plain(path, storage or MCAP, problems)
    log = plain.resolve().with_name(plain.resolve().name + '-wal')
    if plain.suffix == SQLITE3 and log.exists() and log.stat().st_size:
        problems.append(f'{log.name}: the recorder was stopped before it merged this log, which is read too')
        return SalvagedPart(plain, path.name, problems)
    try:
        return IndexedPart(plain, path.name, problems)
    except Exception as error:  # rosbags raises many kinds on damaged bytes
        said = one_line(error).replace(str(plain), path.name)
        problems.append(f'{path.name}: no usable index ({said}), read without it')
        return SalvagedPart(plain, path.name, problems)


class Scratch:
    """A temporary folder for unpacked parts, made when it is needed."""

    def __init__(self):
        self._folder: tempfile.TemporaryDirectory | None = None
        self._count = 0

    def plain(self, path: Path, storage: str, problems: list[str]) -> Path:
        """Return a file with this content, uncompressed and with the suffix that rosbags expects."""
        with path.open('rb') as file:
            packed = file.read(4) == ZSTD_MAGIC
        if not packed and path.suffix == storage:
            return path
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix='kd_perception_')
        self._count += 1
        target = Path(self._folder.name, str(self._count), Path(part_key(path.name)).stem + storage)
        target.parent.mkdir()
        if packed:
            _unpack(path, target, problems)
        else:
            target.symlink_to(path.resolve())
        return target

    def close(self) -> None:
        """Remove it; harmless when called twice."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _unpack(path: Path, target: Path, problems: list[str]) -> None:
    """Unpack a zstd file; of a damaged one what comes before the damage."""
    room = shutil.disk_usage(target.parent).free - _RESERVE_BYTES
    with zstd.open(path, 'rb') as packed, target.open('wb') as plain:
        try:
            # read1, since read would drop what it has when it meets the damage.
            while chunk := packed.read1(_CHUNK_BYTES):
                room -= len(chunk)
                if room < 0:
                    raise BagError(f'{path}: no room to unpack it in {tempfile.gettempdir()} '
                                   '(the environment variable TMPDIR names another place)')
                plain.write(chunk)
        except EOFError:
            problems.append(f'{path.name}: the compressed file is cut, it is read up to there')
        except zstd.ZstdError as error:
            problems.append(f'{path.name}: the compressed file is damaged ({one_line(error)}), '
                            'it is read up to there')


class IndexedPart:
    """
    An intact storage file, read through rosbags in stamp order.

    :ivar counts, types: number of messages and message type by topic.
    :ivar definitions: text of the message definition by topic, where the file has one in ROS' notation.
    :ivar latched: topics that were offered transient-local.
    :ivar start_ns, end_ns: log times of the first and last message, None without any.
    :raises Exception: of many kinds, where the file has no usable index.
    """

    intact = True

    def __init__(self, path: Path, name: str, problems: list[str]):
        self.path, self.name = path, name
        self._reader = Reader(path)
        self._reader.open()
        self._connections: list[Any] = []
        foreign = {}
        connections: Iterable[Any] = self._reader.connections
        for item in connections:
            if item.ext.serialization_format == 'cdr':
                self._connections.append(item)
            else:
                foreign[item.topic] = f'{item.msgtype}, {item.ext.serialization_format}'
        note_foreign(name, foreign, problems)
        self.counts: Counter = Counter()
        self.types: dict[str, str] = {}
        for item in self._connections:
            self.counts[item.topic] += item.msgcount
            self.types[item.topic] = item.msgtype
        self.definitions = {item.topic: item.msgdef.data for item in self._connections
                            if item.msgdef.format == MessageDefinitionFormat.MSG}
        self.latched = {item.topic for item in self._connections if any(
            qos.durability == QosDurability.TRANSIENT_LOCAL for qos in item.ext.offered_qos_profiles)}
        some = self._reader.message_count
        self.start_ns = self._reader.start_time if some else None
        self.end_ns = self._reader.end_time - 1 if some else None

    def records(self, topics, start_ns, problems) -> Iterator[Record]:
        """Yield the messages of the topics (None: all) from a log time on."""
        wanted = [item for item in self._connections if topics is None or item.topic in topics]
        if not wanted:
            return
        served: Counter = Counter()
        at_last: Counter = Counter()
        last_ns = None
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
            problems.append(f'{self.name}: damaged after {sum(served.values())} messages '
                            f'({one_line(error)}), going on with what can be found behind')
        # The rest in file order, without what was served (several messages may share the last stamp).
        for record in _walk(self.path, []):
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
        """Close the file."""
        self._reader.close()


class SalvagedPart:
    """A storage file without a usable index, walked in file order; the same attributes as `IndexedPart`."""

    intact = False

    def __init__(self, path: Path, name: str, problems: list[str]):
        self.path, self.name = path, name
        self.counts: Counter = Counter()
        self.types: dict[str, str] = {}
        self.latched: set[str] = set()
        self.start_ns = self.end_ns = None
        for record in _walk(path, problems):
            self.counts[record.topic] += 1
            self.types[record.topic] = record.msgtype
            self.start_ns = record.log_ns if self.start_ns is None else min(self.start_ns, record.log_ns)
            self.end_ns = record.log_ns if self.end_ns is None else max(self.end_ns, record.log_ns)

    def records(self, topics, start_ns, problems) -> Iterator[Record]:
        """Yield the messages of the topics (None: all) from a log time on."""
        for record in _walk(self.path, []):  # the first walk has told the problems
            if (topics is None or record.topic in topics) and (start_ns is None or record.log_ns >= start_ns):
                yield record

    def close(self):
        """Nothing is held open."""


def unpack_message(record: Record, limit: int) -> Record:
    """
    Return a record as it was published; rosbag2 may compress each message by itself.

    A CDR message begins with its encapsulation, never with the magic of zstd.

    :raises BagError: it cannot be unpacked, or to more than `limit` bytes.
    """
    if not record.raw.startswith(ZSTD_MAGIC):
        return record
    decoder = zstd.ZstdDecompressor()
    try:
        raw = decoder.decompress(record.raw, max_length=limit + 1)
    except zstd.ZstdError as error:
        raise BagError(f'a compressed message is damaged ({one_line(error)})') from None
    if not decoder.eof or len(raw) > limit:
        raise BagError(f'a compressed message is cut, or longer than {limit} bytes')
    return record._replace(raw=raw)


def _walk(path: Path, problems) -> Iterator[Record]:
    return salvage_mcap(path, problems) if path.suffix == MCAP else salvage_sqlite3(path, problems)
