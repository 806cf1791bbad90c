# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The documentation: links, commands, named files and line widths, by tools/docs_check.py."""

import importlib.util
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location('docs_check', ROOT / 'tools' / 'docs_check.py')
docs_check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(docs_check)


@pytest.mark.parametrize('path', docs_check.pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_page(path):
    problems = [str(problem) for problem in docs_check.check_page(path)]
    assert not problems, '\n'.join(problems)


def test_pages_that_the_code_names_exist():
    problems = [str(problem) for problem in docs_check.check_references()]
    assert not problems, '\n'.join(problems)


def test_contributing_lists_the_rooms():
    text = (ROOT / 'CONTRIBUTING.md').read_text().partition('## Rooms')[2].partition('\n## ')[0]
    listed = re.findall(r'^\| `(\w+)` \|', text, re.MULTILINE)
    rooms = {path.parent.name for path in (ROOT / 'kd_perception').glob('*/__init__.py')}
    assert sorted(listed) == sorted(rooms)


@pytest.mark.parametrize('text, problem', [
    ('word ' * 30, 'expected at most 100'),
    ('[a](missing.md)', 'there is no such file'),
    ('# Title\n[a](#other)', 'has no such heading'),
    ('`config/missing.yaml`', 'there is no such file'),
    ('`test/missing/`', 'there is no such file'),
    ('```\nmake everything\n```', 'no such target'),
    ('```\npython -m kd_perception detect --colour red\n```', 'kd_perception detect: error'),
    ('```\nfor m in a b; do\n  python -m kd_perception detect --model $m \\\n      --colour red\ndone\n```',
     'kd_perception detect: error'),
    ('```\nros2 run kd_perception detector_node --ros-args -p colour:=red\n```', 'no parameter'),
    ('```\nros2 launch kd_perception hybrid.launch.py colour:=red\n```', 'has no argument'),
])
def test_a_mistake_is_found(tmp_path, text, problem):
    page = tmp_path / 'page.md'
    page.write_text(text)
    assert any(problem in str(found) for found in docs_check.check_page(page))


def test_marked_blocks_run_in_order(tmp_path):
    page, mark = tmp_path / 'page.md', docs_check.RUN_MARK
    page.write_text(f'{mark}\n```\ntest -f my_drive/000000.png\ntouch here\n```\n```\nexit 9\n```\n'
                    f'{mark}\n```\ntest -f here\nexit 3\n```\n')
    problems = [str(problem) for problem in docs_check.run_blocks(page)]
    assert problems == [f'{page}:11: exit code 3: no output']
