# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Who may import whom: rooms stand on floors and import downwards; the pure core needs neither ROS nor torch.

Checked twice: on the source, where an import inside a function counts too, and by importing every module
that promises it in a process in which torch, ROS and the message packages cannot be imported.
"""

import ast
import functools
import graphlib
from pathlib import Path
import subprocess
import sys

import pytest

from kd_perception.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'kd_perception'

MESSAGES = {'action_msgs', 'builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs',
            'rcl_interfaces', 'rosgraph_msgs', 'sensor_msgs', 'service_msgs', 'std_msgs', 'std_srvs',
            'unique_identifier_msgs', 'vision_msgs'}
ROS = {'ament_index_python', 'cv_bridge', 'launch', 'launch_ros', 'rclpy', 'rosbag2_py', *MESSAGES}
TORCH = {'torch', 'torchvision'}
# From the ground up. A room imports rooms of lower floors and itself, nothing of its own floor or above.
FLOORS = (
    {'__init__', 'errors', 'exit_codes', 'html_page', 'levels', 'limits', 'progress'},
    {'files', 'processes', 'resources'},
    {'config', 'output_folder', 'transport'},
    {'boxes', 'images'},
    {'models'},
    {'detection'},
    {'attach', 'fallback', 'messages'},
    {'bags', 'monitoring'},
    {'sources'},
    {'labels', 'recording'},
    {'drift', 'health', 'review'},
    {'evaluation'},
    {'nodes', 'training'},
    {'demo'},
    {'benchmark'},
    {'poc'},
    {'cli'},
    {'__main__'},
)
GROUND = set().union(*FLOORS[:3])
PURE = set().union(*FLOORS[:12])
# Load without ROS and torch too; their functions may need both.
TOOLS = {'benchmark', 'cli', 'demo', 'poc'}

# Part of the package -> the installed packages that it may import, beyond the standard library.
THIRD_PARTY = {
    **{part: {'yaml'} for part in GROUND},
    'progress': {'tqdm'},
    'attach': {'numpy', 'onnx', 'yaml'},
    'bags': {'backports', 'compression', 'mcap', 'rosbags', 'yaml'},
    'labels': {'cv2', 'numpy', 'rosbags', 'yaml'},
    'messages': {'numpy', 'rosbags'},
    'models': {'numpy', 'onnx', 'yaml'},
    'boxes': {'numpy'},
    'images': {'PIL', 'cv2', 'numpy', 'simplejpeg'},
    'sources': {'cv2', 'numpy'},
    'detection': {'cv2', 'numpy', 'onnxruntime', 'openvino', 'yaml'},
    'evaluation': {'cv2', 'matplotlib', 'numpy', 'pycocotools', 'yaml'},
    'fallback': {'cv2', 'numpy', 'yaml'},
    'drift': {'numpy', 'yaml'},
    'health': {'numpy', 'yaml'},
    'monitoring': set(),
    'recording': {'cv2', 'numpy'},
    'review': {'cv2', 'numpy'},
    'training': {'cv2', 'matplotlib', 'numpy', 'onnx', 'torch', 'tqdm', 'yaml'},
    'nodes': {'cv2', 'numpy', 'prometheus_client', 'psutil', 'yaml', *ROS},
    'poc': {'cv2', 'matplotlib', 'numpy', 'yaml', *TORCH},
    'demo': {'cv2', 'matplotlib', 'numpy', 'psutil', 'tqdm', 'yaml', *ROS},
    'benchmark': {'cv2', 'matplotlib', 'ncnn', 'numpy', 'onnx', 'openvino', 'psutil',
                  'tqdm', 'yaml', *ROS, *TORCH},
    # A command may need anything when it runs; what it may import when it is merely loaded is checked below.
    'cli': {'cv2', 'matplotlib', 'ncnn', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'psutil', 'rosbags',
            'tqdm', 'yaml', *ROS, *TORCH},
    '__main__': set(),
}
# Not every lower floor is for everybody.
NOT_FOR = {'demo': {'training'}, 'poc': {'demo', 'nodes'},
           '__main__': set().union(*FLOORS) - {'cli', 'processes'}}
# Part of the package -> the parts that it may import.
PARTS = {part: {part, *set().union(*FLOORS[:number])} - NOT_FOR.get(part, set())
         for number, floor in enumerate(FLOORS) for part in floor}
# Each of these has one door: the rest of the package does not depend on its interface.
ONE_MODULE = {'onnxruntime': 'detection/onnx_session.py', 'cv_bridge': 'nodes/shared/conversions.py',
              'ncnn': 'benchmark/nanodet.py', 'openvino': 'detection/openvino_runtime.py',
              'prometheus_client': 'nodes/metrics/endpoint.py',
              'pycocotools': 'evaluation/metrics/coco_ap.py'}


@functools.cache     # each module is looked at by several tests
def imported_names(source, package):
    """
    Return [(dotted name, line number, at the module's top level)] of every import in a source text.

    :param package: the dotted name of the package that the module lies in, for relative imports.
    """
    tree = ast.parse(source)
    inside_functions = {id(inner) for node in ast.walk(tree)
                        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                        for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = package.split('.')[:len(package.split('.')) - node.level + 1]
                base = '.'.join([*parents, *([base] if base else [])])
            # `from kd_perception.cli import train` names the module behind the import.
            names = [f'{base}.{alias.name}' if base == 'kd_perception' or _is_module(f'{base}.{alias.name}')
                     else base for alias in node.names]
        elif isinstance(node, ast.Call) and _callee(node) in {'import_module', '__import__', 'find_spec'}:
            first = node.args[0] if node.args else None
            names = [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
        found += [(name, node.lineno, id(node) not in inside_functions) for name in names]
    return found


def _is_module(name):
    path = PACKAGE.parent.joinpath(*name.split('.'))
    return name.startswith('kd_perception.') and (path.with_suffix('.py').is_file() or path.is_dir())


def _callee(call):
    return getattr(call.func, 'attr', getattr(call.func, 'id', ''))


def violations(source, part, package='kd_perception'):
    """Return one line for each import in `source` that its part of the package may not make."""
    bad = []
    for name, line, top_level in imported_names(source, package):
        first, *rest = name.split('.')
        if first == 'kd_perception':
            # `from kd_perception import __version__` names no part but the package itself.
            allowed = (rest[0] if rest and rest[0] in PARTS else '__init__') in PARTS[part]
        else:
            allowed = first in sys.stdlib_module_names or first in THIRD_PARTY[part]
        if part in TOOLS and top_level and (first in ROS | TORCH or name.startswith(
                ('kd_perception.nodes', 'kd_perception.training'))):
            allowed = False
        if not allowed:
            where = ' at its top level' if part in TOOLS else ''
            bad.append(f'line {line}: {part} may not import {name}{where}')
    return bad


def modules():
    """Return [(path below the package, part)] of every module."""
    paths = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob('*.py'))
    return [(path, path.parts[0] if len(path.parts) > 1 else path.stem) for path in paths]


def package_of(path):
    """Return the dotted name of the package that a module lies in."""
    return '.'.join(['kd_perception', *path.parts[:-1]])


@pytest.mark.parametrize('path, part', modules(), ids=lambda value: str(value))
def test_source_keeps_to_the_table(path, part):
    assert part in PARTS, f'{path}: a new part of the package: add it to the table'
    assert not violations((PACKAGE / path).read_text(), part, package_of(path))


def import_graph(room=False):
    """Return {module: modules of the package that it imports}; with `room` the same of folders."""
    graph = {}
    for path, _ in modules():
        name = '.'.join(['kd_perception', *path.with_suffix('').parts]).replace('.__init__', '')
        for target, _, _ in imported_names((PACKAGE / path).read_text(), package_of(path)):
            place = PACKAGE.parent.joinpath(*target.split('.'))
            if target != 'kd_perception' and _is_module(target):
                ends = (name, target)
                if room:
                    ends = (package_of(path), target if place.is_dir() else target.rpartition('.')[0])
                if ends[0] != ends[1] and 'kd_perception' not in ends:
                    graph.setdefault(ends[0], set()).add(ends[1])
    return graph


def circle(graph):
    """Return a circle of a graph, an empty list where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize('room', [False, True], ids=['modules', 'rooms'])
def test_no_circle(room):
    graph = import_graph(room)
    assert len(graph) > 20 and circle(graph) == []


def test_a_circle_is_seen():
    assert set(circle({'a': {'b'}, 'b': {'c'}, 'c': {'a'}, 'd': {'a'}})) == {'a', 'b', 'c'}


def command_violations(graph):
    """Return the imports between commands; a command may import its own actions, as `model` does `attach`."""
    commands = {f'kd_perception.cli.{name.replace("-", "_")}' for name in COMMANDS}
    return [(name, target) for name, targets in graph.items() for target in targets
            if name.startswith('kd_perception.cli.') and target.startswith('kd_perception.cli.')
            and not target.endswith(('.main', '.shared')) and (name not in commands or target in commands)]


def test_no_command_imports_another():
    graph = import_graph()
    assert command_violations(graph) == []
    for name, target in (('train', 'export'), ('attach', 'model_store'), ('attach', 'model')):
        assert command_violations({f'kd_perception.cli.{name}': {f'kd_perception.cli.{target}'}})


@pytest.mark.parametrize('third_party, module', ONE_MODULE.items())
def test_one_module_wraps(third_party, module):
    importers = {str(path) for path, _ in modules()
                 for name, _, _ in imported_names((PACKAGE / path).read_text(), package_of(path))
                 if name.split('.')[0] == third_party}
    assert importers == {module}


@pytest.mark.parametrize('part, source', [
    ('detection', 'import torch'),
    ('detection', 'import torch.nn as nn'),
    ('detection', 'def f():\n    from rclpy.node import Node'),
    ('bags', 'import importlib\nimportlib.import_module("vision_msgs.msg")'),
    ('evaluation', 'from kd_perception.nodes import qos'),
    ('evaluation', 'from kd_perception import training'),
    ('health', 'from ..nodes.qos import x'),
    ('health', 'import scipy'),
    ('nodes', 'from kd_perception.training.loop.trainer import train'),
    ('nodes', 'from kd_perception.cli.main import main'),
    ('nodes', 'import torch'),
    ('models', 'from kd_perception.detection.letterbox import Letterbox'),
    ('models', 'def f():\n    from kd_perception import detection'),
    ('detection', 'from kd_perception.evaluation.frame_set import FrameSet'),
    ('labels', 'import kd_perception.recording'),
    ('benchmark', 'from kd_perception.cli.main import main'),
    ('training', 'import rclpy'),
    ('cli', 'import torch'),
    ('cli', 'from kd_perception.nodes.detector_node import main'),
    ('cli', 'class A:\n    import rclpy'),
])
def test_the_scan_sees(part, source):
    assert violations(source, part, f'kd_perception.{part}')


@pytest.mark.parametrize('part, source', [
    ('detection', 'from . import letterbox\nfrom .letterbox import Letterbox'),
    ('detection', 'from kd_perception.errors import ModelError'),
    ('detection', 'import onnxruntime, numpy, os.path'),
    ('cli', 'def run(args):\n    import torch\n    from kd_perception.nodes.detector_node import main'),
    ('nodes', 'from kd_perception import __version__'),
])
def test_the_scan_allows(part, source):
    assert not violations(source, part, f'kd_perception.{part}')


IMPORT_ALL = """
import importlib, sys

BLOCKED = {blocked!r}


class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in BLOCKED:
            raise ModuleNotFoundError('blocked by the test: ' + name, name=name)


sys.meta_path.insert(0, Block())
for name in BLOCKED:
    sys.modules.pop(name, None)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit('not blocked: ' + name)
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SystemExit('import ' + name + ': ' + str(error))
print(len({names!r}))
"""


def test_core_and_commands_load_without_ros_and_torch():
    names = ['.'.join(['kd_perception', *path.with_suffix('').parts]).replace('.__init__', '')
             for path, part in modules() if part in PURE | TOOLS]
    assert len(names) > 20
    script = IMPORT_ALL.format(blocked=sorted(ROS | TORCH), names=names)
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(len(names))]
