# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Package kd_perception for colcon (ament_python) and for pip."""
import os
import sys

from setuptools import find_packages, setup

PACKAGE = 'kd_perception'
NODES = ('detector_node', 'fallback_node', 'metrics_node', 'replay_node')
COMMANDS = ('ablate', 'benchmark', 'check-labels', 'committee', 'convert', 'demo', 'detect', 'evaluate',
            'export', 'fit-gate', 'model', 'poc', 'pseudo-label', 'review', 'security-policy', 'status',
            'train')


def tree(folder):
    """
    Return data_files entries that install every file below `folder` under share/, subfolders kept.

    colcon runs this script in the package's folder, and data_files takes relative paths only.
    """
    entries = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != '__pycache__')
        files = [os.path.join(parent, name) for name in sorted(names) if not name.endswith('.pyc')]
        if files:
            entries.append((os.path.join('share', PACKAGE, parent), files))
    return entries


SCRIPTS = {**{name: f'{PACKAGE}.nodes.executables:{name}' for name in NODES},
           **{name: f'{PACKAGE}.cli.executables:{name.replace("-", "_")}' for name in COMMANDS}}


def executables_of_a_wheel():
    """
    Write the executables and return their data_files entries; nothing where no wheel is built.

    `ros2 run` looks in lib/<package>. colcon puts console_scripts there (setup.cfg); pip knows no such place,
    and `train` or `convert` in bin/ would hide other programs: a wheel has the files, and one command.
    """
    if 'bdist_wheel' not in sys.argv:
        return []
    folder = os.path.join('build', 'ros_executables')
    os.makedirs(folder, exist_ok=True)
    for name, function in SCRIPTS.items():
        module, _, attribute = function.partition(':')
        with open(os.path.join(folder, name), 'w') as file:
            file.write(f'#!/usr/bin/env python3\nimport sys\n\nfrom {module} import {attribute}\n\n'
                       f'sys.exit({attribute}())\n')
        os.chmod(file.name, 0o755)
    return [(os.path.join('lib', PACKAGE), [os.path.join(folder, name) for name in sorted(SCRIPTS)])]


def wheel_commands():
    """Return the command that leaves all executables but one out of a wheel's bin/."""
    try:
        from setuptools.command.bdist_wheel import bdist_wheel
    except ImportError:     # older setuptools: colcon's, which build no wheel
        return {}

    class WheelForRos(bdist_wheel):
        def write_wheelfile(self, wheelfile_base, *args, **kwargs):
            super().write_wheelfile(wheelfile_base, *args, **kwargs)
            if 'bdist_wheel' not in sys.argv:       # an editable install: tools/make_env.py moves them
                return
            with open(os.path.join(wheelfile_base, 'entry_points.txt'), 'w') as file:
                file.write(f'[console_scripts]\n{PACKAGE} = {PACKAGE}.cli.main:process_main\n')
    return {'bdist_wheel': WheelForRos}


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(exclude=['test*']),
    package_data={f'{PACKAGE}.review': ['web/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', [os.path.join('resource', PACKAGE)]),
        (os.path.join('share', PACKAGE), ['LICENSE', 'package.xml']),
        *tree('config'),
        *tree('launch'),
        *tree('models'),
        *executables_of_a_wheel(),
    ],
    python_requires='>=3.10',
    install_requires=['setuptools'],
    extras_require={
        # Without these the pure core, the ROS nodes but metrics_node, and the other commands still work.
        'tools': ['matplotlib', 'tqdm'],
        'train': ['matplotlib', 'onnx', 'torch', 'tqdm'],
        'openvino': ['openvino'],
        'committee': ['openvino'],
        'benchmark': ['ncnn', 'openvino'],
        'metrics': ['prometheus-client'],
        'test': ['hypothesis', 'mypy', 'onnx', 'prometheus-client', 'pycocotools', 'pytest',
                 'pytest-timeout', 'rosbags-image', 'ruff'],
    },
    zip_safe=False,
    maintainer='kd_perception maintainers',
    maintainer_email='maintainers@kd-perception.example',
    description='Binary-weight object detection for ROS 2, with a full-precision teacher as fallback.',
    license='Apache-2.0',
    cmdclass=wheel_commands(),
    entry_points={
        'console_scripts': [f'{name} = {function}' for name, function in SCRIPTS.items()],
    },
)
