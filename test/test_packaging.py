# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The package's own description: what is installed, what it depends on, that its versions agree."""

import ast
import importlib
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from installed import require
import kd_perception
from kd_perception.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'kd_perception'

# Import name -> rosdep key. None: there is none, and package.xml says what is lost without it.
ROSDEP_KEYS = {
    # zstd of Python 3.14, and before that of a package that rosbags brings along.
    'backports': 'python3-rosbags-pip', 'compression': 'python3-rosbags-pip',
    'cv2': 'python3-opencv', 'matplotlib': 'python3-matplotlib', 'mcap': 'mcap-ros2-support',
    'numpy': 'python3-numpy', 'onnx': None, 'onnxruntime': 'python3-onnxruntime-pip',
    'PIL': 'python3-pil', 'psutil': 'python3-psutil', 'rosbags': 'python3-rosbags-pip',
    'simplejpeg': 'python3-simplejpeg-pip', 'torch': None, 'tqdm': 'python3-tqdm',
    'yaml': 'python3-yaml', 'hypothesis': 'python3-hypothesis', 'pytest': 'python3-pytest',
    'ncnn': None, 'openvino': None, 'prometheus_client': None, 'pycocotools': None,
}


def imports(folder):
    """Return the top-level names that the modules below a folder import, without the standard library."""
    names = set()
    for path in folder.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split('.')[0])
    return names - set(sys.stdlib_module_names) - {'kd_perception'}


def setup(*arguments):
    """Run setup.py in a process of its own, as colcon does; return what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def manifest():
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture(scope='module')
def distribution():
    script = ('import json, setuptools; from distutils.core import run_setup; '
              'd = run_setup("setup.py", stop_after="init"); print(json.dumps('
              '[d.get_name(), d.get_version(), d.packages, d.entry_points["console_scripts"], '
              'd.package_data, d.get_maintainer(), d.get_maintainer_email(), d.get_license(), '
              'd.extras_require]))')
    keys = ('name', 'version', 'packages', 'scripts', 'package_data', 'maintainer', 'email', 'license',
            'extras')
    return dict(zip(keys, json.loads(setup('-c', script).splitlines()[-1])))


def depends(manifest, *tags):
    return [element.text for tag in tags for element in manifest.iter(tag)]


def test_versions_and_names_agree(manifest, distribution):
    assert manifest.get('format') == '3'
    assert manifest.findtext('name') == distribution['name'] == 'kd_perception'
    assert manifest.findtext('version') == distribution['version'] == kd_perception.__version__
    assert manifest.findtext('export/build_type') == 'ament_python'
    assert (ROOT / 'resource' / distribution['name']).is_file()
    maintainer, licence = manifest.find('maintainer'), manifest.find('license')
    assert (maintainer.text, maintainer.get('email')) == (distribution['maintainer'], distribution['email'])
    assert licence.text == distribution['license'] and (ROOT / licence.get('file')).is_file()


def test_changelog_is_ahead_or_at_this_version():
    heading = re.search(r'^(\S+).*\n-+$', (ROOT / 'CHANGELOG.rst').read_text(), re.MULTILINE).group(1)
    assert heading in ('Forthcoming', kd_perception.__version__)


def test_no_dependency_is_named_twice(manifest):
    tags = ('depend', 'build_depend', 'exec_depend', 'test_depend')
    names = depends(manifest, *tags)
    assert len(names) == len(set(names))


def test_every_import_is_a_declared_dependency(manifest):
    declared = set(depends(manifest, 'depend', 'exec_depend'))
    for name in imports(PACKAGE) | imports(ROOT / 'launch'):
        key = ROSDEP_KEYS.get(name, name)
        assert key is None or key in declared, f'package.xml lacks a dependency on {key} (import {name})'


def test_every_ros_package_that_is_declared_is_imported(manifest):
    """A key that nothing imports costs every user its installation."""
    keys = {ROSDEP_KEYS.get(name, name) for name in imports(PACKAGE) | imports(ROOT / 'launch')}
    # What imports nothing of it: brings the mcap module along.
    assert set(depends(manifest, 'depend', 'exec_depend')) <= keys | {'mcap-ros2-support'}


def test_every_import_of_a_test_is_a_declared_dependency(manifest):
    declared = set(depends(manifest, 'depend', 'exec_depend', 'test_depend'))
    helpers = {path.stem for path in (ROOT / 'test').rglob('*.py')}
    for name in imports(ROOT / 'test') - helpers:
        key = ROSDEP_KEYS.get(name, name)
        assert key is None or key in declared, f'package.xml lacks a test dependency on {key} (import {name})'


# What a vehicle goes without: package.xml leaves it out there, setup.py has it as an extra.
TOOLS_ONLY = {'matplotlib', 'tqdm'}
BLOCKED = """
import importlib, sys
blocked, nodes = sys.argv[1].split(','), sys.argv[2:]
for name in blocked:
    sys.modules[name] = None        # importing it is an error
for node in nodes:
    importlib.import_module(f'kd_perception.nodes.{node}')
"""


def test_a_vehicle_goes_without_what_only_tools_need(manifest, distribution):
    conditions = {element.text: element.get('condition') for element in manifest
                  if element.get('condition') is not None}
    assert conditions == {ROSDEP_KEYS[name]: '$KD_PERCEPTION_TOOLS != off' for name in TOOLS_ONLY}
    assert set(distribution['extras']['tools']) == TOOLS_ONLY
    # Rooms that nodes import import none of it, in functions neither.
    rooms = ('attach', 'bags', 'boxes', 'detection', 'drift', 'fallback', 'health', 'images', 'messages',
             'models', 'monitoring', 'nodes', 'processes', 'recording', 'sources')
    for room in rooms:
        assert not imports(PACKAGE / room) & TOOLS_ONLY, room


def test_nodes_load_without_what_only_tools_need():
    require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
    wanted = {name for name, key in ROSDEP_KEYS.items() if key is None or name in TOOLS_ONLY}
    nodes = [path.stem for path in (PACKAGE / 'nodes').glob('*_node.py')]
    setup('-c', BLOCKED, ','.join(sorted(wanted)), *nodes)


def test_the_container_installs_what_package_xml_says(manifest):
    text = (ROOT / 'examples' / 'container' / 'Containerfile').read_text()
    installed = re.search(r'apt-get install ([^&\\]*)', text).group(1).split()
    # All else comes by rosdep; its keys of this ending need pip.
    assert [name for name in installed if not name.startswith('--')] == ['python3-pip']
    assert any(name.endswith('-pip') for name in depends(manifest, 'depend', 'exec_depend'))
    assert 'rosdep install --from-paths src' in text and 'KD_PERCEPTION_TOOLS=off' in text
    distribution = re.search(r'^FROM ros:(\w+)-', text, re.MULTILINE).group(1)
    assert set(re.findall(r'/opt/ros/(\w+)/', text)) == {distribution}
    assert not re.search(r'\bCOPY (?!\. )', text), 'the whole repository is copied, nothing else'


@pytest.mark.parametrize('name', ['container/Containerfile', 'systemd/kd_perception.service'])
def test_examples_name_launch_files_and_arguments_that_there_are(name):
    text = (ROOT / 'examples' / name).read_text()
    files = set(re.findall(r'ros2 launch kd_perception (\S+)', text))
    assert files == {'hybrid.launch.py'}
    tree = ast.parse((ROOT / 'launch' / 'hybrid.launch.py').read_text())
    declared = next(node.value for node in tree.body if isinstance(node, ast.Assign)
                    and node.targets[0].id == 'ARGUMENTS')
    known = {key.value for key in declared.keys if key is not None}
    used = set(re.findall(r'(\w+):=', text))
    assert used and used <= known


def test_the_unit_is_one_that_systemd_takes():
    if shutil.which('systemd-analyze') is None:
        pytest.skip('systemd-analyze is not installed')
    found = subprocess.run(
        ['systemd-analyze', 'verify', ROOT / 'examples' / 'systemd' / 'kd_perception.service'],
        capture_output=True, text=True, timeout=60)
    told = [line for line in found.stderr.splitlines() if 'kd_perception.service' in line]
    assert not found.returncode and not told, found.stderr


def test_every_module_is_packaged(distribution):
    expected = {'.'.join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob('*.py')}
    assert set(distribution['packages']) == expected
    for folder in expected:
        assert (ROOT / folder.replace('.', '/') / '__init__.py').is_file(), f'{folder} has no __init__.py'


def test_data_files_are_complete(tmp_path):
    """What setup.py installs under share/ is exactly launch/, config/ and models/, subfolders kept."""
    setup('setup.py', '--quiet', 'install_data', '--install-dir', str(tmp_path))
    share = tmp_path / 'share' / 'kd_perception'
    installed = {str(path.relative_to(share)) for path in share.rglob('*') if path.is_file()}
    expected = {str(path.relative_to(ROOT)) for folder in ('config', 'launch', 'models')
                for path in (ROOT / folder).rglob('*')
                if path.is_file() and '__pycache__' not in path.parts}
    assert expected, 'nothing to install'
    assert installed == expected | {'LICENSE', 'package.xml'}
    for name in installed:
        assert (share / name).read_bytes() == (ROOT / name).read_bytes()
    assert (tmp_path / 'share/ament_index/resource_index/packages/kd_perception').is_file()


def test_executables_are_the_nodes_and_the_commands(distribution):
    names = {script.split('=')[0].strip() for script in distribution['scripts']}
    nodes = {path.stem for path in (PACKAGE / 'nodes').glob('*_node.py')}
    assert names == nodes | set(COMMANDS)


def test_every_executable_resolves(distribution):
    for script in distribution['scripts']:
        module, function = script.split('=')[1].strip().split(':')
        path = ROOT / (module.replace('.', '/') + '.py')
        assert path.is_file(), f'{script}: there is no {path.name}'
        if '.nodes.' in module:  # needs rclpy to load, so it is read
            body = ast.parse(path.read_text()).body
            defined = {node.name for node in body if isinstance(node, ast.FunctionDef)}
            assert function in defined, f'{script}: {path.name} defines no {function}()'
        else:
            assert callable(getattr(importlib.import_module(module), function, None)), script


def test_pyproject_leaves_the_project_to_setup_py():
    """With a [project] table, setuptools would ignore the scripts and data files of setup.py."""
    tables = re.findall(r'^\[+([^]]+)\]+\s*$', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
    assert 'build-system' in tables
    assert all(table == 'build-system' or table.startswith('tool.') for table in tables)


def test_colcon_ignores_the_interface_package():
    assert (ROOT / 'tools' / 'vision_msgs' / 'COLCON_IGNORE').is_file()


def test_locks_are_exact_and_complete():
    folder = ROOT / 'requirements'
    wanted = {}
    for name in ('build', 'runtime', 'test', 'docs', 'train'):
        lines = (folder / f'{name}.in').read_text().splitlines()
        names = [re.split('[<>=~!]', line)[0].strip() for line in lines if line and not line.startswith('#')]
        wanted[name] = set(names)
    pinned = {}
    for name in ('build', 'lock', 'docs', 'train'):
        text = (folder / f'{name}.txt').read_text().replace('\\\n', ' ')
        pinned[name] = {}
        for line in filter(None, text.splitlines()):
            match = re.match(r'([a-z0-9-]+)==(\S+) ; ', line)
            assert match, f'{name}.txt: not an exact pin: {line[:80]}'
            assert name == 'train' or '--hash=sha256:' in line, f'{name}.txt: no digest: {line[:80]}'
            pinned[name].setdefault(match.group(1), set()).add(match.group(2))
    assert wanted['build'] <= set(pinned['build'])
    assert wanted['runtime'] | wanted['test'] <= set(pinned['lock'])
    for further in ('docs', 'train'):
        assert wanted[further] <= set(pinned[further])
        for name in set(pinned[further]) & set(pinned['lock']):
            assert pinned['lock'][name] <= pinned[further][name], \
                f'{further}.txt and lock.txt disagree on {name}'


def python_files():
    for folder in ('kd_perception', 'launch', 'test', 'tools'):
        yield from (ROOT / folder).rglob('*.py')
    yield ROOT / 'setup.py'


def test_every_file_states_the_licence():
    header = '# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0'
    lacking = [str(path.relative_to(ROOT)) for path in python_files()
               if 'build' not in path.parts and header not in path.read_text().splitlines()[:2]]
    assert not lacking
    assert 'Apache License' in (ROOT / 'LICENSE').read_text()


def test_scripts_are_executable():
    scripts = [ROOT / '.ci' / 'run', *(ROOT / 'tools').glob('*.sh')]
    assert len(scripts) > 2
    for path in scripts:
        assert os.access(path, os.X_OK), f'{path.name} is not executable'


def test_all_files_of_the_package_are_installed(distribution):
    """Beside modules, only what package_data names; what users may want to change belongs under config/."""
    others = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob('*')
              if path.is_file() and path.suffix not in ('.py', '.pyc')}
    named = {str(path.relative_to(ROOT)) for package, patterns in distribution['package_data'].items()
             for pattern in patterns for path in (ROOT / package.replace('.', '/')).glob(pattern)}
    assert others == named and others


def test_file_names_in_the_tests_are_unique():
    """Test folders are no packages: two files of one name would be one module, and colcon test would stop."""
    names = [path.name for path in (ROOT / 'test').rglob('*.py') if path.name != 'conftest.py']
    assert sorted(set(names)) == sorted(names)
