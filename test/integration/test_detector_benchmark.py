# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark node` for real, and what it says about the node. Figures of a busy machine are not judged."""

import json

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

from ros_harness import WaitTimeout


def test_benchmark_measures_the_node(start, tmp_path):
    process = start('kd_perception', 'benchmark', 'node', '--seconds', '3', '--out', tmp_path / 'out')
    try:
        assert process.wait(100) == 0, process.log
    except WaitTimeout:
        pytest.fail(process.log)
    report = json.loads((tmp_path / 'out' / 'node_benchmark.json').read_text())
    assert report['startup']['import_ms'] > 0 and report['startup']['process_to_active_ms'] > 100
    assert report['overhead']['sent'] == 30 and report['overhead']['results'] > 0
    stages = report['overhead']['stages']
    assert 0 < stages['overhead']['p50_ms'] <= stages['total']['p50_ms']
    assert stages['overhead']['p99_ms'] <= stages['overhead']['max_ms']
    # How many images the transport itself loses is not the node's doing, so only the bound is certain.
    assert 0 < report['age']['results'] < report['age']['sent'] / 2, 'a model of 100 ms is too slow for 30 Hz'
    assert report['age']['stages']['staleness']['p50_ms'] < report['age']['stages']['age']['p50_ms']
    assert report['cpu']['cameras'] == 4 and report['cpu']['cpu_percent_of_one_core'] > 0
    assert len(report['goals']) == 3
