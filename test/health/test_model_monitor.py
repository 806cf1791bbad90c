# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the model's diagnostic says, under an injected clock."""

import pytest

from kd_perception.detection.onnx_detector import ExecutionOptions, OnnxDetector
from kd_perception.health.model_monitor import model_facts, ModelMonitor
from kd_perception.levels import Level
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec

S = 1_000_000_000


@pytest.fixture
def clock():
    return [50 * S]


@pytest.fixture
def monitor(clock):
    return ModelMonitor(lambda: clock[0])


def test_no_model_is_no_fault_and_a_failed_one_is_an_error(monitor):
    assert (monitor.report().level, monitor.report().message) == (Level.OK, 'no model loaded')
    monitor.failed('m.onnx: no such model file', (('model', 'm.onnx'),))
    report = monitor.report()
    assert (report.level, report.message) == (Level.ERROR, 'm.onnx: no such model file')
    assert ('model', 'm.onnx') in report.values
    monitor.loaded((('name', 'teacher'),), 'abc')
    report = monitor.report()
    assert (report.level, report.message, report.hardware_id) == (Level.OK, 'model ready', 'abc')
    monitor.unloaded()
    assert monitor.report().level == Level.OK and ('name', 'teacher') not in monitor.report().values


def test_inference_errors_warn_then_fail_then_heal(monitor, clock):
    monitor.loaded((), '')
    monitor.inference_passed()
    monitor.inference_failed('CUDA out of memory')
    report = monitor.report()
    assert report.level == Level.WARN
    assert report.message == '1 inference errors in the last 5 s: CUDA out of memory'
    for _ in range(12):
        clock[0] += S
        monitor.inference_failed('CUDA out of memory')
        report = monitor.report()
    assert report.level == Level.ERROR and ('inference_errors', '13') in report.values
    for _ in range(10):
        clock[0] += S
        monitor.inference_passed()
        report = monitor.report()
    assert report.level == Level.OK and ('last_inference_error', 'CUDA out of memory') in report.values


def test_facts_identify_the_model():
    spec = ModelSpec('tiny', ('a', 'b'), InputSpec(32, 64), DecoderSpec('boxes_scores'), version='3')
    detector = OnnxDetector(None, spec, sha256='f' * 64, provider='CPUExecutionProvider')
    facts = dict(model_facts(detector, ExecutionOptions(threads=2, allow_spinning=True)))
    assert facts['name'] == 'tiny' and facts['version'] == '3' and facts['sha256'] == 'f' * 64
    assert facts['labels'] == 'a, b' and facts['input'] == '64x32'
    assert (facts['threads'], facts['allow_spinning']) == ('2', 'true')
    assert facts['provider'] == 'CPUExecutionProvider'
