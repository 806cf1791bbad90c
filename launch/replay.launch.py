# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Play a recording, a folder of images or a video through one detector_node.

    ros2 launch kd_perception replay.launch.py input:=/data/drive_17 model:=/path/to/model.onnx
    ros2 launch kd_perception replay.launch.py input:=clip.mp4 cameras:=front lockstep:=detections

Everything ends with the replay. An argument that is given wins over the params file; one that is not leaves
the file's value alone.
"""

from pathlib import Path

from launch.actions import EmitEvent, IncludeLaunchDescription, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource

from kd_perception.errors import KdPerceptionError
from kd_perception.nodes.launch_nodes import COMMON_ARGUMENTS, declare, fails_with, package_node, values
from kd_perception.nodes.shared.launch_arguments import (
    boolean,
    camera_names,
    image_remappings,
    number,
    require_file,
)
from kd_perception.sources.any_source import open_source
from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / 'config'
NUMBERS = ('rate', 'start_offset_s', 'duration_s')
ARGUMENTS = {
    'input': (None, 'Folder of images, video, or rosbag2 recording (folder, .mcap, .db3).'),
    'cameras': ('', 'Cameras to play and to watch, separated by commas. Empty: all that the input holds.'),
    'model': ('', 'Path of an ONNX file, or a name in models/manifest.yaml. '
                  'Empty: as in detector_params_file.'),
    'score_threshold': ('', 'Least confidence that is published. Empty: as in detector_params_file.'),
    'rate': ('', 'Speed against the recorded time; 0: as fast as possible. Empty: as in params_file.'),
    'start_offset_s': ('', 'Recorded seconds to skip at the start. Empty: as in params_file.'),
    'duration_s': ('', 'Recorded seconds to play; 0: to the end. Empty: as in params_file.'),
    'loop': ('', 'true: begin again at the end. Empty: as in params_file.'),
    'lockstep': ('', 'none, detections or verified_detections: wait for the answer to each image. '
                     'Empty: as in params_file.'),
    'record': ('', 'In lockstep: new recording that keeps every answer. Empty: as in params_file.'),
    'detector': ('true', 'false: play only.'),
    'shutdown_at_end': ('true', 'false: the detector stays when the replay has ended.'),
    'use_sim_time': ('true', 'true: the replay publishes /clock, and the detector follows it.'),
    'params_file': (str(CONFIG / 'replay.yaml'), 'YAML file with the parameters of replay_node.'),
    'detector_params_file': (
        str(CONFIG / 'replay_detector.yaml'), 'YAML file with the parameters of detector_node.'),
    **COMMON_ARGUMENTS,
    'respawn': ('false', 'true: start the detector again if it ended unasked.'),
}


def replay_parameters(arguments):
    """
    Turn launch arguments (text) into the parameters of replay_node that they set.

    :raises ValueError: an argument is not what its description says.
    """
    parameters = {'input': str(Path(arguments['input']).expanduser().absolute()),
                  'publish_clock': boolean(arguments, 'use_sim_time')}
    cameras = camera_names(arguments)
    if cameras:
        parameters['cameras'] = cameras
    for name in NUMBERS:
        if arguments[name]:
            parameters[name] = number(arguments, name)
    loop = boolean(arguments, 'loop', optional=True)
    if loop is not None:
        parameters['loop'] = loop
    if arguments['lockstep']:
        parameters['lockstep'] = arguments['lockstep']
    if arguments['record']:
        parameters['record'] = str(Path(arguments['record']).expanduser().absolute())
    return parameters


def cameras_of_input(arguments):
    """Return the cameras that the replay will play; the detector must watch the same ones."""
    try:
        with open_source(Path(arguments['input']).expanduser(), camera_names(arguments)) as source:
            return [camera.name for camera in source.cameras]
    except KdPerceptionError:
        # The replay node opens the same input and says what is wrong with it.
        return camera_names(arguments)


def start_nodes(context):
    """Make the nodes out of the arguments' values."""
    arguments = values(context, ARGUMENTS)
    require_file(arguments, 'detector_params_file')
    cameras = cameras_of_input(arguments)
    replay = package_node('replay_node', 'replay', arguments, 'params_file', replay_parameters(arguments),
                          image_remappings(arguments, cameras), respawn=False)
    ends = boolean(arguments, 'shutdown_at_end')
    actions = [fails_with(replay, 'replay', alone=ends), replay]
    if ends:
        actions.append(RegisterEventHandler(OnProcessExit(
            target_action=replay, on_exit=[EmitEvent(event=Shutdown(reason='the replay has ended'))])))
    if boolean(arguments, 'detector'):
        passed = {name: arguments[name] for name in (*COMMON_ARGUMENTS, 'model', 'score_threshold')}
        actions.append(IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(HERE / 'detector.launch.py')),
            launch_arguments={
                **passed, 'cameras': ','.join(cameras), 'params_file': arguments['detector_params_file'],
                'use_sim_time': 'true' if boolean(arguments, 'use_sim_time') else 'false'}.items()))
    return actions


def generate_launch_description():
    """Declare the arguments and the nodes."""
    return LaunchDescription([*declare(ARGUMENTS), OpaqueFunction(function=start_nodes)])
