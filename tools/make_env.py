# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Create or bring up to date the virtual environment of a machine without a ROS install.

    python3 tools/make_env.py --venv .venv [--train] [--docs]

The steps are: the environment itself, the locked wheels, vision_msgs, this package (editable), with --train
PyTorch, and with --docs what builds the documentation. Each step leaves a stamp that holds a digest of all it
was made from, its predecessors included; a step whose stamp agrees is skipped, so a second call does nothing.
Exit code 0, or 1 with one line that says what to do.

Only the standard library is used, and pip of the new environment.
"""
import argparse
import contextlib
import fcntl
import hashlib
import os
from pathlib import Path
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'kd_perception'
OLDEST_PYTHON = (3, 10)
# What an already sourced ROS install, another virtual environment or a parent process that was started from
# the ROS wheels would smuggle in. The last one: the wheels restart Python once with a library path of their
# own and mark that in this variable; a child of another environment that inherits it finds no libraries.
FOREIGN = ('PYTHONPATH', 'PYTHONHOME', 'LD_LIBRARY_PATH', 'VIRTUAL_ENV', 'AMENT_PREFIX_PATH',
           'CMAKE_PREFIX_PATH', 'COLCON_PREFIX_PATH', 'RMW_IMPLEMENTATION', 'ROS_VERSION',
           'ROS_PYTHON_VERSION', '_ROS_WHEELS_BOOTSTRAP_COMPLETE')
SETUP_SH = """\
# Source this file to use the environment in a POSIX shell: . {venv}/setup.sh
unset {foreign}
export AMENT_PREFIX_PATH='{venv}'
export ROS_DISTRO=jazzy
export PATH='{venv}/bin':"$PATH"
"""


class EnvironmentFailure(Exception):
    """A step failed; the message is for the user."""


class Environment:
    """One virtual environment and its stamps."""

    def __init__(self, venv: Path):
        self.venv = venv
        # The environment's own name for its interpreter, not the interpreter that it links to: Python finds
        # the environment by it, and so does the restart of the ROS wheels.
        self.python = venv / 'bin' / 'python'
        self.stamps = venv / '.stamps'
        self.digest = ''

    def step(self, name: str, sources, action) -> None:
        """Run `action` unless this step was made from the same sources (and the same steps before it)."""
        self.digest = _digest(self.digest, name, *sources)
        stamp = self.stamps / name
        if stamp.is_file() and stamp.read_text() == self.digest:
            return
        print(f'environment: {name} ...', flush=True)
        begin = time.monotonic()
        stamp.unlink(missing_ok=True)
        action()
        self.stamps.mkdir(exist_ok=True)
        stamp.write_text(self.digest)
        print(f'environment: {name} done in {time.monotonic() - begin:.0f} s', flush=True)

    def pip(self, *arguments: str) -> None:
        """Run the environment's pip."""
        command = [str(self.python), '-m', 'pip', '--disable-pip-version-check', '--quiet', *arguments]
        if subprocess.run(command, env=clean_environment(), cwd=ROOT).returncode:
            raise EnvironmentFailure(f'pip failed (above): {" ".join(command[2:])}')

    def _run(self, *arguments: str) -> str:
        """Run the environment's Python; return what it printed."""
        result = subprocess.run([str(self.python), *arguments], env=clean_environment(), cwd=ROOT,
                                capture_output=True, text=True)
        if result.returncode:
            raise EnvironmentFailure(f'python {" ".join(arguments)} failed\n{result.stderr}')
        return result.stdout

    def install_wheels(self, *names: str) -> None:
        """Install lock files: exact versions, checked digests, nothing that they do not list."""
        for name in names:
            self.pip('install', '--require-hashes', '--no-deps', '--no-build-isolation',
                     '-r', str(ROOT / 'requirements' / name))

    def install_vision_msgs(self) -> None:
        """Build vision_msgs against the wheels in the environment, and install it."""
        if shutil.which('c++') is None and shutil.which('g++') is None:
            raise EnvironmentFailure('a C++ compiler is needed; on Debian and Ubuntu: apt install g++')
        # In a copy: building leaves files beside the sources.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / 'vision_msgs'
            shutil.copytree(ROOT / 'tools' / 'vision_msgs', copy,
                            ignore=shutil.ignore_patterns('build', '*.egg-info', '__pycache__'))
            self.pip('install', '--no-build-isolation', '--no-deps', '--force-reinstall', str(copy))

    def install_package(self) -> None:
        """Install this package in place, and its executables where ROS looks for them."""
        self.pip('install', '--no-build-isolation', '--no-deps', '--editable', str(ROOT))
        # An editable install leaves out data_files: launch, config and model files, the ament index entry.
        shutil.rmtree(self.venv / 'share' / PACKAGE, ignore_errors=True)
        self._run('setup.py', '--quiet', 'install_data', '--install-dir', str(self.venv))
        script = ('from importlib.metadata import distribution\n'
                  f'for entry in distribution({PACKAGE!r}).entry_points:\n'
                  f'    print(entry.name if entry.group == "console_scripts" else "")')
        names = self._run('-c', script).split()
        executables = self.venv / 'lib' / PACKAGE
        shutil.rmtree(executables, ignore_errors=True)
        executables.mkdir(parents=True)
        for name in names:
            # Moved, not linked: bin/ is on PATH, and a name such as `convert` would hide another program's.
            (self.venv / 'bin' / name).rename(executables / name)
        foreign = ' '.join(FOREIGN)
        (self.venv / 'setup.sh').write_text(SETUP_SH.format(venv=self.venv, foreign=foreign))

    def install_train(self) -> None:
        """Install PyTorch: whichever build pip's own configuration (an index of CPU builds, say) leads to."""
        print('environment: PyTorch is large: 0.2 GB without support for GPUs, 3 GB with it', flush=True)
        self.pip('install', '-r', str(ROOT / 'requirements' / 'train.txt'))


def clean_environment() -> dict:
    """Return the environment variables without what belongs to another Python or ROS."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN}


def create(venv: Path) -> None:
    """Create an empty virtual environment with the running Python."""
    include = Path(sysconfig.get_path('include'))
    if not (include / 'Python.h').is_file():
        raise EnvironmentFailure(
            f'{sys.executable} has no headers ({include}/Python.h), which building vision_msgs needs; '
            'on Debian and Ubuntu: apt install python3-dev')
    shutil.rmtree(venv, ignore_errors=True)
    command = [sys.executable, '-m', 'venv', str(venv)]
    result = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    if result.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise EnvironmentFailure(
            f'{" ".join(command)} failed; on Debian and Ubuntu: apt install python3-venv\n{result.stdout}')


def update(venv: Path, train: bool, docs: bool) -> None:
    """Do the steps that are not done yet."""
    environment = Environment(venv)
    base = Path(sys.base_prefix).resolve()
    environment.step('python', [str(venv), str(base), sys.version], lambda: create(venv))
    locks = [ROOT / 'requirements' / name for name in ('build.txt', 'lock.txt')]
    environment.step('wheels', locks,
                     lambda: environment.install_wheels('build.txt', 'lock.txt'))
    after_wheels = environment.digest
    environment.step('vision_msgs', _files(ROOT / 'tools' / 'vision_msgs'), environment.install_vision_msgs)
    # The Python modules are not among these sources: an editable install reads them in place.
    sources = [ROOT / name for name in ('setup.py', 'setup.cfg', 'package.xml', 'pyproject.toml')]
    for folder in ('resource', 'config', 'launch', 'models'):
        sources += _files(ROOT / folder)
    environment.step('package', [str(ROOT), *sources, Path(__file__)], environment.install_package)
    if train:
        environment.digest = after_wheels
        environment.step('train', [ROOT / 'requirements' / 'train.txt'], environment.install_train)
    if docs:
        environment.digest = after_wheels
        environment.step('docs', [ROOT / 'requirements' / 'docs.txt'],
                         lambda: environment.install_wheels('docs.txt'))


def _files(folder: Path) -> list:
    skip = {'__pycache__', 'build'}
    return sorted(
        path for path in folder.rglob('*') if path.is_file()
        and not any(part in skip or part.endswith('.egg-info') for part in path.relative_to(ROOT).parts))


def _digest(*parts) -> str:
    """Return one digest of strings and of files (their names and contents)."""
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else b''
        name = str(part.relative_to(ROOT)) if isinstance(part, Path) else part
        total.update(f'{len(name)}:{name}:{len(content)}:'.encode())
        total.update(content)
    return total.hexdigest()


@contextlib.contextmanager
def _exclusive(venv: Path):
    """Let two makes at once wait for each other instead of installing into each other's feet."""
    with open(f'{venv}.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'environment: waiting for another process that works on {venv}', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='folder of the environment')
    parser.add_argument('--train', action='store_true', help='install PyTorch too')
    parser.add_argument('--docs', action='store_true', help='install Sphinx too')
    arguments = parser.parse_args()
    if sys.version_info < OLDEST_PYTHON:
        print(f'make_env: error: Python {sys.version.split()[0]} is too old, 3.10 or newer is needed',
              file=sys.stderr)
        return 1
    venv = Path(os.path.abspath(arguments.venv))
    venv.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _exclusive(venv):
            update(venv, arguments.train, arguments.docs)
    except EnvironmentFailure as error:
        print(f'make_env: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
