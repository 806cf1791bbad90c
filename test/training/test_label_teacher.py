# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A detector of another family as the teacher of a run: its boxes are what the student is trained on."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')
pytest.importorskip('onnx', reason='the teacher is made here')
pytest.importorskip('onnxruntime', reason='the teacher is run')
from constant_model import attached_constant
from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.exit_codes import EXIT_BAD_INPUT
from kd_perception.training.distillation.label_teacher import CACHE_NAME, label_teacher
from kd_perception.training.loop.trainer import Trainer
from kd_perception.training.settings.run import TrainingSettings

CONFIG = Path(__file__).resolve().parents[2] / 'config' / 'training' / 'student_smoke.yaml'
HEIGHT, WIDTH = 128, 192
CAR, GIVEN, PERSON, TRUCK = ((10, 20, 60, 50), (100, 60, 160, 100), (70, 10, 90, 60), (120, 5, 180, 40))
# Of COCO's classes: a sure car, one that has a label, a doubtful person, a sure truck, which nobody learns.
FOUND = [(*CAR, .9, 2), (*GIVEN, .8, 2), (*PERSON, .3, 0), (*TRUCK, .9, 7)]


def attached(folder, found):
    return attached_constant(folder, 'teacher', (HEIGHT, WIDTH), found)


@pytest.fixture()
def run(tmp_path):
    """Two noisy images, the first with one label of a car: (settings, data folder)."""
    for name in ('images', 'label_2'):
        (tmp_path / 'data' / 'drive' / name).mkdir(parents=True)
    for i, text in enumerate((f'Car 0 0 0 {" ".join(map(str, GIVEN))} 0 0 0 0 0 0 0\n', '')):
        pixels = np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        assert cv2.imwrite(str(tmp_path / 'data' / 'drive' / 'images' / f'{i}.png'), pixels)
        (tmp_path / 'data' / 'drive' / 'label_2' / f'{i}.txt').write_text(text)
    settings = load_config(TrainingSettings, CONFIG)
    dataset = dataclasses.replace(settings.datasets[0], folder='drive', labelled=(), train_below=1.0,
                                  develop=False, ignore={})
    return dataclasses.replace(settings, rendered=0, steps=1, batch=2, datasets=(dataset,), evaluation=()
                               ), tmp_path / 'data'


def test_its_boxes_are_what_the_student_is_trained_on(run, tmp_path, capsys):
    settings, data = run
    teacher = attached(tmp_path, FOUND)
    trainer = Trainer(settings, data, tmp_path / 'run', None, teacher)
    assert 'teaches by labels: 3 Car, 0 Pedestrian' in capsys.readouterr().err
    for image, targets in zip(trainer.stream.images[0], trainer.stream.targets[0]):
        # A label that exists is there once; a person is in doubt, and a truck is nobody's.
        order = np.argsort(targets.boxes_xyxy[:, 0])
        assert np.allclose(targets.boxes_xyxy[order], [CAR, GIVEN], atol=.1), image.name
        assert (targets.class_ids == 0).all()
        assert np.allclose(targets.ignore_xyxy, [PERSON], atol=.1)
        assert targets.ignore_classes[0, 1]
    # Without a box there is background, of the classes that it knows alone.
    labelled = trainer.stream[0].targets.labelled.tolist()
    known = {label for label in settings.labels if label in trainer.stream.settings.datasets[0].labelled}
    assert labelled == [label in known for label in settings.labels] and {'Car', 'Pedestrian'} <= known
    trainer.run()
    assert trainer.step == 1


def test_each_image_is_asked_about_once_for_each_teacher(run, tmp_path, monkeypatch):
    settings, data = run
    (tmp_path / 'other').mkdir()
    teacher, another = attached(tmp_path, FOUND), attached(tmp_path / 'other', FOUND[1:])
    asked, detect = [], OnnxDetector.detect

    def counted(self, *args, **kwargs):
        asked.append(self.path.name)
        return detect(self, *args, **kwargs)
    monkeypatch.setattr(OnnxDetector, 'detect', counted)
    for _ in range(2):
        first = Trainer(settings, data, tmp_path / 'run', None, teacher).stream.targets
    assert len(asked) == 2
    other = Trainer(settings, data, tmp_path / 'run', None, another).stream.targets
    assert len(asked) == 4 and (tmp_path / 'run' / CACHE_NAME).is_file()
    assert len(first[0][1].boxes_xyxy) == 2 and len(other[0][1].boxes_xyxy) == 1
    (tmp_path / 'run' / CACHE_NAME).write_text('{"damaged')
    again = Trainer(settings, data, tmp_path / 'run', None, teacher).stream.targets
    assert np.array_equal(again[0][1].boxes_xyxy, first[0][1].boxes_xyxy)


def test_a_head_that_a_loss_can_compare_is_left_to_the_losses():
    shipped = CONFIG.parents[2] / 'models' / 'teacher.onnx'
    labels = OnnxDetector.load(shipped).spec.labels
    assert label_teacher(shipped, labels) is None
    assert label_teacher(shipped, labels[:1]) is not None
    assert label_teacher(Path('last.pt'), labels) is None


def test_a_teacher_with_nothing_to_add_is_refused(run, tmp_path):
    settings, data = run
    teacher = attached(tmp_path, FOUND)
    whole = dataclasses.replace(settings.datasets[0], labelled=settings.labels)
    with pytest.raises(TrainingError, match='take them out of `labelled`'):
        Trainer(dataclasses.replace(settings, datasets=(whole,)), data, tmp_path / 'run', None, teacher)
    assert main(['train', '--config', str(CONFIG), '--run', str(tmp_path / 'smoke'), '--teacher',
                 str(teacher)]) == EXIT_BAD_INPUT
