# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark`: arguments and reports; the node's measurement itself is tested with real processes."""

import json

import cv2

from kd_perception.cli import benchmark_node
from kd_perception.cli.main import main
from kd_perception.cli.rectangle_model import write_rectangle_model
import numpy as np
import pytest

pytest.importorskip('onnx', reason='onnx, which writes the synthetic model, is not installed')


def report(staleness_max_ms):
    stage = {'p50_ms': 1.5, 'p95_ms': 2.0, 'p99_ms': 2.5, 'max_ms': staleness_max_ms}
    part = {'cameras': 1, 'rate_hz': 30.0, 'sent': 90, 'results': 60,
            'dropped': {'dropped.superseded': 28},
            'stages': dict.fromkeys(benchmark_node.STAGES, stage),
            'cpu_percent_of_one_core': 12.5, 'cpu_ms_per_result': 4.0,
            'stamp_to_consumer': {'p50_ms': 101.0, 'p99_ms': 130.0, 'max_ms': 140.0}}
    result = {'machine': benchmark_node.describe_machine(), 'model': 'm.onnx', 'image': '1242x375 bgr8',
              'threads': 1, 'seconds': 3.0, 'goals': [], 'age': part,
              'startup': {'import_ms': 300.0, 'process_to_active_ms': 700.0}}
    benchmark_node._judge(result, 'age', staleness_max_ms, 33.3)
    return result


@pytest.fixture
def measured(monkeypatch):
    pytest.importorskip('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
    monkeypatch.setattr('kd_perception.cli.demo_run.prepare_environment', lambda: None)

    def use(staleness_max_ms):
        monkeypatch.setattr(benchmark_node, 'measure', lambda *_: report(staleness_max_ms))
    return use


@pytest.mark.parametrize('staleness_ms,check,code', [(20.0, True, 0), (40.0, True, 1), (40.0, False, 0)])
def test_goals_decide_the_exit_code_when_asked(measured, tmp_path, capsys, staleness_ms, check, code):
    measured(staleness_ms)
    out = tmp_path / 'new' / 'folder'
    assert main(['benchmark', 'node', '--out', str(out)] + ['--check'] * check) == code
    stored = json.loads((out / 'node_benchmark.json').read_text())
    assert stored['goals'] == [{'goal': 'age', 'value_ms': staleness_ms, 'limit_ms': 33.3,
                                'met': staleness_ms == 20.0}]
    text = capsys.readouterr().out
    assert (out / 'node_benchmark.md').read_text() == text
    assert '90 images sent, 60 results, dropped: superseded 28.' in text
    assert '| staleness | 1.50 | 2.00 | 2.50 |' in text
    assert ('met: age' if staleness_ms == 20.0 else 'MISSED: age') in text


@pytest.mark.parametrize('arguments,message', [
    (['--seconds', '0'], 'expected 1 to 600'), (['--seconds', 'nan'], 'expected 1 to 600'),
    (['--model', 'absent.onnx'], 'absent.onnx: no such model file')])
def test_bad_arguments_are_one_line(arguments, message, capsys):
    assert main(['benchmark', 'node', *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith('kd_perception benchmark: error: ') and error.count('\n') == 1
    assert message in error


def test_the_machine_is_described():
    machine = benchmark_node.describe_machine()
    assert machine['cpu'] and int(machine['cores']) >= 1 and machine['onnxruntime'] != 'unknown'


def test_models_are_compared_in_turn(tmp_path, capsys):
    fast = write_rectangle_model(tmp_path / 'fast.onnx', (64, 96))
    slow = write_rectangle_model(tmp_path / 'slow.onnx', (64, 96), load_steps=40)
    images = tmp_path / 'images'
    images.mkdir()
    for i in range(3):
        cv2.imwrite(str(images / f'{i}.png'), np.full((40, 60, 3), 90 * i, np.uint8))
    out = tmp_path / 'out'
    assert main(['benchmark', 'models', '--model', str(slow), '--model', str(fast), '--input', str(images),
                 '--rounds', '8', '--threads', '1', '2', '--out', str(out)]) == 0
    report = json.loads((out / 'models_benchmark.json').read_text())
    assert report['image_hw'] == [40, 60] and list(report['threads']) == ['1', '2']
    for entries in report['threads'].values():
        assert [entry['file'] for entry in entries] == ['slow.onnx', 'fast.onnx']
        assert entries[0]['ratio'] == [1.0, 1.0, 1.0]
        assert entries[1]['bytes'] == fast.stat().st_size and entries[1]['total_ms'][1] > 0
        assert entries[1]['ratio'][1] > 0
    text = capsys.readouterr().out
    assert text == (out / 'models_benchmark.md').read_text()
    assert text.count('| slow.onnx | 96x64 |') == 2


@pytest.mark.parametrize('arguments,message', [
    (['--rounds', '1'], 'expected 2 to'), (['--model', 'absent.onnx'], 'absent.onnx: no such model file')])
def test_bad_arguments_of_models_are_one_line(arguments, message, capsys):
    assert main(['benchmark', 'models', *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error
