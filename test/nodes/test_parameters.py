# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameter table of detector_node: its checks, and what it becomes. Needs no ROS."""

from pathlib import Path

import pytest

from kd_perception.errors import RosInterfaceError
from kd_perception.health.camera_monitor import INTENDED_DROPS
from kd_perception.images.raw import REASONS
from kd_perception.nodes.detector.parameters import (
    check_combination,
    DETECTOR_PARAMETERS,
    DetectorSettings,
    settings_of_defaults,
    Thresholds,
)
from kd_perception.nodes.shared.parameters import check_values

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs' / 'reference' / 'detector_node.md'
DEFAULTS = {spec.name: spec.default for spec in DETECTOR_PARAMETERS}


def test_docs_name_every_drop_reason_and_stage():
    text = DOCS.read_text()
    own = {'inference_error', 'publish_error', 'internal_error'}
    stages = {'wait', 'decode', 'preprocess', 'inference', 'postprocess', 'publish', 'total', 'overhead',
              'age', 'staleness'}
    for word in {*REASONS, *INTENDED_DROPS, *own, *stages}:
        assert f'`{word}`' in text, word


@pytest.mark.parametrize('name,value,reason', [
    ('autostart', 1, 'autostart: expected true or false, got 1'),
    ('image_depth', True, 'image_depth: expected an integer, got True'),
    ('image_depth', 2.0, 'expected an integer'),
    ('image_depth', 0, 'image_depth: 0 is out of bounds, expected 1 to 100'),
    ('image_depth', 101, 'out of bounds'),
    ('score_threshold', 'x', "expected a number, got 'x'"),
    ('score_threshold', float('nan'), 'not a finite number'),
    ('score_threshold', float('inf'), 'not a finite number'),
    ('score_threshold', -0.5, 'score_threshold: -0.5 is out of bounds, expected 0.001 to 1 or -1'),
    ('model', 3, 'expected a string'),
    ('model', 'x' * 5000, '5000 characters'),
    ('cameras', 'front', "expected a list of strings, got 'front'"),
    ('cameras', ['a', 1], 'expected a list of strings'),
    ('cameras', ['a'] * 65, '65 entries'),
    ('image_transport', 'theora', "'theora' is unknown, expected one of 'raw', 'compressed'"),
])
def test_bad_values_are_refused_with_a_reason(name, value, reason):
    assert reason in check_values(DETECTOR_PARAMETERS, {name: value})
    with pytest.raises(RosInterfaceError, match=f'^parameter {name}: '):
        DetectorSettings.from_values({**DEFAULTS, name: value})


@pytest.mark.parametrize('name,value', [
    ('score_threshold', -1.0), ('score_threshold', 1), ('score_threshold', 0.001), ('max_detections', -1),
    ('max_detections', 1000), ('cameras', ('front', 'robot1/rear', '/abs/left')),
    ('expected_sha256', 'aB' * 32)])
def test_good_values_pass(name, value):
    DetectorSettings.from_values({**DEFAULTS, name: value})


@pytest.mark.parametrize('changes,reason', [
    ({'cameras': []}, 'cameras: 0 names, expected 1 to 32'),
    ({'cameras': [f'c{i}' for i in range(33)]}, '33 names'),
    ({'cameras': ['a', 'b', 'a']}, 'names a camera twice'),
    ({'cameras': ['front', '/front']}, 'names a camera twice'),
    *(({'cameras': [name]}, 'is not a topic namespace')
      for name in ('', '1st', 'a b', 'a//b', 'a/', '~/a', 'a-b', '{x}', 'a\n')),
    ({'silence_warn_s': 6.0}, 'silence_warn_s: 6 is above silence_error_s (5)'),
    ({'expected_sha256': 'abc'}, 'is not a sha256'),
    ({'model': ''}, 'model: is empty'),
])
def test_bad_combinations_are_refused(changes, reason):
    assert reason in check_combination({**DEFAULTS, **changes})


def test_settings_are_typed():
    settings = settings_of_defaults()
    assert settings.cameras == ('camera',) and settings.autostart and not settings.compressed
    assert settings.thresholds == Thresholds(True, None, None, None)
    assert settings.limits.silence_error_ns == 5_000_000_000
    assert settings.limits.max_age_ns == 1_000_000_000
    tuned = DetectorSettings.from_values({
        **DEFAULTS, 'score_threshold': 0.3, 'nms_iou': 0.6, 'max_detections': 7,
        'image_transport': 'compressed', 'image_reliability': 'reliable', 'threads': 3,
        'latency_budget_ms': 50.0})
    assert tuned.thresholds == Thresholds(True, 0.3, 0.6, 7)
    assert tuned.compressed and tuned.reliable and tuned.execution.threads == 3
    assert tuned.limits.latency_budget_ns == 50_000_000
