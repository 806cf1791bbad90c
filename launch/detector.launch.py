# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Start one detector_node for a list of cameras, or several with a model each.

    ros2 launch kd_perception detector.launch.py cameras:=front,rear model:=/path/to/model.onnx
    ros2 launch kd_perception detector.launch.py cameras:=front image_topic:=/driver/color/image_rect
    ros2 launch kd_perception detector.launch.py cameras:=front models:=signs=/models/signs.onnx,road=teacher

An argument that is given wins over the params file; one that is not leaves the file's value alone. With
`models`, detector NAME answers on C/NAME/detections.
"""

from pathlib import Path

from launch.actions import OpaqueFunction

from kd_perception.nodes.launch_nodes import (
    autostart,
    COMMON_ARGUMENTS,
    declare,
    fails_with,
    package_node,
    values,
)
from kd_perception.nodes.shared.launch_arguments import (
    boolean,
    camera_names,
    image_remappings,
    named_models,
    number,
)
from launch import LaunchDescription

DEFAULT_PARAMS_FILE = Path(__file__).resolve().parents[1] / 'config' / 'detector.yaml'
OUTPUTS = ('detections', 'candidates', 'label_info', 'debug_image')
ARGUMENTS = {
    'cameras': ('', 'Camera namespaces, separated by commas, such as front,rear. Empty: as in params_file.'),
    'model': ('', 'Path of an ONNX file, or a name in models/manifest.yaml. Empty: as in params_file.'),
    'models': ('', 'NAME=MODEL,NAME=MODEL: a detector for each, which answers on C/NAME/detections.'),
    'score_threshold': ('', 'Least confidence that is published. Empty: as in params_file.'),
    'name': ('detector', 'Name of the node; two detectors in one system need two names.'),
    'params_file': (str(DEFAULT_PARAMS_FILE), 'YAML file with the parameters of the node.'),
    'use_sim_time': ('false', 'true: take the time from /clock, for simulation and replay.'),
    'compressed': ('', 'true: read C/image_raw/compressed, false: C/image_raw. Empty: as in params_file.'),
    **COMMON_ARGUMENTS,
}


def detector_parameters(arguments):
    """
    Turn launch arguments (text) into the parameters that they set.

    :raises ValueError: an argument is not what its description says.
    """
    parameters = {'use_sim_time': boolean(arguments, 'use_sim_time'), **autostart(arguments)}
    cameras = camera_names(arguments)
    if cameras:
        parameters['cameras'] = cameras
    if arguments['model']:
        parameters['model'] = arguments['model']
    if arguments['score_threshold']:
        parameters['score_threshold'] = number(arguments, 'score_threshold')
    compressed = boolean(arguments, 'compressed', optional=True)
    if compressed is not None:
        parameters['image_transport'] = 'compressed' if compressed else 'raw'
    return parameters


def start_detectors(context):
    """Make the nodes out of the arguments' values."""
    arguments = values(context, ARGUMENTS)
    models, cameras = named_models(arguments), camera_names(arguments)
    if models and arguments['model']:
        raise ValueError('model and models contradict each other')
    if models and not cameras:
        raise ValueError('models: needs cameras, too, whose topics the detectors share')
    parameters, images = detector_parameters(arguments), image_remappings(arguments, cameras)
    actions = []
    for name in models or (arguments['name'],):
        own = {'model': models[name]} if models else {}
        outputs = [(f'{camera}/{output}', f'{camera}/{name}/{output}')
                   for camera in cameras for output in OUTPUTS] if models else []
        node = package_node('detector_node', name, arguments, 'params_file', {**parameters, **own},
                            [*images, *outputs])
        alone = len(models) < 2 and not boolean(arguments, 'respawn')
        actions += [fails_with(node, name, alone), node]
    return actions


def generate_launch_description():
    """Declare the arguments and the nodes."""
    return LaunchDescription([*declare(ARGUMENTS), OpaqueFunction(function=start_detectors)])
