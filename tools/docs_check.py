# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Check the documentation: links, anchors, commands, named files and the width of lines.

    python tools/docs_check.py            # everything that needs no process of its own
    python tools/docs_check.py --run      # and the code blocks after `<!-- docs-check: run -->`

A command in a code block is handed to the real argument parser, which must accept it. Launch arguments, node
parameters and make targets must exist, and so must every file of this repository that a page names. Marked
blocks run in order, page by page, in a scratch folder that holds a rendered drive (`my_drive`).

Exit code 0, or 1 with one line for each problem: file:line: what is wrong.
"""
import argparse
import ast
from collections.abc import Iterator
import contextlib
import importlib
import io
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
import tempfile
from typing import NamedTuple
from unittest import mock

import yaml

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
RUN_MARK = '<!-- docs-check: run -->'
RUN_TIMEOUT_S = 300
PYTHON_WORDS = ('python', 'python3', '.venv/bin/python')
CHECKED = (*PYTHON_WORDS, 'make', 'ros2')
# Node executable -> the file that holds all of its parameters.
NODE_CONFIG = {'detector_node': 'detector', 'fallback_node': 'fallback', 'metrics_node': 'metrics',
               'replay_node': 'replay'}
REPOSITORY_PATH = re.compile(
    r'(?:config|docs|examples|kd_perception|launch|models|requirements|test|tools)/'
    r'(?:[\w./-]*(?:\w\.\w+|/))?')


class Problem(NamedTuple):
    """Something wrong in a page."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f'{path}:{self.line}: {self.text}'


class Block(NamedTuple):
    """A fenced code block: its first line's number, its lines, whether it is marked to run."""

    line: int
    lines: list[str]
    run: bool


class Page(NamedTuple):
    """A Markdown file, taken apart: code blocks, and the lines outside of them."""

    path: Path
    prose: list[tuple[int, str]]
    blocks: list[Block]


def pages() -> list[Path]:
    """Return the files to check."""
    return [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'models' / 'README.md',
            *sorted((ROOT / 'docs').rglob('*.md'))]


def read_page(path: Path) -> Page:
    """Take a Markdown file apart."""
    prose, blocks, block, fence, run = [], [], None, '', False
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        mark = re.match(r'\s*(```+)', line)
        if block is not None:
            if mark and mark[1] == fence:
                blocks.append(block)
                block, run = None, False
            else:
                block.lines.append(line)
        elif mark:
            block, fence = Block(number + 1, [], run), mark[1]
        else:
            prose.append((number, line))
            if line.strip():
                run = line.strip() == RUN_MARK
    return Page(path, prose, blocks)


def check_page(path: Path) -> Iterator[Problem]:
    """Find everything that is wrong in one file, without running anything."""
    page = read_page(path)
    for number, line in page.prose:
        if len(line) > WIDTH and not line.lstrip().startswith('|') and not re.fullmatch(r'\S*\(\S+\)', line):
            yield Problem(path, number, f'{len(line)} characters, expected at most {WIDTH}')
        for link in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'`[^`]*`', '', line)):
            yield from (Problem(path, number, text) for text in check_link(path, link))
        for span in re.findall(r'`([^`]+)`', line):
            yield from (Problem(path, number, text) for text in check_span(span))
    for block in page.blocks:
        for number, command in commands(block):
            if any(len(line) > WIDTH for line in command.splitlines()):
                yield Problem(path, number, f'a command wider than {WIDTH} characters')
            yield from (Problem(path, number, text) for text in check_command(command))


def check_link(path: Path, link: str) -> Iterator[str]:
    """Find out whether a relative link leads somewhere."""
    if re.match(r'[a-z]+:', link):
        return
    name, _, anchor = link.partition('#')
    target = path.parent / name if name else path
    if not target.exists():
        yield f'link to {link}: there is no such file'
    elif anchor and anchor not in anchors(target):
        yield f'link to {link}: {target.name} has no such heading'


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub and Sphinx give the headings of a page."""
    headings = [line.lstrip('#') for _, line in read_page(path).prose if re.match(r'#+ ', line)]
    return {re.sub(r'[^\w\- ]', '', text.strip().lower()).replace(' ', '-') for text in headings}


def check_span(span: str) -> Iterator[str]:
    """Find files and modules of this repository that a code span names and that are not there."""
    if REPOSITORY_PATH.fullmatch(span) and not (ROOT / span).exists():
        yield f'`{span}`: there is no such file'
    if re.fullmatch(r'kd_perception(\.\w+){2,}', span) and not module_or_attribute(span):
        yield f'`{span}`: there is no such module'


def module_or_attribute(name: str) -> bool:
    """Tell whether a dotted name is a module of the package, or a name inside one."""
    parts = name.split('.')
    for length in (len(parts), len(parts) - 1, len(parts) - 2):
        stem = ROOT.joinpath(*parts[:length])
        source = stem.with_suffix('.py')
        if stem.is_dir() or source.is_file():
            return length == len(parts) or source.is_file() and parts[length] in source.read_text()
    return False


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """Return the commands of a code block that are this package's: line number and text."""
    number, text = block.line, ''
    for offset, line in enumerate(block.lines):
        number = number if text else block.line + offset
        text += line
        if line.endswith('\\'):
            text += '\n'
            continue
        words = text.replace('$ ', '').split()
        words = [word for word in words if word not in ('do', 'then', 'do;')]
        if words and words[0] in CHECKED and '=' not in words[1:2]:
            yield number, text
        elif re.match(r'\s*(do|for|[A-Z_]+=)\b', text) and any(word in CHECKED for word in words):
            yield number, text
        text = ''


def simple_commands(text: str) -> list[list[str]]:
    """Split a line of shell into the words of its simple commands."""
    # shlex would take the # inside store:FOLDER#ROLE for a comment, too.
    text = re.sub(r'(?<=\s)#.*', '', text)
    lexer = shlex.shlex(text.replace('\\\n', ' '), posix=True, punctuation_chars='();<>|&')
    lexer.whitespace_split = True
    lexer.commenters = ''
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ('do', 'then', 'done') or word and set(word) <= set('();|&'):
            found.append([])
        else:
            found[-1].append(word)
    for words in found:
        while words and re.match(r'[A-Z_]+=', words[0]):
            del words[0]
        for index, word in enumerate(words):
            if word in ('>', '<', '2>', '>>'):
                del words[index:]
                break
    return [words for words in found if words]


def check_command(text: str) -> Iterator[str]:
    """Find out whether a command of this package would be accepted."""
    try:
        found = simple_commands(text)
    except ValueError as error:
        yield f'not a shell command ({error}): {text.strip()}'
        return
    for words in found:
        for path in (word.partition(':=')[2] or word for word in words):
            if re.match(r'(config|launch|test|tools|requirements)/', path) and not (ROOT / path).exists():
                yield f'{path}: there is no such file'
        if words[0] in PYTHON_WORDS and words[1:2] == ['-m']:
            yield from check_module(words[2], words[3:])
        elif words[0] == 'make':
            yield from check_make(words[1:])
        elif words[:3] == ['ros2', 'run', 'kd_perception']:
            yield from check_executable(words[3], words[4:])
        elif words[:3] == ['ros2', 'launch', 'kd_perception']:
            yield from check_launch(words[3], words[4:])


class _Parsed(Exception):
    """The arguments were accepted."""


def check_module(name: str, arguments: list[str]) -> Iterator[str]:
    """Hand `python -m NAME ARGUMENTS` to the parser of that module."""
    if name.startswith('kd_perception.nodes.'):
        yield from check_executable(name.rpartition('.')[2], arguments)
        return
    if name.partition('.')[0] != 'kd_perception':
        return
    real = argparse.ArgumentParser.parse_args

    def parse_args(parser, args=None, namespace=None):
        real(parser, args, namespace)
        raise _Parsed

    errors = io.StringIO()
    program = [f'-m {name}', *arguments]
    try:
        module = importlib.import_module('kd_perception.cli.main' if name == 'kd_perception' else name)
        with mock.patch.object(sys, 'argv', program), contextlib.redirect_stderr(errors), \
                contextlib.redirect_stdout(io.StringIO()), \
                mock.patch.object(argparse.ArgumentParser, 'parse_args', parse_args):
            module.main()
    except _Parsed:
        return
    except SystemExit as stop:
        if not stop.code:  # --help
            return
    except ModuleNotFoundError as error:
        if (error.name or '').split('.')[0] in ('torch', 'onnx'):
            return  # the parser of a training module cannot be loaded here
        yield f'{name}: {error}'
        return
    yield f'{name}: {errors.getvalue().strip().splitlines()[-1] if errors.getvalue() else "not accepted"}'


def check_make(words: list[str]) -> Iterator[str]:
    """Find targets and variables that the Makefile does not have."""
    text = (ROOT / 'Makefile').read_text()
    for word in words:
        name, equals, _ = word.partition('=')
        pattern = rf'^{re.escape(name)} \?=' if equals else rf'^{re.escape(name)}:'
        if not re.search(pattern, text, re.M):
            yield f'make {word}: the Makefile has no such {"variable" if equals else "target"}'


def check_executable(name: str, arguments: list[str]) -> Iterator[str]:
    """Check a node's parameters, or a command's arguments."""
    if name not in NODE_CONFIG:
        yield from check_module('kd_perception', [name, *arguments])
        return
    content = yaml.safe_load((ROOT / 'config' / f'{NODE_CONFIG[name]}.yaml').read_text())
    known = {key for node in content.values() for key in node['ros__parameters']}
    for flag, value in zip(arguments, arguments[1:]):
        if flag == '-p' and value.partition(':=')[0] not in known:
            yield f'{name}: there is no parameter {value.partition(":=")[0]!r}'


def check_launch(name: str, arguments: list[str]) -> Iterator[str]:
    """Find launch arguments that a launch file does not declare."""
    path = ROOT / 'launch' / name
    if not path.is_file():
        yield f'there is no launch file {name}'
        return
    # Its own table of arguments, and those that all launch files share.
    known = {key.value for source in (path, *(ROOT / 'kd_perception' / 'nodes').rglob('launch_*.py'))
             for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Assign)
             and isinstance(node.value, ast.Dict) and getattr(node.targets[0], 'id', '').endswith('ARGUMENTS')
             for key in node.value.keys if isinstance(key, ast.Constant)}
    for argument in arguments:
        key, assignment, _ = argument.partition(':=')
        if not assignment and not key.startswith('-') or assignment and key not in known:
            yield f'{name} has no argument {argument!r}'


def check_references() -> Iterator[Problem]:
    """Find files outside docs/ that name a page which is not there."""
    for folder in ('kd_perception', 'config', 'launch', 'test', 'tools'):
        for path in sorted((ROOT / folder).rglob('*')):
            if path.suffix not in ('.py', '.yaml', '.json', '.xml'):
                continue
            for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
                for name in re.findall(r'\bdocs/[\w/-]+\.md\b', line):
                    if not (ROOT / name).is_file():
                        yield Problem(path, number, f'{name}: there is no such page')


def run_blocks(path: Path) -> Iterator[Problem]:
    """Run the marked blocks of a page in a scratch folder."""
    blocks = [block for block in read_page(path).blocks if block.run]
    if not blocks:
        return
    from kd_perception.demo.scene import write_scene
    with tempfile.TemporaryDirectory() as folder:
        write_scene(Path(folder) / 'my_drive', 12)
        for name in ('config', 'models'):
            (Path(folder) / name).symlink_to(ROOT / name)
        # As abspath, not resolved: a virtual environment is found by the name of its interpreter.
        binaries = os.path.dirname(os.path.abspath(sys.executable))
        environment = {**os.environ, 'PYTHONPATH': str(ROOT),
                       'PATH': f'{binaries}{os.pathsep}{os.environ["PATH"]}'}
        for block in blocks:
            print(f'{path.name}:{block.line}: running', flush=True)
            try:
                done = subprocess.run(['bash', '-euo', 'pipefail', '-c', '\n'.join(block.lines)], cwd=folder,
                                      env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                yield Problem(path, block.line, f'not done after {RUN_TIMEOUT_S} s')
                return
            if done.returncode:
                last = (done.stderr.strip() or done.stdout.strip() or 'no output').splitlines()[-1]
                yield Problem(path, block.line, f'exit code {done.returncode}: {last}')
                return


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('--run', action='store_true', help='run the marked code blocks too')
    parser.add_argument('pages', nargs='*', type=Path, metavar='PAGE', help='default: all')
    arguments = parser.parse_args()
    chosen = [path.resolve() for path in arguments.pages] or pages()
    found = [problem for path in chosen for problem in check_page(path)]
    if not arguments.pages:
        found += check_references()
    if arguments.run:
        found += [problem for path in chosen for problem in run_blocks(path)]
    for problem in found:
        print(problem)
    print(f'{len(chosen)} pages, {len(found)} problems')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
