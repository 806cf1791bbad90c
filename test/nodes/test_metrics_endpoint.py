# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a scraper gets over HTTP, read back by prometheus-client's own parsers. Needs no ROS."""

import socket
import sys
import urllib.error
import urllib.request

import pytest

from kd_perception.errors import RosInterfaceError
from kd_perception.monitoring.board import DiagnosticsBoard, RawStatus
from kd_perception.monitoring.metrics import MetricsExporter
from kd_perception.nodes.metrics.endpoint import MetricsEndpoint

pytest.importorskip('prometheus_client', reason='prometheus-client is not installed')

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

STATUSES = [
    RawStatus('student: camera front', 0, values=[('processed_rate_hz', '9.5'), ('received', '12'),
                                                  ('dropped.superseded', '2'), ('state', 'active')]),
    RawStatus('ünïcode "quoted" \\ : b', 1, values=[('a.x"y\\', '1e300'), ('n_total', '7')])]


@pytest.fixture
def exporter():
    exporter = MetricsExporter(DiagnosticsBoard(lambda: 0, 5, 9), 1000)
    exporter.hear(STATUSES)
    return exporter


@pytest.fixture
def endpoint(exporter):
    endpoint = MetricsEndpoint('127.0.0.1', 0, exporter.families)
    yield endpoint
    endpoint.close()


def get(endpoint, accept='', **kwargs):
    request = urllib.request.Request(
        f'http://127.0.0.1:{endpoint.port}/metrics', headers={'Accept': accept}, **kwargs)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


@pytest.mark.parametrize('accept, parse', [
    ('', text_string_to_metric_families),
    ('application/openmetrics-text; version=1.0.0', openmetrics.text_string_to_metric_families)])
def test_what_is_served_is_what_was_heard(endpoint, exporter, accept, parse):
    found = {(sample.name, tuple(sorted(sample.labels.items()))): (sample.value, family.type)
             for family in parse(get(endpoint, accept)) for sample in family.samples}
    expected = {(family.name, sample.labels): (sample.value, family.type)
                for family in exporter.families() for sample in family.samples}
    assert found == expected
    name, labels = 'kd_perception_camera_images_received_total', (('camera', 'front'), ('node', '/student'))
    assert found[name, labels] == (12.0, 'counter')
    labels = (('component', 'b'), ('key', 'x"y\\'), ('node', '/ünïcode "quoted" \\'))
    assert found['kd_perception_b_a', labels] == (1e300, 'gauge')


def test_a_later_scrape_gets_later_figures(endpoint, exporter):
    before = get(endpoint)
    exporter.hear([RawStatus('student: camera front', 0, values=[
        ('processed_rate_hz', '9.5'), ('received', '13')])])
    line = 'kd_perception_camera_images_received_total{camera="front",node="/student"} '
    assert line + '12.0' in before and line + '13.0' in get(endpoint)


def test_nothing_can_be_set(endpoint):
    before = get(endpoint)
    try:
        # Older versions of prometheus-client answer every method alike.
        assert get(endpoint, data=b'x=1') == before
    except urllib.error.HTTPError as error:
        assert error.code == 405
    assert get(endpoint) == before


def test_a_port_that_is_taken_is_one_clear_line(endpoint):
    words = rf'^parameters address, port: cannot listen on 127.0.0.1:{endpoint.port} \(.*in use'
    with pytest.raises(RosInterfaceError, match=words):
        MetricsEndpoint('127.0.0.1', endpoint.port, list)
    with pytest.raises(RosInterfaceError, match='cannot listen on no.such.address.invalid:0'):
        MetricsEndpoint('no.such.address.invalid', 0, list)


def test_after_close_nobody_listens(exporter):
    endpoint = MetricsEndpoint('127.0.0.1', 0, exporter.families)
    endpoint.close()
    with pytest.raises(OSError), socket.create_connection(('127.0.0.1', endpoint.port), timeout=2):
        pass


def test_without_prometheus_client_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, 'prometheus_client', None)
    words = '^metrics_node needs the Python package prometheus-client .*pip install'
    with pytest.raises(RosInterfaceError, match=words):
        MetricsEndpoint('127.0.0.1', 0, list)
