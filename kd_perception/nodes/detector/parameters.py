# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameters of detector_node and their typed form. Free of ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from kd_perception.detection.input_size import parse_input_size
from kd_perception.detection.onnx_detector import ExecutionOptions, PROVIDERS
from kd_perception.drift.monitor import DriftSettings
from kd_perception.health.camera_monitor import CameraLimits
from kd_perception.nodes.shared.drift_parameters import DRIFT_PARAMETERS, drift_settings
from kd_perception.nodes.shared.parameters import ParameterSpec, require_valid

MAX_CAMERAS = 32
_CAMERA = re.compile(r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')

DETECTOR_PARAMETERS = (
    ParameterSpec(
        'autostart', 'bool', True,
        'Configure and activate at start; false waits for a lifecycle manager.', changes='start',
        section='What to watch, and the model'),
    ParameterSpec(
        'cameras', 'string_list', ['camera'],
        'Camera namespaces; camera C is read from C/image_raw and answered on C/detections.'),
    ParameterSpec(
        'model', 'string', 'teacher',
        'Path of an ONNX file, a name in the installed models/manifest.yaml, or store:FOLDER#ROLE. While the '
        'node works another one is loaded beside it and takes over, or is refused in diagnostics and log.',
        changes='live'),
    ParameterSpec(
        'expected_sha256', 'string', '',
        'Digest that the next model file must have; empty: what a manifest.yaml beside the file pins.',
        changes='live'),
    ParameterSpec(
        'class_ids', 'string', 'names',
        "What class_id of C/detections holds: the class's name, or its number in label_info; fallback_node "
        'and replays read names.', choices=('names', 'numbers')),
    ParameterSpec(
        'image_transport', 'string', 'raw',
        'raw reads C/image_raw, compressed reads C/image_raw/compressed.', choices=('raw', 'compressed'),
        section='Image input'),
    ParameterSpec(
        'image_reliability', 'string', 'best_effort',
        'Reliability of the image subscriptions.', choices=('best_effort', 'reliable')),
    ParameterSpec(
        'image_depth', 'int', 1,
        'History depth of the image subscriptions; more than 1 queues, and queued images are old.',
        minimum=1, maximum=100),
    ParameterSpec(
        'threads', 'int', 1,
        'Threads inside an operator of the model; 0: one for each core that the process may use.',
        minimum=0, maximum=256, section='Execution'),
    ParameterSpec(
        'allow_spinning', 'bool', False,
        'Idle model threads poll instead of sleeping: a little faster, and burns a core between frames.'),
    ParameterSpec(
        'provider', 'string', 'cpu',
        'Where onnxruntime runs the model; a provider that is missing fails configure.',
        choices=tuple(PROVIDERS)),
    ParameterSpec(
        'provider_fallback', 'bool', False,
        'True runs the model on the CPU, with a warning, where the provider is missing.'),
    ParameterSpec(
        'input_size', 'string', 'camera',
        "Size that images are fitted into. camera: each camera's aspect at the model's number of pixels, "
        'where the file allows it; model: the size in the file; WIDTHxHEIGHT.'),
    ParameterSpec(
        'enabled', 'bool', True,
        'False drops every image (counted as disabled) without leaving the active state.', changes='live',
        section='Thresholds'),
    ParameterSpec(
        'score_threshold', 'double', -1.0,
        "Least confidence that is published; -1: the model's own working threshold.",
        changes='live', minimum=0.001, maximum=1.0, model_default=-1.0),
    ParameterSpec(
        'nms_iou', 'double', -1.0,
        "IoU above which the weaker of two boxes of a class is dropped; -1: the model's own.",
        changes='live', minimum=0.01, maximum=1.0, model_default=-1.0),
    ParameterSpec(
        'max_detections', 'int', -1,
        "At most this many a frame; -1: the model's own.",
        changes='live', minimum=1, maximum=1000, model_default=-1),
    ParameterSpec(
        'silence_warn_s', 'double', 1.0,
        'Diagnostics: WARN after this long without an image.', changes='live', minimum=0.05, maximum=3600.0,
        section='Diagnostics'),
    ParameterSpec(
        'silence_error_s', 'double', 5.0,
        'Diagnostics: ERROR after this long without an image, or without a result for one.',
        changes='live', minimum=0.05, maximum=3600.0),
    ParameterSpec(
        'latency_budget_ms', 'double', 0.0,
        'Diagnostics: WARN when arrival to result (95 %) takes longer, ERROR when sustained; 0: off.',
        changes='live', minimum=0.0, maximum=60000.0),
    ParameterSpec(
        'max_image_age_ms', 'double', 1000.0,
        'Diagnostics: WARN when images arrive this long after their stamp; 0: off.',
        changes='live', minimum=0.0, maximum=600000.0),
    ParameterSpec(
        'expected_rate_hz', 'double', 0.0,
        'Diagnostics: WARN below 80 %, ERROR below 50 % of this rate per camera; 0: off.',
        changes='live', minimum=0.0, maximum=1000.0),
    ParameterSpec(
        'sustain_s', 'double', 5.0,
        'Diagnostics: how long a WARN condition must last to become an ERROR.',
        changes='live', minimum=0.0, maximum=3600.0),
    *DRIFT_PARAMETERS,
)


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What changes while frames flow; None takes the model's own value."""

    enabled: bool = True
    score: float | None = None
    nms_iou: float | None = None
    max_detections: int | None = None


@dataclasses.dataclass(frozen=True)
class DetectorSettings:
    """The values of `DETECTOR_PARAMETERS`, typed and checked together."""

    cameras: tuple[str, ...]
    model: str
    expected_sha256: str
    class_numbers: bool
    compressed: bool
    reliable: bool
    image_depth: int
    execution: ExecutionOptions
    thresholds: Thresholds
    limits: CameraLimits
    drift: DriftSettings
    autostart: bool

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> DetectorSettings:
        """
        Build the settings from parameter values.

        :raises RosInterfaceError: one line that names the parameter and what was expected.
        """
        require_valid(DETECTOR_PARAMETERS, values, check_combination)

        def tuned(name: str) -> Any:
            return None if values[name] == -1 else values[name]

        return cls(
            cameras=tuple(values['cameras']), model=values['model'],
            expected_sha256=values['expected_sha256'],
            class_numbers=values['class_ids'] == 'numbers',
            compressed=values['image_transport'] == 'compressed',
            reliable=values['image_reliability'] == 'reliable', image_depth=values['image_depth'],
            execution=ExecutionOptions(threads=values['threads'], allow_spinning=values['allow_spinning'],
                                       provider=values['provider'],
                                       allow_cpu_fallback=values['provider_fallback'],
                                       input_size=parse_input_size(values['input_size'])),
            thresholds=Thresholds(enabled=values['enabled'], score=tuned('score_threshold'),
                                  nms_iou=tuned('nms_iou'), max_detections=tuned('max_detections')),
            limits=CameraLimits(
                silence_warn_ns=round(values['silence_warn_s'] * 1e9),
                silence_error_ns=round(values['silence_error_s'] * 1e9),
                latency_budget_ns=round(values['latency_budget_ms'] * 1e6),
                max_age_ns=round(values['max_image_age_ms'] * 1e6),
                expected_rate_hz=float(values['expected_rate_hz']),
                sustain_ns=round(values['sustain_s'] * 1e9)),
            drift=drift_settings(values),
            autostart=values['autostart'])


def check_combination(values: Mapping[str, Any]) -> str:
    """Return why values that are fine one by one are refused together; empty where they are not."""
    reason = check_cameras(values['cameras'])
    if reason:
        return reason
    if values['silence_warn_s'] > values['silence_error_s']:
        return (f'silence_warn_s: {values["silence_warn_s"]:g} is above silence_error_s '
                f'({values["silence_error_s"]:g})')
    digest = values['expected_sha256']
    if digest and not re.fullmatch('[0-9a-fA-F]{64}', digest):
        return f'expected_sha256: {digest!r:.60} is not a sha256 in hexadecimal'
    try:
        parse_input_size(values['input_size'])
    except ValueError as error:
        return f'input_size: {error}'
    if not values['model']:
        return 'model: is empty, expected the path of an ONNX file or a name in the manifest'
    return ''


def check_cameras(cameras: Sequence[str]) -> str:
    """Return why a list of camera namespaces is refused; empty where it is fine."""
    cameras = list(cameras)
    if not 1 <= len(cameras) <= MAX_CAMERAS:
        return f'cameras: {len(cameras)} names, expected 1 to {MAX_CAMERAS}'
    for camera in cameras:
        if not _CAMERA.fullmatch(camera):
            return f'cameras: {camera!r:.60} is not a topic namespace such as front or robot1/front'
    # With and without a leading slash: one topic, unless the node has a namespace, and one name to a reader.
    if len({camera.lstrip('/') for camera in cameras}) != len(cameras):
        return f'cameras: {cameras} names a camera twice'
    return ''


def settings_of_defaults() -> DetectorSettings:
    """Return the settings of a node that nothing was said to."""
    return DetectorSettings.from_values({spec.name: spec.default for spec in DETECTOR_PARAMETERS})
