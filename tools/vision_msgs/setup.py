# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Build vision_msgs as a wheel; see README.md. Importing this file generates nothing."""
import pathlib
import sys

from setuptools import Extension, setup

# A PEP 517 build does not put this folder on sys.path.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from interface_wheel import BuildExtension, BuildInterfaces, BuildPython, BuildWithInterfaces

setup(
    name='ros-vision-msgs',
    # The local part keeps this build apart from any wheel of the same release made elsewhere.
    version='4.1.1+kd1',
    description='vision_msgs for the ROS 2 wheels: Python classes and C type support for rmw_fastrtps_cpp',
    license='Apache-2.0',
    packages=['vision_msgs', 'vision_msgs.msg'],
    # The sources are written by the command build_interfaces, which also completes this extension.
    ext_modules=[Extension('vision_msgs.vision_msgs_s__rosidl_typesupport_c', sources=[])],
    python_requires='>=3.10',
    install_requires=['numpy', 'ros-geometry-msgs', 'ros-rosidl-typesupport-fastrtps-c',
                      'ros-rosidl-typesupport-introspection-c', 'ros-std-msgs'],
    cmdclass={
        'build': BuildWithInterfaces,
        'build_ext': BuildExtension,
        'build_interfaces': BuildInterfaces,
        'build_py': BuildPython,
    },
    zip_safe=False,
)
