# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
A folder of model versions, of which one is current for each role, and the history of how that came to be.

::

    STORE/.lock                     held while something changes
    STORE/student/history.json      which version is current, and every promotion, rollback and pruning
    STORE/student/000001/           a version: never written again
        model.onnx  manifest.yaml   the manifest pins the file by sha256
        report_1.json ...           what it was promoted on

A version is written under a hidden name, forced to the disk and renamed; then `history.json` is replaced, the
one step that makes it current. Whatever stops a promotion, readers see the old state or the new one. They
take no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import datetime
import json
import os
from pathlib import Path
import re
import shutil
import tempfile

from kd_perception.config import from_mapping, to_mapping
from kd_perception.errors import ConfigError, ModelError
from kd_perception.files import sync_path, take_lock
from kd_perception.models.history import Event, RoleHistory

ROLES = ('student', 'teacher')
MODEL_FILE = 'model.onnx'
HISTORY_FILE = 'history.json'
LOCK_FILE = '.lock'
# Some 4,000 events.
MAX_HISTORY_BYTES = 1 << 20
SCHEME = 'store:'
_REFERENCE = re.compile(r'store:(?P<folder>[^#]+)#(?P<role>[a-z]+)(@(?P<version>\d{1,9}))?')
_VERSION_FOLDER = re.compile(r'\d{6,9}')
_STAGING, _GONE = '.new-', '.gone-'


@dataclasses.dataclass(frozen=True)
class StoreReference:
    """A model named by its place in a store: `store:FOLDER#ROLE`, or `store:FOLDER#ROLE@VERSION`."""

    folder: Path
    role: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> StoreReference | None:
        """
        Read a reference; None where the text does not begin with `store:`.

        :raises ModelError: it does, and goes on otherwise than expected.
        """
        if not text.startswith(SCHEME):
            return None
        match = _REFERENCE.fullmatch(text)
        if match is None or match['role'] not in ROLES:
            raise ModelError(f'{text!r:.200}: expected store:FOLDER#ROLE or store:FOLDER#ROLE@VERSION, '
                             f'the role one of {", ".join(ROLES)}')
        return cls(Path(match['folder']), match['role'], int(match['version']) if match['version'] else None)

    def resolve(self) -> Path:
        """
        Return the model file that this means now; a version's files never change.

        :raises ModelError: no such store, role or version.
        """
        return ModelStore(self.folder).model_file(self.role, self.version)


class Disk:
    """The steps that a store changes in; a seam for tests, which let each of them fail."""

    def make_folder(self, parent: Path) -> Path:
        """Make a folder of a hidden name of its own."""
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=parent))
        folder.chmod(0o755)
        return folder

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file, down to the disk."""
        with open(path, 'xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Move in one step."""
        os.rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Have the names in a folder reach the disk."""
        sync_path(folder)

    def remove(self, path: Path) -> None:
        """Remove a file or a folder, as far as that goes."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def utc_now() -> str:
    """Return the time now, UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')


class ModelStore:
    """
    One store.

    :param disk: a seam for tests. :param now: gives the time of an event.
    """

    def __init__(self, folder: str | Path, disk: Disk | None = None, now: Callable[[], str] = utc_now):
        """Nothing is read or made yet."""
        self.folder = Path(folder)
        self._disk = disk or Disk()
        self._now = now

    def history(self, role: str) -> RoleHistory:
        """
        Return a role's history, empty where nothing was promoted yet.

        :raises ModelError: no such store; the file is damaged.
        """
        if not self.folder.is_dir():
            raise ModelError(f'{self.folder}: no such model store')
        path = self.folder / role / HISTORY_FILE
        if not path.exists():
            return RoleHistory()
        try:
            with open(path, 'rb') as file:
                content = file.read(MAX_HISTORY_BYTES + 1)
            if len(content) > MAX_HISTORY_BYTES:
                raise ModelError(f'{path}: more than {MAX_HISTORY_BYTES} bytes')
            return from_mapping(RoleHistory, json.loads(content), str(path))
        except OSError as error:
            raise ModelError(f'{path}: cannot be read ({error.strerror or error})') from error
        except (ValueError, RecursionError) as error:
            raise ModelError(f'{path}: is not JSON: {str(error):.100}') from error
        except ConfigError as error:
            raise ModelError(str(error)) from error

    def version_folder(self, role: str, version: int) -> Path:
        """Return where a version lies."""
        return self.folder / role / f'{version:06d}'

    def model_file(self, role: str, version: int | None = None) -> Path:
        """
        Return a version's model file, None: the current one's.

        :raises ModelError: there is none.
        """
        history = self.history(role)
        version = history.current if version is None else version
        if version is None:
            raise ModelError(f'{self.folder}: no {role} was promoted yet')
        path = self.version_folder(role, version) / MODEL_FILE
        if version in history.pruned or not path.is_file():
            known = [event.version for event in history.events if event.action == 'promote']
            there = sorted(set(known) - history.pruned)
            raise ModelError(f'{self.folder}: {role} has no version {version}; there: '
                             f'{", ".join(map(str, there)) or "none"}')
        return path

    @contextlib.contextmanager
    def locked(self, make: bool = False) -> Iterator[None]:
        """
        Hold the store; one process at a time changes it.

        :param make: make the folder where it is missing.
        :raises ModelError: it cannot be written, or another process holds it.
        """
        with _errors_of(self.folder):
            if make:
                self.folder.mkdir(parents=True, exist_ok=True)
            elif not self.folder.is_dir():
                raise ModelError(f'{self.folder}: no such model store')
            lock = take_lock(self.folder / LOCK_FILE)
        if lock is None:
            raise ModelError(f'{self.folder}: another promotion or rollback is under way')
        with lock:
            self._clear()
            yield

    def add(self, role: str, files: Sequence[tuple[str, bytes]], sha256: str, name: str) -> int:
        """
        Add a version and make it current; call it inside `locked`.

        :param files: name and content of each file of the version.
        :return: its number.
        :raises ModelError: it cannot be written; the version that was current still is.
        """
        history = self.history(role)
        version = 1 + max([0, *(event.version for event in history.events), *self._numbers(role)])
        role_folder, folder = self.folder / role, self.version_folder(role, version)
        staging = None
        try:
            with _errors_of(self.folder):
                role_folder.mkdir(exist_ok=True)
                self._disk.sync_folder(self.folder)
                staging = self._disk.make_folder(role_folder)
                for file_name, content in files:
                    self._disk.write(staging / file_name, content)
                self._disk.sync_folder(staging)
                self._disk.rename(staging, folder)
                staging = folder
                self._disk.sync_folder(role_folder)
            self._commit(role, history, Event(self._now(), 'promote', version, sha256, name, history.current))
        except ModelError:
            if staging is not None and self.history(role).current != version:
                self._disk.remove(staging)
            raise
        return version

    def roll_back(self, role: str, version: int | None, check: Callable[[Path], tuple[str, str]]) -> Event:
        """
        Make an earlier version current again.

        :param version: None: the one that was current before this one was promoted.
        :param check: given the version's model file, raises where it is damaged; returns sha256 and name.
        :raises ModelError: there is no such version, or it is damaged; nothing has changed.
        """
        with self.locked():
            history = self.history(role)
            if version is None:
                line = history.line
                if len(line) < 2:
                    raise ModelError(f'{self.folder}: there is no {role} before the current one')
                version = line[-2]
            if version == history.current:
                raise ModelError(f'{self.folder}: version {version} is the current {role} already')
            sha256, name = check(self.model_file(role, version))
            event = Event(self._now(), 'rollback', version, sha256, name, history.current)
            self._commit(role, history, event)
            return event

    def prune(self, role: str, version: int) -> None:
        """
        Remove a version that is not current.

        :raises ModelError: it is, or there is none such.
        """
        with self.locked():
            history = self.history(role)
            folder = self.version_folder(role, version)
            if version == history.current:
                raise ModelError(f'{self.folder}: version {version} is the current {role}')
            if not folder.is_dir():
                raise ModelError(f'{self.folder}: {role} has no version {version}')
            promoted = [e for e in history.events if e.version == version and e.action == 'promote']
            if promoted and version not in history.pruned:
                self._commit(role, history, Event(
                    self._now(), 'prune', version, promoted[0].sha256, promoted[0].name, history.current))
            gone = folder.with_name(f'{_GONE}{folder.name}')
            with _errors_of(self.folder):
                self._disk.rename(folder, gone)
            self._disk.remove(gone)

    def _commit(self, role: str, history: RoleHistory, event: Event) -> None:
        """Replace the history: the one step that counts."""
        text = json.dumps(to_mapping(history.with_event(event)), indent=1) + '\n'
        role_folder = self.folder / role
        if len(text) > MAX_HISTORY_BYTES:
            raise ModelError(f'{role_folder / HISTORY_FILE}: is full ({MAX_HISTORY_BYTES} bytes); '
                             'begin a new store with the current version')
        temporary = role_folder / f'{_STAGING}{HISTORY_FILE}'
        with _errors_of(self.folder):
            try:
                self._disk.write(temporary, text.encode())
                self._disk.rename(temporary, role_folder / HISTORY_FILE)
            except OSError:
                self._disk.remove(temporary)
                raise
            self._disk.sync_folder(role_folder)

    def _numbers(self, role: str) -> list[int]:
        """Return the numbers of all version folders, also of one that a crash has kept out of the history."""
        folder = self.folder / role
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if _VERSION_FOLDER.fullmatch(name))

    def _clear(self) -> None:
        """Remove what a crash has left half-written or half-removed."""
        for role in ROLES:
            folder = self.folder / role
            for path in list(folder.iterdir()) if folder.is_dir() else ():
                if path.name.startswith((_STAGING, _GONE)):
                    self._disk.remove(path)


@contextlib.contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    """Turn what the system says (disk full, read-only) into one line that names the store."""
    try:
        yield
    except OSError as error:
        raise ModelError(f'{folder}: cannot be written ({error.strerror or error}); '
                         'what was current still is') from error
