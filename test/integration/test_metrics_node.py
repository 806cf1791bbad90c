# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""metrics_node and `status` beside real nodes: the figures of the diagnostics, deaths, bad input."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
pytest.importorskip('prometheus_client', reason='prometheus-client is not installed')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from prometheus_client.parser import text_string_to_metric_families
from rclpy.serialization import serialize_message

from detector_client import DetectorClient, image_message
from hybrid_client import AMBIGUOUS_IMAGE, CLEAR_IMAGE, HybridClient, PARAMETERS, start_fallback
from ros_harness import RELIABLE, REPOSITORY

NODE = 'kd_perception.nodes.metrics_node'
# Metric (its node is the key's) -> key in the diagnostics, its unit in the metric's.
STUDENT_FIGURES = {
    ('camera_images_received_total',): ('received', 1), ('camera_images_processed_total',): ('processed', 1),
    ('camera_detections_total',): ('detections', 1),
    ('camera_images_dropped_total', ('reason', 'short_data')): ('dropped.short_data', 1),
    ('camera_latency_seconds', ('quantile', '0.5'), ('stage', 'total')): ('total.p50_ms', 1e-3),
    ('camera_latency_seconds', ('quantile', '1'), ('stage', 'inference')): ('inference.max_ms', 1e-3),
    ('camera_image_age_seconds',): ('image_age_ms', 1e-3)}
FALLBACK_FIGURES = {
    ('fallback_frames_total',): ('gate.frames', 1), ('fallback_frames_sent_total',): ('gate.sent', 1),
    ('fallback_outputs_total',): ('arbiter.outputs', 1),
    ('fallback_outputs_by_source_total', ('source', 'student')): ('arbiter.source.student', 1),
    ('fallback_frames_denied_total', ('reason', 'share_budget')): ('gate.share_budget', 1),
    ('fallback_worst_lateness_seconds',): ('worst_lateness_ms', 1e-3)}


class Scraper:
    """Prometheus, as far as the test needs it."""

    def __init__(self, probe, process):
        log = probe.wait_for(lambda: re.search(r'metrics on (http://\S+)', process.log), 'the endpoint')
        self.url = log[1]
        assert self.url.startswith('http://127.0.0.1:')

    def values(self):
        """Return {(name without the prefix, labels in alphabetical order ...): value}."""
        with urllib.request.urlopen(self.url, timeout=20) as response:
            text = response.read().decode()
        return {(sample.name.removeprefix('kd_perception_'), *sorted(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text) for sample in family.samples}

    def value(self, name, **labels):
        """Return one series' value, None where there is none."""
        return self.values().get((name, *sorted(labels.items())))


def test_figures_of_a_hybrid_its_deaths_and_what_is_malformed(probe, start, start_detector, model):
    metrics = start(NODE, '--ros-args', '-p', 'port:=0', '-p', 'stale_s:=2.5')
    start_fallback(start, model, '-p', 'cameras:=[front]', **{**PARAMETERS, 'camera_silence_s': 3600.0})
    student = start_detector(name='student', cameras='[front]')
    clients = {'/student': DetectorClient(probe, '/student'), '/fallback': DetectorClient(probe, '/fallback')}
    front = HybridClient(probe, 'front', student=False, teacher=False)
    front.wait_ready()
    scraper = Scraper(probe, metrics)
    for image in (CLEAR_IMAGE, AMBIGUOUS_IMAGE):
        front.show(image)
    short = image_message(CLEAR_IMAGE)
    short.data = short.data[:100]
    front.images.publish(short)

    def equal():
        """Whether every figure of the newest diagnostics is the exporter's."""
        found, count = scraper.values(), 0
        for node, figures in (('/student', STUDENT_FIGURES), ('/fallback', FALLBACK_FIGURES)):
            values = clients[node].values('camera front')
            for (name, *labels), (key, scale) in figures.items():
                if values.get(key, 'unknown') != 'unknown':
                    series = (name, *sorted([*labels, ('camera', 'front'), ('node', node)]))
                    if found.get(series) != pytest.approx(float(values[key]) * scale):
                        return False
                    count += 1
        return count == len(STUDENT_FIGURES) + len(FALLBACK_FIGURES) and found

    def seen():
        told = {node: client.values('camera front') for node, client in clients.items()}
        return f'equal figures: {told} {scraper.values()}'
    found = probe.wait_for(equal, seen)
    assert found['camera_images_dropped_total', ('camera', 'front'), ('node', '/student'),
                 ('reason', 'short_data')] == 1
    assert found['fallback_outputs_total', ('camera', 'front'), ('node', '/fallback')] >= 2
    assert found['node_up', ('node', '/student')] == found['node_up', ('node', '/fallback')] == 1
    assert found['lifecycle_state', ('node', '/student'), ('state', 'active')] == 1
    assert found['status_level', ('component', 'model'), ('node', '/student')] == 0
    states = {key[-1][1]: value for key, value in found.items() if key[0] == 'fallback_state'}
    assert set(states) == {'NOMINAL', 'DEGRADED', 'ERROR'} and sum(states.values()) == 1

    # The same by the command, for scripts.
    once = start('kd_perception', 'status', '--once', '--json', '--expect', 'student,fallback', '--nodes',
                 '/student,/fallback', '--stale', '30')
    live = start('kd_perception', 'status', '--json', '--stale', '2.5')
    code, report = once.wait(), json.loads(once.log)
    assert code == {'OK': 0, 'WARN': 1, 'ERROR': 3}[report['level']]
    nodes = {node['name']: node for node in report['nodes']}
    assert set(nodes) == {'/student', '/fallback'} and all(node['alive'] for node in nodes.values())
    camera = next(c for c in nodes['/student']['components'] if c['name'] == 'camera front')
    assert camera['values']['dropped.short_data'] == '1'
    assert float(camera['values']['received']) == found[
        'camera_images_received_total', ('camera', 'front'), ('node', '/student')]

    # What is malformed is counted, and harms nobody.
    publisher = probe.publisher(DiagnosticArray, '/diagnostics', RELIABLE)
    probe.wait_matched(publisher, 1)

    def status(name='odd: thing', level=b'\0', **values):
        return DiagnosticStatus(name=name, level=level, values=[
            KeyValue(key=key, value=value) for key, value in values.items()])
    array = DiagnosticArray(status=[
        status(temperature='NaN', volts='12.5', note='x' * 5000), status(name=''), status(level=b'\xff'),
        status(name='bell\a: x')])
    huge = DiagnosticArray(status=[status(name='huge: one', text='x' * 5_000_000)])
    broken = bytes(serialize_message(array))[:60]
    no_text = bytes(serialize_message(DiagnosticArray(status=[status(name='abc: d')])))
    no_text = no_text.replace(b'abc', b'\xff\xfe\xfd')
    wanted = {'bad_level', 'bad_name', 'bad_value', 'not_finite', 'too_large', 'undecodable'}

    def counted():
        found = scraper.values()
        return {key[1][1] for key in found if key[0] == 'diagnostics_refused_total'} >= wanted and \
            found.get(('thing_volts', ('component', 'thing'), ('node', '/odd'))) == 12.5
    probe.wait_for(counted, lambda: f'{wanted}, got {scraper.values()}', period_s=1.0, every=lambda: [
        publisher.publish(message) for message in (array, huge, broken, no_text)])
    assert metrics.alive

    # A dead node is seen to be dead; its figures are gone.
    student.kill()
    probe.wait_for(lambda: scraper.value('node_up', node='/student') == 0, 'the silence to be seen')
    found = scraper.values()
    assert found['status_level', ('component', 'camera front'), ('node', '/student')] == 3
    assert found['node_report_age_seconds', ('node', '/student')] > 2.5
    assert not [key for key in found if key[0].startswith('camera_') and ('node', '/student') in key]
    assert found['node_up', ('node', '/fallback')] == 1

    def live_says_so():
        lines = [json.loads(line) for line in live.log.splitlines(keepends=True) if line.endswith('\n')]
        last = lines[-1]['nodes'] if lines else []
        return any(node['name'] == '/student' and not node['alive'] for node in last)
    probe.wait_for(live_says_so, lambda: f'status to say who is silent:\n{live.log[-2000:]}')
    assert live.stop(signal.SIGINT) == 0

    # Its counters begin anew with it.
    start_detector(name='student', cameras='[front]')
    probe.wait_for(lambda: scraper.value('node_up', node='/student') == 1, 'the new student')
    probe.wait_for(lambda: scraper.value(
        'camera_images_received_total', node='/student', camera='front') == 0, 'its counter')
    assert metrics.stop(signal.SIGTERM) == 0 and 'Traceback' not in metrics.log


def test_ends_with_one_line_where_it_cannot_serve_or_hear(start, domain):
    code = f"import sys; sys.modules['prometheus_client'] = None; from {NODE} import main; sys.exit(main([]))"
    missing = subprocess.Popen(
        [sys.executable, '-c', code], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    first = start(NODE, '--ros-args', '-p', 'address:=256.0.0.1')
    silence = start('kd_perception', 'status', '--once', '--wait', '0.5')
    try:
        _, error = missing.communicate(timeout=60)
    finally:
        missing.kill()
    assert missing.returncode == 2 and error.count('\n') == 1
    assert 'metrics_node needs the Python package prometheus-client' in error
    assert first.wait() == 2
    assert 'kd_perception: error: parameters address, port: cannot listen on 256.0.0.1:9464' in first.log
    assert silence.wait() == 4
    line, = silence.log.splitlines()
    assert f'nothing was heard on /diagnostics within 0.5 s (ROS_DOMAIN_ID {domain})' in line
