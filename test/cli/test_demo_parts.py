# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parts of the demo that need no ROS: figures, table, choice of frames, and what it says without ROS."""

from pathlib import Path
import sys

import pytest

from kd_perception.cli import demo_report
from kd_perception.cli.demo_run import DemoRun, prepare_environment
from kd_perception.cli.main import main
from kd_perception.errors import RosInterfaceError

FACTS = {'input': {'title': 'a drive', 'origin': 'given', 'rendered': False},
         'model': {'name': 'm', 'sha256': 'ab' * 32}}
REPLAY = {'frames': 100, 'undecodable': {'short_data': 1}, 'lost_in_input': 2, 'answers': 0, 'timeouts': 0,
          'wall_s': 9.9, 'input_problems': ['p']}
STATUS = {
    'front': {'processed': '40', 'dropped.superseded': '9', 'total.p50_ms': '12.5', 'total.max_ms': '30.0',
              'inference.p50_ms': '10.0', 'image_age_ms': 'unknown'},
    'rear': {'processed': '45', 'dropped.superseded': '1', 'dropped.short_data': '2'}}


def summary(**replay):
    run = DemoRun({**REPLAY, **replay}, {'front': [b'x'] * 40, 'rear': [b'x'] * 45}, {}, [], STATUS)
    return demo_report.summarise(run, {'Car': 3}, FACTS)


def test_every_frame_is_accounted_for():
    frames = summary()['frames']
    assert frames == {'in': 100, 'processed': 85, 'dropped': {'superseded': 10, 'short_data': 2},
                      'undelivered': 3, 'left_out': {'short_data': 1}, 'lost_in_input': 2}
    assert summary(answers=99, timeouts=1)['frames']['unanswered_in_time'] == 1


def test_latency_by_stage_in_the_order_of_the_stages():
    latency = summary()['latency_ms']
    assert latency == {'front': {'inference': {'p50': 10.0}, 'total': {'p50': 12.5, 'max': 30.0}}, 'rear': {}}
    assert list(latency['front']) == ['inference', 'total']


def test_the_table_tells_what_was_lost():
    text = demo_report.table(summary(), Path('out'))
    assert '100 published, 85 processed' in text and '10 superseded, 2 short_data, 3 not delivered' in text
    assert 'abababababab' in text and 'RENDERED' not in text
    rendered = {**summary(), 'input': {**FACTS['input'], 'rendered': True}}
    assert 'RENDERED, NOT FOOTAGE' in demo_report.table(rendered, Path('out'))


@pytest.mark.parametrize('count,tiles', [(0, 0), (1, 1), (8, 8), (9, 9), (100, 9)])
def test_the_overview_shows_frames_at_equal_distances(count, tiles):
    chosen = demo_report._choose_frames({('c', stamp): b'' for stamp in range(count)})
    assert len(chosen) == tiles
    stamps = sorted(stamp for _, stamp in chosen)
    assert len({b - a for a, b in zip(stamps, stamps[1:])}) <= 2


def test_without_ros_it_says_what_to_do(monkeypatch, tmp_path, capsys):
    for name in ('AMENT_PREFIX_PATH', 'ROS_DISTRO', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_DOMAIN_ID',
                 'FASTDDS_BUILTIN_TRANSPORTS'):
        monkeypatch.setenv(name, '1')  # so that nothing of this test stays in the environment
    monkeypatch.setitem(sys.modules, 'rclpy', None)
    with pytest.raises(RosInterfaceError, match='source a ROS 2 install, or use `make demo`'):
        prepare_environment()
    assert main(['demo', '--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err
    assert error.startswith('kd_perception demo: error: ROS 2 is not usable') and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()
