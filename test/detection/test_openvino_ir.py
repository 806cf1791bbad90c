# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Detectors in OpenVINO's format: both output layouts, against a runtime that answers as asked."""

import numpy as np
import pytest

from kd_perception.detection import openvino_ir
from kd_perception.detection.openvino_ir import input_size, IrDetector
from kd_perception.errors import ModelError

LABELS = ('Car', 'Pedestrian')
SSD = {'detection_out': (1, 1, 200, 7)}
ATSS = {'labels': (None,), 'boxes': (None, 5)}


class Runtime:
    """Stands for OpenVINO: keeps the sizes that it was compiled for and the tensors it was given."""

    def __init__(self, outputs, answers):
        self.inputs, self.outputs, self.answers = {'image': (1, 3, 512, 512)}, outputs, answers
        self.compiled, self.tensors = [], []

    def compile(self, threads, shapes):
        self.compiled.append(shapes['image'])
        return self

    def run(self, names, feeds):
        self.tensors.append(feeds['image'])
        return [self.answers[name] for name in names]


@pytest.fixture
def detector(tmp_path, monkeypatch):
    for suffix in ('.xml', '.bin'):
        (tmp_path / f'net{suffix}').write_bytes(b'x')

    def build(outputs, answers, longest_px=640, classes=None):
        runtime = Runtime(outputs, answers)
        monkeypatch.setattr(openvino_ir, 'OpenVinoModel', lambda *_: runtime)
        classes = classes or {0: 'Car', 2: 'Pedestrian'}
        return IrDetector(tmp_path / 'net.xml', LABELS, classes, longest_px), runtime
    return build


def test_detection_output_ends_at_the_first_row_without_image(detector):
    rows = np.array([[0, 0, 0.9, 0.1, 0.2, 0.5, 0.6], [0, 1, 0.8, 0, 0, 1, 1],
                     [0, 2, 0.7, -0.5, 0.5, 0.25, 1.5], [-1, 0, 0, 0, 0, 0, 0],
                     [0, 0, 0.9, 0, 0, 1, 1]], np.float32)[None, None]
    network, runtime = detector(SSD, {'detection_out': rows})
    found = network.detect(np.zeros((100, 200, 3), np.uint8), 0.05)
    assert found.class_ids.tolist() == [0, 1], 'number 1 is none of the named classes'
    np.testing.assert_allclose(found.boxes_xyxy, [[20, 20, 100, 60], [0, 50, 50, 100]], atol=1e-4)
    assert runtime.tensors[0].shape == (1, 3, 320, 640) and runtime.tensors[0].dtype == np.float32
    assert len(network.detect(np.zeros((100, 200, 3), np.uint8), 0.8)) == 1


def test_boxes_in_px_of_the_input_come_back_in_px_of_the_image(detector):
    answers = {'boxes': np.array([[320, 160, 640, 320, 0.6], [0, 0, 64, 32, 0.9]], np.float32),
               'labels': np.array([2, 0])}
    network, _ = detector(ATSS, answers)
    found = network.detect(np.zeros((100, 200, 3), np.uint8), 0.05)
    assert found.class_ids.tolist() == [0, 1], 'strongest first'
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 20, 10], [100, 50, 200, 100]], atol=1e-4)


def test_colours_stay_bgr_and_a_size_is_compiled_once(detector):
    network, runtime = detector(SSD, {'detection_out': np.full((1, 1, 1, 7), -1, np.float32)})
    image = np.zeros((100, 200, 3), np.uint8)
    image[..., 0] = 255
    for _ in range(2):
        assert len(network.detect(image, 0.05)) == 0
    assert runtime.tensors[0][0].mean(axis=(1, 2)).tolist() == [255, 0, 0]
    network.detect(np.zeros((90, 160, 3), np.uint8), 0.05)
    assert runtime.compiled == [(1, 3, 320, 640), (1, 3, 352, 640)]


def test_sizes_keep_the_aspect():
    assert input_size((375, 1242), 1600) == (480, 1600)
    assert input_size((720, 1280), 1280) == (704, 1280)
    assert input_size((1280, 720), 640) == (640, 352)


def test_other_models_are_refused(detector, tmp_path):
    with pytest.raises(ModelError, match='expected detections'):
        detector({'features': (1, 64, 16, 16)}, {})
    with pytest.raises(ModelError, match=r"\['Bus'\] are not among the labels"):
        detector(SSD, {}, classes={0: 'Bus'})
    (tmp_path / 'net.bin').unlink()
    with pytest.raises(ModelError, match='net.bin: no such model file'):
        detector(SSD, {})
