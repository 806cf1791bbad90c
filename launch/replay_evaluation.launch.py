# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Evaluate a detector as it runs: replay a labelled recording through the real nodes, then write the report.

    ros2 launch kd_perception replay_evaluation.launch.py input:=/data/drive_17 model:=teacher out:=report
        labels:=/front/ground_truth

The images go through replay_node and detector_node in lockstep: each one waits for the answer to the one
before, so none is lost however slow the computer is, and a second run gives the same bytes. The answers are
kept in OUT/detections.mcap; when the replay has ended, `evaluate` writes OUT/report.json and OUT/report.html.
"""

from pathlib import Path
import sys

from launch.actions import (
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import KdPerceptionError
from kd_perception.labels.label_source import LabelSource
from kd_perception.models.manifest import resolve_model
from kd_perception.nodes.launch_nodes import COMMON_ARGUMENTS, declare, values
from kd_perception.nodes.shared.launch_arguments import boolean
from kd_perception.resources import models_folder
from kd_perception.sources.any_source import open_source
from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
ARGUMENTS = {
    'input': (None, 'Labelled recording: rosbag2 (folder, .mcap, .db3), folder of images, or video.'),
    'labels': (None, 'Topic of the labels in the recording, or folder of KITTI label files.'),
    'out': (None, 'Folder for detections.mcap, report.json, report.html; none may exist yet.'),
    'camera': ('', 'Camera to evaluate. Empty: the only one of the input.'),
    'model': ('teacher', 'Path of an ONNX file, or a name in models/manifest.yaml.'),
    'score_threshold': ('', 'Least confidence that is evaluated. Empty: the lowest that the model supports.'),
    'evaluate_arguments': ('', 'Further arguments of `evaluate`, separated by blanks: --bootstrap 0.'),
    'shutdown_at_end': ('true', 'false: the detector stays when the evaluation has ended.'),
    **COMMON_ARGUMENTS,
}


def only_camera(arguments):
    """
    Return the camera to evaluate.

    :raises ValueError: the input cannot be read, or it has several cameras and none is named.
    """
    try:
        with open_source(Path(arguments['input']).expanduser(),
                         [arguments['camera']] if arguments['camera'] else None) as source:
            names = [camera.name for camera in source.cameras]
    except KdPerceptionError as error:
        raise ValueError(f'input:={arguments["input"]}: {error}') from None
    if len(names) != 1:
        raise ValueError(f'camera: the input has several ({", ".join(names)}), expected one of them')
    return names[0]


def require_labels(arguments):
    """
    Look at the labels before the replay, which may take hours.

    :raises ValueError: there are none that `evaluate` could read.
    """
    try:
        LabelSource(Path(arguments['input']).expanduser(), arguments['labels'])
    except KdPerceptionError as error:
        raise ValueError(f'labels:={arguments["labels"]}: {error}') from None


def lowest_score(arguments):
    """
    Return the least confidence to evaluate: average precision needs the weak detections too.

    :raises ValueError: the model cannot be loaded.
    """
    if arguments['score_threshold']:
        return arguments['score_threshold']
    try:
        path = resolve_model(arguments['model'], models_folder())
        return repr(OnnxDetector.load(path).spec.thresholds.score_low)
    except KdPerceptionError as error:
        raise ValueError(f'model:={arguments["model"]}: {error}') from None


def start(context):
    """Make the nodes, and what follows them, out of the arguments' values."""
    arguments = values(context, ARGUMENTS)
    out = Path(arguments['out']).expanduser().absolute()
    recording = out / 'detections.mcap'
    taken = [path for path in (recording, out / 'report.json', out / 'report.html') if path.exists()]
    if taken:
        raise ValueError(f'out:={arguments["out"]}: {taken[0].name} exists already')
    camera = only_camera(arguments)
    require_labels(arguments)
    out.mkdir(parents=True, exist_ok=True)
    topic = '/' + '/'.join(filter(None, (arguments['namespace'].strip('/'), camera, 'detections')))
    evaluate = ExecuteProcess(
        cmd=[sys.executable, '-m', 'kd_perception', 'evaluate',
             '--bag', str(Path(arguments['input']).expanduser().absolute()), '--camera', camera,
             '--labels', arguments['labels'], '--recorded', str(recording), '--detections', topic,
             '--out', str(out), *arguments['evaluate_arguments'].split()],
        name='evaluate', output='screen')

    def is_replay(action):
        return isinstance(action, Node) and action.node_executable == 'replay_node'

    def after_replay(event, context):
        if event.returncode in (0, 1) and recording.exists():  # 1: some images stayed without an answer
            return [evaluate]
        if not context.is_shutdown:
            raise RuntimeError(f'the replay failed with exit code {event.returncode}, nothing is evaluated')

    def after_evaluation(event, context):
        if event.returncode and not context.is_shutdown:
            raise RuntimeError(f'evaluate failed with exit code {event.returncode}')
        if boolean(arguments, 'shutdown_at_end'):
            return [EmitEvent(event=Shutdown(reason='the evaluation has ended'))]

    passed = {name: arguments[name] for name in (*COMMON_ARGUMENTS, 'input', 'model')}
    return [
        RegisterEventHandler(OnProcessExit(target_action=is_replay, on_exit=after_replay)),
        RegisterEventHandler(OnProcessExit(target_action=evaluate, on_exit=after_evaluation)),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(HERE / 'replay.launch.py')),
            launch_arguments={
                **passed, 'cameras': camera, 'score_threshold': lowest_score(arguments),
                'lockstep': 'detections', 'record': str(recording), 'shutdown_at_end': 'false'}.items()),
    ]


def generate_launch_description():
    """Declare the arguments and the nodes."""
    return LaunchDescription([*declare(ARGUMENTS), OpaqueFunction(function=start)])
