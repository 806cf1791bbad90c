# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`model attach-reference` and `evaluate drift`, with models that find bright rectangles in drawn images."""
import json

import cv2
import numpy as np
import pytest

from kd_perception.cli.main import run_command
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.drift.reference import DOCUMENT, DriftReference
from kd_perception.models.manifest import pinned_sha256

onnx = pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model

HW = (96, 128)


def draw(rng, grey=70):
    """Draw one bright rectangle on a grey that differs from image to image."""
    x, y = rng.integers(2, 80), rng.integers(2, 50)
    w, h = rng.integers(15, 40, 2)
    image = draw_rectangles(HW, (0, (x, y, x + w, y + h), int(rng.integers(120, 250))))
    background = np.clip(grey + 10 * rng.normal() + rng.normal(0, 5, HW), 0, 255).astype(np.uint8)
    return np.where(image.any(axis=2, keepdims=True), image, background[..., None])


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    """Images of before and of another day, others in the dark, and two models."""
    root = tmp_path_factory.mktemp('drift')
    rng = np.random.default_rng(3)
    for name, count, grey in (('before', 40, 70), ('today', 20, 70), ('dark', 10, 12)):
        (root / name / 'images').mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / name / 'images' / f'{i:06d}.png'), draw(rng, grey))
    write_rectangle_model(root / 'student.onnx', HW, name='student')
    write_rectangle_model(root / 'teacher.onnx', HW, name='teacher')
    return root


def attach(root, out, *more):
    return run_command('model', [str(word) for word in (
        'attach-reference', root / 'student.onnx', '--images', root / 'before' / 'images', '--out', out,
        '--scene-frames', 5, '--threads', 1, '--quiet', *more)])


def test_only_the_metadata_change_and_the_file_verifies(scene, tmp_path, capsys):
    out = tmp_path / 'watched.onnx'
    assert attach(scene, out, '--teacher', scene / 'teacher.onnx', '--manifest', 'student') == 0
    shown = capsys.readouterr().out
    assert '40 frames in 40 scenes' in shown and 'luminance' in shown and 'score.Car' in shown
    assert 'disagree on 0.0% of the objects' in shown
    before, after = (onnx.load(str(path)) for path in (scene / 'student.onnx', out))
    assert before.graph.SerializeToString() == after.graph.SerializeToString()
    kept = {entry.key: entry.value for entry in after.metadata_props}
    document = kept.pop('kd_perception.drift')
    assert kept == {entry.key: entry.value for entry in before.metadata_props} and len(document) < 3000
    detector = OnnxDetector.load(out)
    assert pinned_sha256(out) == detector.sha256
    reference = DriftReference.of_model(detector.spec, 'm')
    assert {'luminance', 'height', 'score.Car', 'ambiguity.signals'} <= {q.name for q in reference.quantities}
    assert reference.made['sets'] == {'before': 40} and len(reference.made['teacher_sha256']) == 12
    assert run_command('model', ['verify', str(out)]) == 0
    assert 'drift reference is well formed' in capsys.readouterr().out


def test_of_images_that_the_model_was_trained_on_only_the_images_count(scene, tmp_path):
    out = tmp_path / 'watched.onnx'
    assert attach(scene, out, '--trained-on', 'before') == 0
    names = {q.name for q in DriftReference.of_model(OnnxDetector.load(out).spec, 'm').quantities}
    assert names == {'luminance', 'contrast', 'sharpness'}


def test_a_malformed_reference_does_not_verify(scene, tmp_path, capsys):
    out = tmp_path / 'watched.onnx'
    model = onnx.load(str(scene / 'student.onnx'))
    entry = model.metadata_props.add()
    entry.key, entry.value = f'kd_perception.{DOCUMENT}', '{"version": 1}'
    onnx.save(model, str(out))
    assert run_command('model', ['verify', str(out)]) == 1
    assert 'kd_perception.drift.rate_hz: is missing' in capsys.readouterr().err


@pytest.mark.parametrize('more, message', [
    (('--drive', 'nowhere'), '--drive nowhere: no such set; expected some of before'),
    (('--trained-on', 'x'), '--trained-on x: no such set'),
    (('--scene-frames', '0'), '--scene-frames 1 to 10000'),
    (('--rate-hz', 'nan'), '--rate-hz above 0'),
    (('--drive', 'before', '--scene-frames', '30'), '40 frames in 1 scenes, expected at least 8'),
])
def test_bad_wishes_to_attach_are_refused_in_one_line(scene, tmp_path, capsys, more, message):
    assert attach(scene, tmp_path / 'watched.onnx', *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not (tmp_path / 'watched.onnx').exists()


def evaluate(root, out, *more):
    return run_command('evaluate', [str(word) for word in (
        'drift', '--model', root / 'student.onnx', '--unchanged', root / 'today' / 'images', '--out', out,
        '--hours', 0.01, '--runs', 1, '--limit', 200, '--window', 150, '--scene-frames', 5, '--threads', 1,
        '--quiet', *more)])


def test_report_of_changes_that_are_seen(scene, tmp_path, capsys):
    out = tmp_path / 'report'
    assert evaluate(scene, out, '--reference', scene / 'before' / 'images', '--teacher',
                    scene / 'teacher.onnx', '--change', f'dark={scene / "dark" / "images"}', '--conditions',
                    'blur', '--stream-scene-frames', 10) == 0
    report = json.loads((out / 'report.json').read_text())
    assert [item['scene_frames'] for item in report['false_alarms']] == [5, 10]
    assert report['false_alarms'][0]['frames'] == 360 and report['false_alarms'][0]['alarms'] == 0
    dark, blurred = report['conditions']['dark'], report['conditions']['blur']
    assert dark['delays']['luminance.ks']['alarmed'] == 1
    assert blurred['delays']['sharpness.tails']['alarmed'] == 1
    assert report['rates']['unchanged']['miss_rate'] == '0.000'
    text = (out / 'report.md').read_text()
    assert text.strip() in capsys.readouterr().out and '| dark |' in text and 'tails CUSUM' in text
    assert (out / 'delays.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('more, message', [
    ((), 'student.onnx: holds no reference statistics; give --reference'),
    (('--change', 'fog'), "--change 'fog': expected NAME=PATH"),
    (('--conditions', 'snow'), "unknown condition 'snow'; expected some of night"),
    (('--window', '1'), 'window must be in'),
    (('--share', '1'), '--share above 0 and below 1'),
    (('--hours', '0'), '--hours above 0'),
])
def test_bad_wishes_to_evaluate_are_refused_in_one_line(scene, tmp_path, capsys, more, message):
    assert evaluate(scene, tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
