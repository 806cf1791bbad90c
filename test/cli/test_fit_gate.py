# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`fit-gate` and `evaluate hybrid` as commands, with models that find bright rectangles in drawn images."""
import json

import cv2
import numpy as np
import pytest

from kd_perception.cli.main import run_command
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.fallback.estimator import Estimator
from kd_perception.models.manifest import pinned_sha256

onnx = pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model

HW = (192, 256)
REST = '1.50 1.60 3.90 1.00 1.60 20.00 0.10'


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    """Two sets of images; the student looks at an eighth of the resolution, so that its boxes are coarse."""
    root = tmp_path_factory.mktemp('fit')
    rng = np.random.default_rng(3)
    for name in ('day', 'night'):
        for folder in ('images', 'label_2'):
            (root / name / folder).mkdir(parents=True)
        for i in range(14):
            x, y = rng.integers(2, 180), rng.integers(2, 130)
            w, h = rng.integers(27, 45, 2)
            image = draw_rectangles(HW, (0, (x, y, x + w, y + h), int(rng.integers(90, 250))))
            cv2.imwrite(str(root / name / 'images' / f'{i:06d}.png'), image)
            line = f'Car 0.00 0 0.00 {x}.00 {y}.00 {x + w}.00 {y + h}.00 {REST}\n'
            (root / name / 'label_2' / f'{i:06d}.txt').write_text(line)
    write_rectangle_model(root / 'student.onnx', (24, 32), name='student')
    write_rectangle_model(root / 'teacher.onnx', HW, name='teacher')
    return root


def words(root, *more):
    folders = [root / name for name in ('day', 'night')]
    return [str(word) for word in (
        '--images', *(folder / 'images' for folder in folders), '--labels',
        *(folder / 'label_2' for folder in folders), '--student', root / 'student.onnx', '--teacher',
        root / 'teacher.onnx', '--threads', '1', '--quiet', *more)]


def initializers(path):
    return [tensor.SerializeToString() for tensor in onnx.load(str(path)).graph.initializer]


def test_the_fitted_file_detects_as_before_and_verifies(scene, tmp_path, capsys):
    out = tmp_path / 'gated.onnx'
    assert run_command('fit-gate', words(scene, '--out', out, '--manifest', 'student')) == 0
    shown = capsys.readouterr().out
    assert '28 frames' in shown and 'held-out AUROC' in shown and 'accepted_doubt' in shown
    before, after = OnnxDetector.load(scene / 'student.onnx'), OnnxDetector.load(out)
    assert initializers(scene / 'student.onnx') == initializers(out)
    for i in range(5):
        image = cv2.imread(str(scene / 'day' / 'images' / f'{i:06d}.png'))
        one, other = (model.detect(image, score_threshold=0.05).detections for model in (before, after))
        for field in ('boxes_xyxy', 'scores', 'class_ids'):
            assert np.array_equal(getattr(one, field), getattr(other, field))
    assert pinned_sha256(out) == after.sha256
    estimator = Estimator.of_model(after.spec, str(out))
    trained = estimator.trained
    assert trained['frames'] == 28 and trained['sets'] == {'day': 14, 'night': 14}
    assert trained['kind'] == estimator.kind == 'logistic'
    assert trained['held_out_by'] == 'frame' and trained['folds'] == 5
    assert 0 <= trained['held_out_auroc'] <= 1
    assert len(trained['teacher_sha256']) == 12
    assert run_command('model', ['verify', str(out)]) == 0


def test_in_place_and_again_gives_the_same_bytes(scene, tmp_path):
    student = tmp_path / 'student.onnx'
    student.write_bytes((scene / 'student.onnx').read_bytes())
    arguments = words(scene, '--out', student, '--kind', 'linear', '--features', 'all', '--folds', '3')
    arguments[arguments.index(str(scene / 'student.onnx'))] = str(student)
    assert run_command('fit-gate', arguments) == 0
    first = student.read_bytes()
    assert run_command('fit-gate', arguments) == 0
    assert student.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ['student.onnx']
    document = OnnxDetector.load(student).spec.documents['gate']
    assert document['kind'] == 'linear' and len(document['features']) == 29


def test_evaluate_hybrid_writes_a_report(scene, tmp_path, capsys):
    out = tmp_path / 'report'
    command = ['hybrid', '--images', scene / 'day' / 'images', '--labels', scene / 'day' / 'label_2',
               '--student', scene / 'student.onnx', '--teacher', scene / 'teacher.onnx', '--out', out,
               '--quiet', '--threads', '1', '--share', '0.25', '--title', 'A & B']
    assert run_command('evaluate', [str(word) for word in command]) == 0
    report = json.loads((out / 'report.json').read_text())
    assert report['frames'] == 14 and 0.25 in report['metrics']['iou50']['shares']
    metric = report['metrics']['kitti_moderate']
    assert metric['teacher_ap'] > metric['student_ap']
    assert {'signals', 'band', 'random', 'oracle'} < set(report['metrics']['iou50']['gates'])
    for name in ('ap_share.png', 'risk_coverage.png'):
        assert cv2.imread(str(out / name)).shape[0] > 400
    page = (out / 'report.html').read_text()
    assert 'A &amp; B' in page and '<svg' in page and '<script' not in page
    printed = capsys.readouterr()
    assert 'recovered' in printed.out and 'no learned gate' in printed.err


@pytest.mark.parametrize('change, message', [
    (['--labels', 'x'], '2 --images and 1 --labels'),
    (['--drive', 'dusk'], '--drive dusk: no such set; expected some of day, night'),
    (['--folds', '1'], '--folds: 2 or more'),
    (['--features', 'accepted,brightness'], '--features accepted,brightness: expected some of empty'),
    (['--student', 'no.onnx'], 'no.onnx: no such model file'),
])
def test_wrong_input_is_one_line(scene, tmp_path, capsys, change, message):
    out = tmp_path / 'gated.onnx'
    assert run_command('fit-gate', [*words(scene, '--out', out), *change]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not out.exists()


@pytest.mark.parametrize('change, message', [
    ([], 'either --images or --bag'),
    (['--images', 'x', '--bag', 'y'], 'either --images or --bag'),
    (['--images', 'x', '--share', '1.5'], '--share above 0'),
])
def test_wrong_input_of_evaluate_hybrid(capsys, change, message):
    command = ['hybrid', '--labels', 'l', '--student', 's', '--teacher', 't', '--out', 'o']
    assert run_command('evaluate', [*command, *change]) == 2
    assert message in capsys.readouterr().err


def test_a_recording_is_a_drive(scene, tmp_path):
    """The same frames as a bag: the same answers, and frames that follow one another."""
    from kd_perception.bags.writer import BagWriter
    from kd_perception.evaluation.hybrid.frames import run_both, Source
    from kd_perception.messages import build as messages
    folder = scene / 'day' / 'images'
    with BagWriter(tmp_path / 'bag') as bag:
        for i, path in enumerate(sorted(folder.iterdir())):
            stamp = (i + 1) * 100_000_000
            image = messages.compressed_image(path.read_bytes(), 'png', stamp, 'camera')
            bag.write('/camera/image_raw/compressed', image, stamp)
    models = [OnnxDetector.load(scene / name) for name in ('student.onnx', 'teacher.onnx')]
    labels = str(scene / 'day' / 'label_2')
    lone, drive = (run_both([Source(str(source), labels)], *models) for source in (folder, tmp_path / 'bag'))
    assert len(set(lone.drives.tolist())) == len(lone) == 14
    assert drive.drives.tolist() == [0] * 14
    for one, other in zip(lone.student + lone.teacher, drive.student + drive.teacher):
        assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
