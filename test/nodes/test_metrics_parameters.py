# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parameter table of metrics_node: what it refuses, and what it becomes. Needs no ROS."""

import pytest

from kd_perception.errors import RosInterfaceError
from kd_perception.nodes.metrics.parameters import METRICS_PARAMETERS, MetricsSettings

DEFAULTS = {spec.name: spec.default for spec in METRICS_PARAMETERS}


def test_settings_are_typed():
    settings = MetricsSettings.from_values({**DEFAULTS, 'nodes': ['/robot/*', '']})
    assert (settings.address, settings.port, settings.nodes) == ('127.0.0.1', 9464, ('/robot/*',))
    assert (settings.stale_ns, settings.forget_ns, settings.max_series) == (5 * 10**9, 86400 * 10**9, 5000)


@pytest.mark.parametrize('changes, reason', [
    ({'port': 65536}, 'port: 65536 is out of bounds'), ({'port': -1}, 'port: -1 is out of bounds'),
    ({'stale_s': 1.0}, 'stale_s: 1 is out of bounds, expected 1.5 to 3600'),
    ({'address': ''}, 'address: is empty'),
    ({'nodes': ['']}, 'nodes: names no node'), ({'nodes': []}, 'nodes: names no node'),
    ({'forget_s': 2.0}, r'forget_s: 2 is below stale_s \(5\)')])
def test_bad_values_are_refused(changes, reason):
    with pytest.raises(RosInterfaceError, match=f'^parameter {reason}'):
        MetricsSettings.from_values({**DEFAULTS, **changes})
