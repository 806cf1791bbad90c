# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Write recordings that `ros2 bag`, Foxglove and rosbags open: sqlite3 or MCAP, a folder or one file."""
from pathlib import Path
import shutil
import tempfile
from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from kd_perception.errors import BagError
from kd_perception.messages.typestore import serialize, typestore

_STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
_SUFFIXES = {'.mcap': 'mcap', '.db3': 'sqlite3'}
_UNSET = QosTime(0, 0)


class BagWriter:
    """
    A recording being written; use it as a context manager.

    :param path: a name ending in `.mcap` or `.db3` becomes one file; any other name a rosbag2 folder with
        `metadata.yaml`.
    :param storage: `mcap` or `sqlite3`; None: by the suffix, else mcap.
    :param overwrite: replace what lies at `path`. Without it an existing path is refused.
    :raises BagError: the path exists, cannot be written, or the storage is unknown.

    The recording is written beside `path` and moved there when it is complete: a reader never sees half of
    it, and an exception inside the `with` block leaves nothing behind.
    """

    def __init__(self, path, storage: str | None = None, overwrite: bool = False):
        self.path = Path(path)
        self._single_file = self.path.suffix in _SUFFIXES
        storage = storage or _SUFFIXES.get(self.path.suffix, 'mcap')
        if storage not in _STORAGES:
            raise BagError(f'storage {storage!r} is unknown, expected one of {", ".join(_STORAGES)}')
        if self._single_file and _SUFFIXES[self.path.suffix] != storage:
            raise BagError(f'{self.path}: the suffix contradicts storage {storage!r}')
        if self.path.exists() and not overwrite:
            raise BagError(f'{self.path}: exists already, and overwriting was not asked for')
        self._connections: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self.message_count = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._work = Path(tempfile.mkdtemp(prefix=f'.{self.path.name}.', dir=self.path.parent))
        except OSError as error:
            raise BagError(f'{self.path}: cannot be written: {error.strerror}') from None
        name = self.path.stem if self._single_file else self.path.name
        writer = Writer(self._work / name, version=9, storage_plugin=_STORAGES[storage])
        writer.open()
        self._writer: Any = writer      # None once the recording is closed

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None:
            self.close()
        else:
            self.abort()

    def add_topic(self, topic: str, msgtype: str, latched: bool = False) -> None:
        """
        Announce a topic; needed only for a latched one or one that may stay without messages.

        :param latched: record the QoS of a transient-local publisher, so that a player offers it again.
        :raises BagError: the type is unknown to the typestore, or the topic has another type already.
        """
        known = self._types.get(topic)
        if known is not None:
            if known != msgtype:
                raise BagError(f'{self.path}: topic {topic} holds {known}, not {msgtype}')
            return
        if msgtype not in typestore().fielddefs:
            raise BagError(f'{self.path}: the definition of {msgtype} is not known')
        durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
        qos = Qos(QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, durability, _UNSET, _UNSET,
                  QosLiveliness.AUTOMATIC, _UNSET, False)
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=typestore(), offered_qos_profiles=[qos])
        self._types[topic] = msgtype

    def write(self, topic: str, message, stamp_ns: int) -> None:
        """Write a rosbags message (see `kd_perception.messages.build`) with the log time `stamp_ns`."""
        self.write_raw(topic, message.__msgtype__, serialize(message), stamp_ns)

    def write_raw(self, topic: str, msgtype: str, raw: bytes, stamp_ns: int) -> None:
        """
        Write CDR bytes as they are.

        :raises BagError: unknown type, other type than before on this topic, or no space left.
        """
        self.add_topic(topic, msgtype)
        try:
            self._writer.write(self._connections[topic], int(stamp_ns), raw)
        except OSError as error:
            raise BagError(f'{self.path}: cannot be written: {error}') from None
        self.message_count += 1

    def close(self) -> None:
        """Finish the recording and move it to its place."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            if not self.message_count:
                # An empty recording has no times; rosbags would store 2**63 - 1 as its start.
                writer.min_timestamp = writer.max_timestamp = 0
            writer.close()
            made = writer.path
            if self._single_file:
                made = next(item for item in writer.path.iterdir() if item.suffix == self.path.suffix)
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            elif self.path.exists():
                self.path.unlink()
            made.replace(self.path)
        except OSError as error:
            raise BagError(f'{self.path}: cannot be written: {error}') from None
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def abort(self) -> None:
        """Drop the recording; nothing is left on the disk."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.abort()
            shutil.rmtree(self._work, ignore_errors=True)
