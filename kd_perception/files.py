# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Text files as users have them, files that are whole or not there, and locks."""

from __future__ import annotations

from contextlib import suppress
import errno
import fcntl
import os
from pathlib import Path
import re
import secrets
import stat
from typing import IO

from kd_perception.errors import KdPerceptionError

MAX_TEXT_BYTES = 1 << 30
# UTF-32's mark begins with that of UTF-16 in the same byte order, so it is looked for first.
_OTHER_MARKS = {b'\xff\xfe\0\0': 'UTF-32', b'\0\0\xfe\xff': 'UTF-32', b'\xff\xfe': 'UTF-16',
                b'\xfe\xff': 'UTF-16'}
# Editors on Windows begin a file with it; where such files were joined it begins a line further down.
_MARK = '\ufeff'


def read_text(path: str | os.PathLike, most_bytes: int = MAX_TEXT_BYTES,
              error: type[KdPerceptionError] = KdPerceptionError) -> str:
    """
    Read a text file, the one way in which this package does; see `decode_text`.

    :param error: class of the errors: what the file is to the caller.
    :raises KdPerceptionError: missing, no regular file, larger than `most_bytes`, or not UTF-8 text.
    """
    return decode_text(read_bytes(path, most_bytes, error), str(path), error)


def read_bytes(path: str | os.PathLike, most_bytes: int, error: type[KdPerceptionError]) -> bytes:
    """Read a regular file of at most `most_bytes`; errors of the class `error` name it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise error(f'{path}: cannot be read: not a regular file')
        with open(path, 'rb') as file:
            data = file.read(most_bytes + 1)
    except OSError as problem:
        raise error(f'{path}: cannot be read: {problem.strerror or problem}') from None
    if len(data) > most_bytes:
        raise error(f'{path}: larger than {most_bytes} bytes, expected at most that')
    return data


def decode_text(data: bytes, source: str, error: type[KdPerceptionError] = KdPerceptionError) -> str:
    """
    Decode UTF-8, with or without a byte order mark; a mark left in would become part of the first word.

    :param source: the file's name for messages.
    :raises KdPerceptionError: of the class `error`: `source:line:` of the first byte that is not UTF-8, or
        the encoding that a mark of another kind announces.
    """
    for mark, name in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise error(f'{source}: is {name} text, not UTF-8; save it again as UTF-8')
    try:
        text = data.decode('utf-8')
    except UnicodeDecodeError as problem:
        line = data.count(b'\n', 0, problem.start) + 1
        raise error(f'{source}:{line}: not UTF-8 text') from None
    if '\0' in text:
        line = text.count('\n', 0, text.index('\0')) + 1
        raise error(f'{source}:{line}: holds a zero byte, expected UTF-8 text (UTF-16 without a mark?)')
    return re.sub(f'(?m)^{_MARK}+', '', text) if _MARK in text else text


def write_whole(path: Path, content: str | bytes, durable: bool = False) -> None:
    """
    Write beside `path` and move into place, so that nobody reads half a file.

    :param durable: return when the file and its name have reached the disk, so that a power failure keeps it.
    :raises OSError: it cannot be written; what was there before stays.
    """
    data = content.encode('utf-8') if isinstance(content, str) else content
    # Named before it is made, unlike mkstemp's: a signal in between must not leave a file that nobody knows.
    name = path.parent / f'.{path.name}.{secrets.token_hex(8)}'
    try:
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), 'wb') as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None   # not the temporary name, or none at all
        raise
    if durable:
        sync_path(path.parent)


def sync_path(path: Path) -> None:
    """
    Have a file's content, or the names in a folder, reach the disk.

    :raises OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> IO[str] | None:
    """
    Lock a file, made where it is missing, until it is closed or the process ends, however that ends.

    :return: the open file, which holds the lock; None where another one holds it.
    :raises OSError: the file cannot be made.
    """
    file = open(path, 'w', encoding='utf-8')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def natural_key(text: str) -> tuple:
    """Sort key that puts `frame_2` before `frame_10`."""
    return tuple((1, int(part), part) if part.isdigit() else (0, 0, part)
                 for part in re.split(r'(\d+)', text))


class FolderLock:
    """A folder that this process alone works in until `close`; see `lock_folder`."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Give it back; harmless when called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_folder(folder: str | os.PathLike) -> FolderLock | None:
    """
    Lock a folder until it is given back or the process ends, however that ends; no file is made for it.

    :return: None where another process, or another part of this one, has it. A file system without locks
        gives it to everybody.
    :raises OSError: there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(descriptor)
            return None
    return FolderLock(descriptor)
