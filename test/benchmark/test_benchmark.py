# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark`: arguments and reports; the node's measurement itself is tested with real processes."""

import json
import sys

import cv2
import numpy as np
import pytest

from kd_perception.benchmark import models as benchmark_models
from kd_perception.benchmark import node as benchmark_node
from kd_perception.benchmark.machine import describe_machine
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from kd_perception.benchmark.variants import batch_cost, write_resized
from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ModelError
from kd_perception.resources import models_folder

pytest.importorskip('onnx', reason='onnx, which writes the synthetic model, is not installed')


def report(staleness_max_ms):
    stage = {'p50_ms': 1.5, 'p95_ms': 2.0, 'p99_ms': 2.5, 'max_ms': staleness_max_ms}
    part = {'cameras': 1, 'rate_hz': 30.0, 'sent': 90, 'results': 60,
            'dropped': {'dropped.superseded': 28},
            'stages': dict.fromkeys(benchmark_node.STAGES, stage),
            'cpu_percent_of_one_core': 12.5, 'cpu_ms_per_result': 4.0,
            'stamp_to_consumer': {'p50_ms': 101.0, 'p99_ms': 130.0, 'max_ms': 140.0}}
    result = {'machine': describe_machine(), 'model': 'm.onnx', 'image': '1242x375 bgr8',
              'threads': 1, 'seconds': 3.0, 'goals': [], 'age': part,
              'startup': {'import_ms': 300.0, 'process_to_active_ms': 700.0}}
    benchmark_node._judge(result, 'age', staleness_max_ms, 33.3)
    return result


@pytest.fixture
def measured(monkeypatch):
    pytest.importorskip('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
    monkeypatch.setattr('kd_perception.benchmark.node.prepare_environment', lambda: None)

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
    machine = describe_machine()
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
    assert text.count('| slow | 96x64 |') == 2
    assert entries[0]['rss_peak_mb'] > entries[0]['rss_before_mb'] > 10 and entries[0]['create_ms'] > 0
    assert (out / 'models_benchmark.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('arguments,message', [
    (['--rounds', '1'], 'expected 2 to'), (['--model', 'absent.onnx'], 'absent.onnx: no such model file'),
    (['--size', '640'], 'expected WIDTHxHEIGHT'), (['--size', '640x-1'], 'expected WIDTHxHEIGHT'),
    (['--batch', '1'], 'expected 2 to 64'), (['--labels', 'x'], 'give the images with --input'),
    (['--nanodet', 'absent.param'], 'absent.param')])
def test_bad_arguments_of_models_are_one_line(arguments, message, capsys):
    assert main(['benchmark', 'models', *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error


@pytest.fixture(scope='module')
def shipped():
    return models_folder() / 'student.onnx'


def test_the_student_runs_at_other_sizes_and_on_several_images(shipped, tmp_path):
    own = OnnxDetector.load(shipped)
    assert write_resized(shipped, own.spec.input.hw, tmp_path) == shipped
    larger = OnnxDetector.load(write_resized(shipped, (384, 1280), tmp_path))
    assert larger.spec.input.hw == (384, 1280) and larger.spec.labels == own.spec.labels
    image = np.random.default_rng(0).integers(0, 256, (384, 1280, 3), dtype=np.uint8)
    assert larger.detect(image, 0.01).detections.boxes_xyxy.shape[1] == 4
    found = batch_cost(shipped, [2], 1, 2)
    assert list(found) == ['1', '2'] and all(entry['ms_an_image'][0] > 0 for entry in found.values())
    with pytest.raises(ModelError, match='cannot take 70x64 px: its height and width must be multiples of '
                                         '(32|64), such as '):
        write_resized(shipped, (64, 70), tmp_path)
    with pytest.raises(ModelError, match='cannot take 70x64 px: .* multiples of 32, such as 96x64'):
        write_resized(shipped.with_name('teacher.onnx'), (64, 70), tmp_path)


def test_accuracy_stands_beside_speed(tmp_path, capsys):
    model = write_rectangle_model(tmp_path / 'm.onnx', (64, 96))
    images, labels = tmp_path / 'images', tmp_path / 'labels'
    images.mkdir()
    labels.mkdir()
    for i in range(2):
        image = np.full((64, 96, 3), 20, np.uint8)
        image[16:48, 16 + 8 * i:56 + 8 * i] = 235, 20, 20    # blue is a car to this model
        cv2.imwrite(str(images / f'{i}.png'), image)
        (labels / f'{i}.txt').write_text(
            f'Car 0.00 0 0.00 {16 + 8 * i}.00 16.00 {56 + 8 * i}.00 48.00 1 1 1 0 0 0 0\n')
    arguments = ['benchmark', 'models', '--model', str(model), '--rounds', '2', '--input', str(images)]
    assert main([*arguments, '--labels', str(labels), '--out', str(tmp_path / 'out')]) == 0
    report = json.loads((tmp_path / 'out' / 'models_benchmark.json').read_text())
    found = report['threads']['1'][0]['accuracy']['Car']
    assert found['objects'] == 2 and found['ap50'] == 1.0
    assert '| m | 96x64 | 1.000' in capsys.readouterr().out
    (labels / '1.txt').unlink()
    assert main([*arguments, '--labels', str(labels)]) == 2
    assert '1.txt: no such label file for 1' in capsys.readouterr().err


def test_energy_is_of_one_run_or_not_told(tmp_path, monkeypatch):
    counter = tmp_path / 'energy_uj'
    monkeypatch.setattr(benchmark_models, 'ENERGY_FILE', counter)
    assert benchmark_models.energy_mj(lambda: None) is None
    counter.write_text('1000000')
    runs = []

    def work():
        runs.append(1)
        counter.write_text(str(1_000_000 + 5000 * len(runs)))
    assert benchmark_models.energy_mj(work) == 5.0 and len(runs) == benchmark_models.ENERGY_RUNS
    assert benchmark_models.energy_mj(lambda: counter.write_text('3')) is None, 'the counter started anew'


def test_openvino_computes_what_onnxruntime_does(shipped):
    pytest.importorskip('openvino', reason='OpenVINO is not installed (it is optional)')
    from kd_perception.benchmark.openvino_detector import openvino_detector
    other, own = openvino_detector(shipped), OnnxDetector.load(shipped)
    image = np.random.default_rng(0).integers(0, 256, own.spec.input.shape, dtype=np.uint8)
    names = ['level_8', 'level_16', 'level_32']
    for a, b in zip(own.session.run(names, {'images': image}), other.session.run(names, {'images': image})):
        assert (a - b).std() < 0.03 * a.std(), 'integers round to neighbouring steps now and then'


def test_what_is_not_installed_is_named(shipped, tmp_path, monkeypatch):
    for name in ('openvino', 'ncnn'):
        monkeypatch.setitem(sys.modules, name, None)
    from kd_perception.benchmark.nanodet import nanodet
    from kd_perception.benchmark.openvino_detector import openvino_detector
    with pytest.raises(ModelError, match='OpenVINO is not installed: pip install openvino'):
        openvino_detector(shipped)
    with pytest.raises(ModelError, match='n.param: no such file'):
        nanodet(tmp_path / 'n.param', (64, 64))
    for suffix in ('.param', '.bin'):
        (tmp_path / f'n{suffix}').write_bytes(b'')
    with pytest.raises(ModelError, match='ncnn, which is not installed: pip install ncnn'):
        nanodet(tmp_path / 'n.param', (64, 64))
