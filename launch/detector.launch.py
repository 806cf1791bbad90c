# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Start one detector_node for a list of cameras.

    ros2 launch kd_perception detector.launch.py cameras:=front,rear model:=/path/to/model.onnx

An argument that is given wins over the params file; one that is not leaves the file's value alone.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from kd_perception.nodes.launch_arguments import boolean, camera_names, number, require_file

DEFAULT_PARAMS_FILE = Path(__file__).resolve().parents[1] / 'config' / 'detector.yaml'


def detector_parameters(arguments):
    """
    Turn launch arguments (text) into the parameters that they set.

    :raises ValueError: an argument is not what its description says.
    """
    parameters = {'use_sim_time': boolean(arguments, 'use_sim_time')}
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


def start_detector(context):
    """Make the node out of the arguments' values."""
    names = ('cameras', 'model', 'score_threshold', 'namespace', 'name', 'params_file', 'use_sim_time',
             'compressed', 'log_level')
    arguments = {name: LaunchConfiguration(name).perform(context) for name in names}
    require_file(arguments, 'params_file')
    return [Node(
        package='kd_perception', executable='detector_node', name=arguments['name'],
        namespace=arguments['namespace'], output='screen', emulate_tty=True,
        parameters=[arguments['params_file'], detector_parameters(arguments)],
        ros_arguments=['--log-level', arguments['log_level']])]


def generate_launch_description():
    """Declare the arguments and the node."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'cameras', default_value='',
            description='Camera namespaces, separated by commas, such as front,rear. '
                        'Empty: as in params_file.'),
        DeclareLaunchArgument(
            'model', default_value='',
            description='Path of an ONNX file, or a name in models/manifest.yaml. Empty: as in params_file.'),
        DeclareLaunchArgument(
            'score_threshold', default_value='',
            description='Least confidence that is published. Empty: as in params_file.'),
        DeclareLaunchArgument(
            'namespace', default_value='',
            description='ROS namespace of the node; the camera namespaces lie below it.'),
        DeclareLaunchArgument(
            'name', default_value='detector',
            description='Name of the node; two detectors in one system need two names.'),
        DeclareLaunchArgument(
            'params_file', default_value=str(DEFAULT_PARAMS_FILE),
            description='YAML file with the parameters of the node.'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='false',
            description='true: take the time from /clock, for simulation and replay.'),
        DeclareLaunchArgument(
            'compressed', default_value='',
            description='true: read C/image_raw/compressed, false: C/image_raw. Empty: as in params_file.'),
        DeclareLaunchArgument(
            'log_level', default_value='info',
            description='Least severity that is logged: debug, info, warn, error or fatal.'),
        OpaqueFunction(function=start_detector),
    ])
