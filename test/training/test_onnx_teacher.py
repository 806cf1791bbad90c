# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""An attached detector of another family teaches by losses: its head, place by place, and its maps."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')
onnx = pytest.importorskip('onnx', reason='the teacher is made here')
pytest.importorskip('onnxruntime', reason='the teacher is run')

import export_heads as heads
from export_heads import CLASSES, Graph, HEIGHT, WIDTH
from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.training.distillation.onnx_teacher import comparable_classes, onnx_teacher
from kd_perception.training.loop.trainer import Trainer
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.settings.run import TrainingSettings

CONFIG = Path(__file__).resolve().parents[2] / 'config' / 'training' / 'student_smoke.yaml'
NAMES = ('person', 'car', 'truck', 'bus', 'train')
STUDENT_LABELS = ('Car', 'Pedestrian', 'Cyclist')
HEADS = {'yolov8': (heads.yolov8, heads.yolov8_boxes, {}), 'yolox': (heads.yolox, heads.yolox_boxes, {}),
         'nanodet': (heads.nanodet, heads.nanodet_boxes, {}),
         'yolov6': (heads.yolov8, heads.yolov8_boxes, {'arrangement': 'channels_last', 'obj': True}),
         'yolov5': (heads.yolov5, heads.yolov5_boxes, {})}


def attached(folder, family):
    """Return the attached model, a model of its raw maps, and the name of a feature map of stride 16."""
    head, _, options = HEADS[family]
    g = Graph(7)
    maps = g.maps('images')
    *raws, table = head(g, maps, **options)
    shape = {'images': ('f', [1, 3, HEIGHT, WIDTH])}
    model = onnx.shape_inference.infer_shapes(g.model(shape, {'output0': (table, 'f')}))
    raw = g.model(shape, {f'raw{i}': (value, 'f') for i, value in enumerate(raws)})
    onnx.save(model, str(folder / 'foreign.onnx'))
    (folder / 'names.txt').write_text('\n'.join(NAMES))
    # Of a person it can be told without a machine, since this network knows none.
    assert main(['model', 'attach', str(folder / 'foreign.onnx'), '--out', str(folder / 'teacher.onnx'),
                 '--names', str(folder / 'names.txt'), '--color', 'rgb', '--scale', '0-1']) == 0
    return OnnxDetector.load(folder / 'teacher.onnx'), raw, maps[1]


def smoke(**changes):
    settings = load_config(TrainingSettings, CONFIG)
    distillation = dataclasses.replace(settings.distillation, **changes)
    return dataclasses.replace(settings, train_hw=(HEIGHT, WIDTH), distillation=distillation)


@pytest.mark.parametrize('family', ['yolov8', 'yolox', 'nanodet', 'yolov6'])
def test_each_place_says_what_the_families_own_rules_say(family, tmp_path):
    detector, raw, _ = attached(tmp_path, family)
    teacher = onnx_teacher(detector, smoke())
    image = np.random.default_rng(4).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = teacher(FromCamera(torch.nn.Identity()).normalise(torch.from_numpy(image)))
    spec = detector.spec.input
    pixels = image[0, ..., ::-1] if spec.color == 'rgb' else image[0]
    mean, std = (np.array(each) if each else own for each, own in ((spec.mean, 0), (spec.std, 1)))
    tensor = ((pixels - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    from onnxruntime import InferenceSession
    values = InferenceSession(raw.SerializeToString()).run(None, {'images': tensor})
    rows = list(HEADS[family][1]([value[0].astype(float) for value in values]))
    boxes = np.array([box for box, _ in rows]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    scores = np.array([row for _, row in rows])[:, [NAMES.index('car'), NAMES.index('person')]]
    assert teacher.classes == {'Car': [1], 'Pedestrian': [0]}
    np.testing.assert_allclose(found['head.boxes'][0], boxes, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(found['head.logits'][0].sigmoid(), scores, atol=1e-3)
    assert ('head.distributions' in found) == (family == 'nanodet')


def test_a_run_learns_from_its_scores_and_from_a_map_by_name(tmp_path, capsys):
    detector, _, name = attached(tmp_path, 'yolov8')
    settings = smoke()
    pyramid = settings.distillation.pyramid
    now = dataclasses.replace(pyramid.schedule, start=0.0, ramp=0.0)
    pyramid = dataclasses.replace(pyramid, pairs=(('p4', name),), schedule=now)
    settings = dataclasses.replace(smoke(pyramid=pyramid), rendered=4, steps=2, batch=2, evaluation=())
    trainer = Trainer(settings, None, tmp_path / 'run', None, detector.path)
    said = capsys.readouterr().err
    assert 'losses compare: logits, pyramid (head: Car, Pedestrian)' in said
    assert 'localisation, since its head has no box distributions' in said
    assert "regions, since its graph has no map 'p3'" in said
    before = [value.clone() for value in trainer.network.parameters()]
    trainer.run()
    assert trainer.step == 2 and trainer.methods.distils
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters()))
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    trainer.network.eval()
    terms = trainer.methods.terms(images, trainer.network.forward_features(images),
                                  [SimpleNamespace(boxes=torch.zeros(0, 4))], 1)
    assert set(terms) == {'logits', 'pyramid'} and all(term > 0 for term in terms.values())


@pytest.mark.parametrize('family, hw, message', [
    ('yolov5', (HEIGHT, WIDTH), 'its head (yolo), which has not one place a cell'),
    ('yolov8', (2 * HEIGHT, 2 * WIDTH), 'its head, whose cells at 96x64 px are not those of the'),
])
def test_a_head_that_no_loss_can_compare_says_why(family, hw, message, tmp_path):
    detector, _, _ = attached(tmp_path, family)
    teacher = onnx_teacher(detector, dataclasses.replace(smoke(), train_hw=hw))
    assert not teacher.serves and message in teacher.report()


def test_classes_of_a_rider_rule_are_not_compared(tmp_path):
    detector, _, _ = attached(tmp_path, 'yolov8')
    from kd_perception.attach.class_maps import load_class_map
    names = load_class_map('coco').names
    classes = load_class_map('coco').for_names(names)
    spec = dataclasses.replace(detector.spec, labels=STUDENT_LABELS, classes=classes)
    assert comparable_classes(spec, STUDENT_LABELS) == {'Car': [names.index('car')]}
    assert len(NAMES) == CLASSES
