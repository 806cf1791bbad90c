# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameters of replay_node and their typed form. Free of ROS."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from kd_perception.nodes.shared.parameters import ParameterSpec, require_valid

LOCKSTEP_TOPICS = ('detections', 'verified_detections')

REPLAY_PARAMETERS = (
    ParameterSpec(
        'input', 'string', '',
        'Folder of images (or with a sub-folder per camera), video, or rosbag2 recording (folder, .mcap, '
        '.db3).',
        changes='start', section='What to play'),
    ParameterSpec(
        'cameras', 'string_list', [''],
        "Name of a folder's or video's camera; cameras or image topics of a recording; empty: all of them.",
        changes='start'),
    ParameterSpec(
        'frame_rate', 'double', 0.0,
        "Frames a second of a folder without stamps, or in place of a video's; 0: 10, and the video's own.",
        changes='start', minimum=0.0, maximum=1000.0),
    ParameterSpec(
        'timestamps_file', 'string', '',
        "Stamps of a folder's images, one a line; empty: timestamps.txt beside them, if there is one.",
        changes='start'),
    ParameterSpec(
        'start_offset_s', 'double', 0.0,
        'Recorded seconds to skip at the start.', changes='start', minimum=0.0, maximum=999999.0),
    ParameterSpec(
        'duration_s', 'double', 0.0,
        'Recorded seconds to play; 0: to the end.', changes='start', minimum=0.0, maximum=999999.0),
    ParameterSpec(
        'max_frames', 'int', 0,
        'Stop after this many images, all passes of a loop together; 0: no limit.',
        changes='start', minimum=0, maximum=999999),
    ParameterSpec(
        'loop', 'bool', False,
        'Begin again at the end; stamps and /clock jump back to the start.', changes='live'),
    ParameterSpec(
        'image_transport', 'string', 'raw',
        'raw publishes C/image_raw, compressed C/image_raw/compressed, recorded what the input holds.',
        changes='start', choices=('raw', 'compressed', 'recorded'), section='How it is published'),
    ParameterSpec(
        'stamps', 'string', 'recorded',
        'recorded keeps header stamps; now puts the time of publishing there, for nodes without sim time.',
        changes='start', choices=('recorded', 'now')),
    ParameterSpec(
        'rate', 'double', 1.0,
        'Speed against the recorded time; 0: as fast as possible. Without meaning in lockstep.',
        changes='live', minimum=0.0, maximum=1000.0),
    ParameterSpec(
        'publish_clock', 'bool', False,
        'Publish the recorded time on /clock, for nodes with use_sim_time.', changes='start'),
    ParameterSpec(
        'clock_rate_hz', 'double', 100.0,
        'Rate of /clock between images; each message sets it too.',
        changes='start', minimum=1.0, maximum=1000.0),
    ParameterSpec(
        'other_topics', 'string_list', ['*'],
        "Patterns (*, ?) of a recording's further topics to play; never images, nor what detectors publish.",
        changes='start'),
    ParameterSpec(
        'wait_for_subscribers_s', 'double', 30.0,
        'Longest wait for a subscriber to each image topic before the first image; 0: do not wait.',
        changes='start', minimum=0.0, maximum=3600.0, section='Whom to wait for'),
    ParameterSpec(
        'min_subscribers', 'int', 1,
        'So many subscribers of each image topic are waited for.', changes='start', minimum=1, maximum=100),
    ParameterSpec(
        'lockstep', 'string', 'none',
        'Publish an image only after the answer to the one before: a message on C/detections or '
        'C/verified_detections with the stamp of the image.',
        changes='start', choices=('none', *LOCKSTEP_TOPICS)),
    ParameterSpec(
        'lockstep_timeout_s', 'double', 5.0,
        'Longest wait for an answer; then it is counted as missing and the replay goes on.',
        changes='start', minimum=0.01, maximum=3600.0),
    ParameterSpec(
        'record', 'string', '',
        'In lockstep: new recording (.mcap, .db3 or a folder) that keeps every answer; empty: none.',
        changes='start'),
)


@dataclasses.dataclass(frozen=True)
class ReplaySettings:
    """The values of `REPLAY_PARAMETERS`, typed and checked together."""

    input: str
    cameras: tuple[str, ...]
    image_transport: str
    frame_rate: float | None
    timestamps_file: str | None
    restamp: bool
    rate: float
    loop: bool
    start_offset_ns: int
    duration_ns: int | None
    max_frames: int | None
    wait_for_subscribers_s: float
    min_subscribers: int
    lockstep: str | None
    lockstep_timeout_s: float
    record: str | None
    publish_clock: bool
    clock_period_ns: int
    other_topics: tuple[str, ...]

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ReplaySettings:
        """
        Build the settings from parameter values.

        :raises RosInterfaceError: one line that names the parameter and what was expected.
        """
        require_valid(REPLAY_PARAMETERS, values, check_combination)
        return cls(
            input=values['input'], cameras=tuple(name for name in values['cameras'] if name),
            image_transport=values['image_transport'], frame_rate=values['frame_rate'] or None,
            timestamps_file=values['timestamps_file'] or None, restamp=values['stamps'] == 'now',
            rate=values['rate'], loop=values['loop'], start_offset_ns=round(values['start_offset_s'] * 1e9),
            duration_ns=round(values['duration_s'] * 1e9) or None, max_frames=values['max_frames'] or None,
            wait_for_subscribers_s=values['wait_for_subscribers_s'],
            min_subscribers=values['min_subscribers'],
            lockstep=None if values['lockstep'] == 'none' else values['lockstep'],
            lockstep_timeout_s=values['lockstep_timeout_s'], record=values['record'] or None,
            publish_clock=values['publish_clock'], clock_period_ns=round(1e9 / values['clock_rate_hz']),
            other_topics=tuple(pattern for pattern in values['other_topics'] if pattern))


def check_combination(values: Mapping[str, Any]) -> str:
    """Return why values that are fine one by one are refused together; empty where they are not."""
    if not values['input']:
        return 'input: is empty, expected a folder of images, a video or a recording'
    if values['stamps'] == 'now' and values['publish_clock']:
        return 'stamps: now and publish_clock contradict one another: /clock holds the recorded time'
    if values['lockstep'] != 'none' and not values['wait_for_subscribers_s']:
        return 'wait_for_subscribers_s: is 0, but lockstep needs a subscriber that answers'
    if values['record'] and values['lockstep'] == 'none':
        return 'record: needs lockstep, whose answers it keeps'
    if values['record'] and values['loop']:
        return 'record: loop would record every frame several times'
    return ''
