# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Start the hybrid: the student on every frame, the fallback, and the teacher for ambiguous frames.

    ros2 launch kd_perception hybrid.launch.py cameras:=front,rear
    ros2 launch kd_perception hybrid.launch.py cameras:=front teacher:=false      # student alone, DEGRADED
    ros2 launch kd_perception hybrid.launch.py cameras:=front teacher:=remote     # teacher on another machine
    ros2 launch kd_perception hybrid.launch.py cameras:=front metrics:=true       # and a Prometheus endpoint

and on that other machine

    ros2 launch kd_perception hybrid.launch.py cameras:=front only:=teacher
"""

from pathlib import Path
import shutil

from launch.actions import OpaqueFunction

from kd_perception.nodes.launch_nodes import (
    autostart,
    COMMON_ARGUMENTS,
    declare,
    fails_with,
    package_node,
    values,
)
from kd_perception.nodes.shared.launch_arguments import boolean, camera_names, image_remappings, number
from launch import LaunchDescription

DEFAULT_PARAMS_FILE = Path(__file__).resolve().parents[1] / 'config' / 'hybrid.yaml'
EXECUTABLES = {'student': 'detector_node', 'fallback': 'fallback_node', 'teacher': 'detector_node',
               'metrics': 'metrics_node'}
NODES = tuple(EXECUTABLES)
LIFECYCLE_NODES = ('student', 'fallback', 'teacher')
ARGUMENTS = {
    'cameras': ('', 'Camera namespaces, separated by commas, such as front,rear. Empty: as in params_file.'),
    'student_model': ('', 'Path of an ONNX file, or a name in models/manifest.yaml. Empty: as in '
                          'params_file.'),
    'teacher_model': ('', 'Likewise, for the teacher.'),
    'teacher': ('true', 'true: start it here; remote: another machine runs it; false: there is none, the '
                        'state is DEGRADED by design.'),
    'metrics': ('false', 'true: start metrics_node too, for Prometheus (docs/reference/metrics.md).'),
    'only': ('', f'Start only one of {", ".join(NODES)}; empty: all.'),
    'share': ('', 'Greatest share of frames that the teacher is sent. Empty: as in params_file.'),
    'deadline_ms': ('', 'Greatest wait for the teacher. Empty: as in params_file.'),
    'compressed': ('', 'true: read C/image_raw/compressed, false: C/image_raw. Empty: as in params_file.'),
    'teacher_nice': ('10', "The teacher's niceness, 0 to 19: on a small computer the student and the "
                           'fallback go first.'),
    'params_file': (str(DEFAULT_PARAMS_FILE), 'YAML file with the parameters of the nodes.'),
    'use_sim_time': ('false', 'true: take the time from /clock, for simulation and replay.'),
    **COMMON_ARGUMENTS,
    'respawn': ('true', 'Start a node again that ended unasked.'),
}


def hybrid_parameters(arguments):
    """
    Turn launch arguments (text) into {node: parameters} for the nodes to start.

    :raises ValueError: an argument is not what its description says.
    """
    teacher = arguments['teacher'].lower()
    if teacher not in ('true', 'false', 'remote'):
        raise ValueError(f'teacher:={arguments["teacher"]}: expected true, false or remote')
    only = arguments['only']
    if only and only not in NODES:
        raise ValueError(f'only:={only}: expected one of {", ".join(NODES)}')
    if only == 'teacher' and teacher == 'false':
        raise ValueError('only:=teacher and teacher:=false contradict each other')
    metrics = boolean(arguments, 'metrics')
    parameters = {name: {'use_sim_time': boolean(arguments, 'use_sim_time')} for name in NODES}
    for name in LIFECYCLE_NODES:
        parameters[name].update(autostart(arguments))
    cameras = camera_names(arguments)
    if cameras:
        parameters['student']['cameras'] = parameters['fallback']['cameras'] = cameras
        parameters['teacher']['cameras'] = [f'{camera}/teacher' for camera in cameras]
    if arguments['student_model']:
        parameters['student']['model'] = parameters['fallback']['student_model'] = arguments['student_model']
    if arguments['teacher_model']:
        parameters['teacher']['model'] = arguments['teacher_model']
    if arguments['share']:
        parameters['fallback']['share'] = number(arguments, 'share', 0, 1)
    if arguments['deadline_ms']:
        parameters['fallback']['deadline_ms'] = number(arguments, 'deadline_ms', 1, 60000)
    compressed = boolean(arguments, 'compressed', optional=True)
    if compressed is not None:
        transport = 'compressed' if compressed else 'raw'
        for name in LIFECYCLE_NODES:
            parameters[name]['image_transport'] = transport
    if teacher == 'false':
        parameters['fallback']['teacher'] = False
    if only:
        return {only: parameters[only]}
    if teacher != 'true':
        del parameters['teacher']
    if not metrics:
        del parameters['metrics']
    return parameters


def start_hybrid(context):
    """Make the nodes out of the arguments' values."""
    arguments = values(context, ARGUMENTS)
    nice = int(number(arguments, 'teacher_nice', 0, 19))
    images = image_remappings(arguments, camera_names(arguments))
    actions = []
    for name, parameters in hybrid_parameters(arguments).items():
        prefix = f'nice -n {nice}' if name == 'teacher' and nice and shutil.which('nice') else ''
        # The teacher's images are those that the fallback sends.
        remappings = images if name in ('student', 'fallback') else ()
        node = package_node(EXECUTABLES[name], name, arguments, 'params_file', parameters, remappings, prefix)
        alone = bool(arguments['only']) and not boolean(arguments, 'respawn')
        actions += [fails_with(node, name, alone), node]
    return actions


def generate_launch_description():
    """Declare the arguments and the nodes."""
    return LaunchDescription([*declare(ARGUMENTS), OpaqueFunction(function=start_hybrid)])
