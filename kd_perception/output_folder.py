# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Folders that a command writes: one run at a time, two runs never mix, and an unfinished one is known as such.

While a run works, `unfinished_run.jsonl` lies in its folder, and it stays there when the run does not come to
its end. It names the command and each file before that is written, so that the next run can remove them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
import json
import os
from pathlib import Path
import tempfile
from typing import Any

from kd_perception.errors import ConfigError
from kd_perception.files import FolderLock, lock_folder

MARKER = 'unfinished_run.jsonl'
_MAX_MARKER_BYTES = 1 << 30


class OutputFolder:
    """
    A folder that this run alone writes; a context manager.

    :param command: as messages name it.
    :param finished: returns the files of a finished run of this command, relative to the folder; None where
        there is none. It is asked after the folder has been taken.
    :raises ConfigError: it cannot be made or written, another run works there, or another command has left
        an unfinished run.

    Leaving it without an exception removes the marker. With one the marker stays if there is a file of this
    run. A folder that was made here goes again, unless `make_room` was called.
    """

    def __init__(self, folder: str | os.PathLike, command: str,
                 finished: Callable[[], Iterable[str] | None] = lambda: None):
        self.path, self._command, self._finished = Path(folder), command, finished
        self._made: list[Path] = []
        self._written: dict[str, None] = {}
        self._unfinished: list[str] | None = None
        self._begun = False
        self._lock: FolderLock | None = None
        self._marker: Any = None      # a text file while the folder is taken

    def __enter__(self) -> OutputFolder:
        try:
            self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            self._remove_made()
            raise cannot_be_written(self.path, error) from error
        except BaseException:
            self._remove_made()
            raise
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        left = kind is not None and (self._unfinished is not None or any(
            os.path.lexists(self.path / name) for name in self._written))
        if not left:
            (self.path / MARKER).unlink(missing_ok=True)
        elif isinstance(error, KeyboardInterrupt) and not error.args:
            error.args = (f'{self.path} holds an unfinished run, as {MARKER} there says',)
        self._close()
        if kind is not None and not self._begun:
            self._remove_made()

    def make_room(self, overwrite: bool, alone: bool = True) -> None:
        """
        Remove the files of an earlier run; others stay.

        :param overwrite: whether that was asked for.
        :param alone: without `overwrite`, refuse whatever lies in the folder, not only an earlier run.
        :raises ConfigError: there is something, and it was not asked for.
        """
        self._begun = True
        finished = self._finished()
        earlier = None if finished is None and self._unfinished is None else [
            *(self._unfinished or ()), *(finished or ())]
        what = ('holds an unfinished run' if self._unfinished is not None else
                'holds an earlier run' if earlier is not None else
                'is not empty' if alone and any(item.name != MARKER for item in self.path.iterdir()) else '')
        if what and not overwrite:
            raise ConfigError(f'{self.path}: {what}; give --overwrite or another --out')
        try:
            for name in (self._unfinished or ())[-1:]:
                self._remove_temporary(self.path / name)
            for name in earlier or ():
                self._remove(name)
            self._begin()
        except OSError as error:
            raise cannot_be_written(self.path, error) from error

    def new(self, name: str) -> Path:
        """
        Return where a file of this run goes; it is noted down, and its folder is made.

        :param name: relative to the folder, with `/`.
        :raises ConfigError: there is such a file, of this run or of others.
        """
        path = self.path / name
        if name in self._written:
            raise ConfigError(f'{path}: two results of this run have this name')
        if os.path.lexists(path):
            raise ConfigError(f'{path}: exists already, and is of no earlier run; choose another --out')
        try:
            self._written[name] = None
            self._marker.write(json.dumps(name) + '\n')
            self._marker.flush()
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_be_written(path, error) from error
        return path

    @property
    def files(self) -> list[str]:
        """The files of this run, in the order in which they were begun."""
        return list(self._written)

    def _take(self) -> None:
        """Lock the folder, and read what an unfinished run has noted in its marker."""
        self._lock = lock_folder(self.path)
        if self._lock is None:
            raise in_use(self.path)
        try:
            self._marker = open(self.path / MARKER, 'a+', encoding='utf-8')
            if os.fstat(self._marker.fileno()).st_size:
                self._unfinished = self._read()
            else:
                self._begin()
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        for item in (self._marker, self._lock):
            if item is not None:
                item.close()

    def _read(self) -> list[str]:
        """Return the files of an unfinished run; ConfigError if another command's, or no marker of ours."""
        self._marker.seek(0)
        lines = self._marker.read(_MAX_MARKER_BYTES).split('\n')
        try:
            command = json.loads(lines[0])['command']
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f'{self.path / MARKER}: is damaged, or not of this package; choose another '
                              '--out, or remove it') from None
        if command != self._command:
            raise ConfigError(f'{self.path}: holds an unfinished run of `{command}`; choose another --out, '
                              'or remove what it left')
        return _noted(lines[1:])

    def _begin(self) -> None:
        """Write the marker's first line, in place of what an earlier run has noted."""
        self._unfinished = None
        self._marker.truncate(0)
        self._marker.write(json.dumps({
            'command': self._command, 'process': os.getpid(),
            'meaning': 'a run is writing here, or did not finish; --overwrite replaces its files'}) + '\n')
        self._marker.flush()

    def _remove(self, name: str) -> None:
        """Remove a file of an earlier run, and the folders that are then empty."""
        path = self.path / name
        root = self.path.resolve()
        # The list is read from a file: it must not lead elsewhere.
        try:
            if root not in (path.parent.resolve() / path.name).parents:
                return
            path.unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            pass        # gone already, or no name of a file
        for parent in path.parents:
            if parent == self.path:
                break
            with suppress(OSError):
                parent.rmdir()

    def _remove_temporary(self, path: Path) -> None:
        """Remove what `files.write_whole` had begun when its process was killed."""
        with suppress(OSError):
            for item in path.parent.iterdir():
                if item.name.startswith(f'.{path.name}.'):
                    item.unlink()

    def _remove_made(self) -> None:
        for place in self._made:
            with suppress(OSError):
                place.rmdir()


def unfinished_run_of(folder: Path) -> Path | None:
    """
    Tell whether files of a folder were written by a run that has not come to its end.

    :return: the run's folder, this one or one of the two around it; None: there is no such run.
    """
    folder = folder.resolve()
    for place in (folder, *folder.parents[:2]):
        try:
            with open(place / MARKER, encoding='utf-8', errors='replace') as file:
                lines = file.read(_MAX_MARKER_BYTES).split('\n')
        except OSError:
            continue
        if any((place / name).parent == folder for name in _noted(lines[1:])):
            return place
    return None


def _noted(lines: Iterable[str]) -> list[str]:
    """Return the names of files in a marker's lines."""
    names = []
    for line in lines:
        with suppress(ValueError):     # the last one may be cut
            names.append(json.loads(line))
    return [name for name in names if isinstance(name, str)]


def cannot_be_written(path: str | os.PathLike, error: OSError) -> ConfigError:
    """Return the error for a file or folder that cannot be written."""
    return ConfigError(f'{path}: cannot be written ({error.strerror or error})')


def in_use(path: str | os.PathLike) -> ConfigError:
    """Return the error for a folder that another run works in."""
    return ConfigError(f'{path}: another run is writing here; wait for it, or give another folder')


def check_file_place(path: Path) -> None:
    """
    See whether a file can be written here, before the work that makes its content.

    :raises ConfigError: its folder cannot be made or written to, or is full, or a folder has this name.
    """
    if path.is_dir():
        raise ConfigError(f'{path}: is a folder, expected the name of a file')
    _check_place(path, path.parent)


def check_folder_place(folder: Path) -> None:
    """As `check_file_place`, for a folder; one that was not there is not left."""
    _check_place(folder, folder)


def _check_place(named: Path, folder: Path) -> None:
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_something(folder)
    except OSError as error:
        raise cannot_be_written(named, error) from error
    finally:
        for place in made:
            with suppress(OSError):
                place.rmdir()


@contextmanager
def folder_of_one(folder: Path) -> Iterator[None]:
    """
    Keep other runs out of a folder, which is made where it is missing; a context manager.

    :raises ConfigError: one is at work there, or it cannot be made or written to, or is full.
    """
    check_folder_place(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
    except OSError as error:
        raise cannot_be_written(folder, error) from error
    if lock is None:
        raise in_use(folder)
    with lock:
        yield


def _write_something(folder: Path) -> None:
    """Write a block and remove it: permissions alone do not tell of a full disk or a quota."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix='.try_writing.') as file:
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
