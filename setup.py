# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Package kd_perception for colcon (ament_python) and for pip."""
import os

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


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(exclude=['test*']),
    package_data={f'{PACKAGE}.review': ['web/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', [os.path.join('resource', PACKAGE)]),
        (os.path.join('share', PACKAGE), ['package.xml']),
        *tree('config'),
        *tree('launch'),
        *tree('models'),
    ],
    python_requires='>=3.10',
    install_requires=['setuptools'],
    extras_require={
        # Without these the pure core, the ROS nodes but metrics_node, and the other commands still work.
        'train': ['onnx', 'torch'],
        'openvino': ['onnxruntime-openvino'],
        'committee': ['openvino'],
        'benchmark': ['ncnn', 'openvino'],
        'metrics': ['prometheus-client'],
        'test': ['flake8', 'hypothesis', 'onnx', 'prometheus-client', 'pycocotools', 'pytest',
                 'pytest-timeout', 'rosbags-image'],
    },
    zip_safe=False,
    maintainer='kd_perception maintainers',
    maintainer_email='maintainers@kd-perception.example',
    description='Binary-weight object detection for ROS 2, with a full-precision teacher as fallback.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            *(f'{name} = {PACKAGE}.nodes.executables:{name}' for name in NODES),
            *(f'{name} = {PACKAGE}.cli.executables:{name.replace("-", "_")}' for name in COMMANDS),
        ],
    },
)
