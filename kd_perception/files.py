# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, and folders that belong to one process at a time."""

from __future__ import annotations

from contextlib import suppress
import fcntl
import os
from pathlib import Path
import tempfile
from typing import IO


def write_whole(path: Path, content: str | bytes, durable: bool = False) -> None:
    """
    Write beside `path` and move into place, so that nobody reads half a file.

    :param durable: return when the file and its name have reached the disk, so that a power failure keeps it.
    :raises OSError: it cannot be written; what was there before stays.
    """
    data = content.encode('utf-8') if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
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
