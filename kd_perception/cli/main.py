# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The command line: `python -m kd_perception COMMAND`, and the same commands as executables.

A command is a module with `HELP`, `EXAMPLES`, `add_arguments(parser)` and `run(args) -> int`. It is
imported only when it is asked for, so that one command's dependencies are not another's.

Exit codes: 0 success; 1 a check that the command makes has failed; 2 wrong usage or input, with
one line on stderr; 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import os
import signal
import sys

from kd_perception import __version__
from kd_perception.errors import KdPerceptionError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.processes.interrupts import end_quietly, exit_code, raised_signals, word_for

# Command -> one line of help. The line stands here so that `--help` imports no command.
COMMANDS = {
    'demo': 'run the nodes on real footage and show what they see',
    'detect': 'run a model on a folder of images, a video or a bag',
    'evaluate': 'average precision, miss rate and calibration, with a report',
    'convert': 'make bags out of KITTI folders',
    'pseudo-label': 'label images with a model, to train on them',
    'committee': 'measure several detectors and what they see together',
    'check-labels': 'list everything that is wrong with labelled images',
    'train': 'train a detector',
    'fit-gate': 'teach a student when to ask its teacher',
    'ablate': 'measure what each ingredient of a student buys',
    'export': 'turn a checkpoint into one ONNX file',
    'review': 'show the frames that the hybrid was unsure about, and label them',
    'poc': 'before and after on your own images: accuracy, speed, cost, gaps, in one page',
    'security-policy': 'write the SROS2 policy of the nodes',
    'model': 'show or verify a model file',
    'status': 'show what the nodes of a running graph report',
    'benchmark': 'measure the node and the models on this computer',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return run_command(argv[0], argv[1:])
    parser = argparse.ArgumentParser(
        prog='python -m kd_perception', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Binary-weight object detection for ROS 2, with a full-precision teacher as fallback.',
        epilog='commands:\n' + '\n'.join(f'  {name:<16} {text}' for name, text in COMMANDS.items())
        + '\n\n`python -m kd_perception COMMAND --help` explains a command and shows examples.')
    parser.add_argument('--version', action='version', version=f'kd_perception {__version__}')
    parser.add_argument('command', metavar='COMMAND', nargs='?', choices=COMMANDS)
    parser.parse_args(argv[:1])
    parser.print_help()
    return EXIT_BAD_INPUT


def process_main(name: str | None = None) -> int:
    """
    Run one command as what this process is for; returns the exit code.

    :param name: of the command; None: it stands on the command line.
    """
    try:
        return main() if name is None else run_command(name)
    finally:
        end_quietly()


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """
    Run the command `name` with its own arguments; returns the exit code.

    Errors of this package, and files that cannot be read or written, become one line on stderr.
    """
    prog = f'kd_perception {name}'
    try:
        module = importlib.import_module(f'kd_perception.cli.{module_name(name)}')
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith('kd_perception'):
            raise
        return _missing_package(prog, error)
    parser = argparse.ArgumentParser(
        prog=prog, description=module.HELP, epilog='examples:\n' + module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    with raised_signals() as received:
        try:
            code = int(module.run(args))
            _flush_output()
            return code
        except KeyboardInterrupt as error:
            return _interrupted(prog, received, error)
        except Exception as error:
            if received:    # whoever was interrupted has made another error of it
                return _interrupted(prog, received, error)
            return _failed(prog, error)


def _interrupted(prog: str, received: Sequence[int], error: BaseException) -> int:
    number = received[0] if received else signal.SIGINT
    more = f'; {error}' if isinstance(error, KeyboardInterrupt) and error.args else ''
    print(f'{prog}: {word_for(number)}{more}', file=sys.stderr)
    return exit_code(number)


def _failed(prog: str, error: Exception) -> int:
    """Return the exit code of an error that its one line explains; raise what is a mistake of ours."""
    if isinstance(error, KdPerceptionError):
        print(f'{prog}: error: {error}', file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError):
        if not error.name or error.name.split('.')[0] == 'kd_perception':
            raise error
        return _missing_package(prog, error)
    elif isinstance(error, OSError):
        return _unusable_file(prog, error)
    else:
        raise error
    return EXIT_BAD_INPUT


def _unusable_file(prog: str, error: OSError) -> int:
    """Explain an error of the operating system: a full disk, a file that cannot be opened."""
    try:
        _flush_output()
    except OSError:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return EXIT_OK      # the reader of our output (head, less) went away: not an error
    place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ''
    print(f'{prog}: error: {f"{place}: " if place else ""}{error.strerror or error}', file=sys.stderr)
    return EXIT_BAD_INPUT


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = 'standard output'
        raise


def module_name(command: str) -> str:
    """Return the name of the module under `kd_perception.cli` that runs a command."""
    return command.replace('-', '_')


def _missing_package(prog: str, error: ModuleNotFoundError) -> int:
    print(f'{prog}: error: needs the Python package {error.name!r}, which is not installed', file=sys.stderr)
    return EXIT_BAD_INPUT
