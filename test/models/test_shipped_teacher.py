# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The teacher that the package ships: pinned, self-describing, and able to run."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnxruntime', reason='the model is run')

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.models.manifest import load_manifest

MODELS = Path(__file__).resolve().parents[2] / 'models'


@pytest.fixture(scope='module')
def teacher():
    entry = load_manifest(MODELS).models['teacher']
    return OnnxDetector.load(MODELS / entry.file, expected_sha256=entry.sha256)


def test_teacher_is_what_the_manifest_pins(teacher):
    entry = load_manifest(MODELS).models['teacher']
    assert (MODELS / entry.file).stat().st_size == entry.size_bytes < 5_000_000
    assert entry.labels == teacher.spec.labels == ('Car', 'Pedestrian', 'Cyclist')
    assert entry.input_hw == teacher.spec.input.hw == (640, 1152)
    assert entry.metrics == json.loads(json.dumps(teacher.spec.documents['metrics']))


def test_teacher_states_origin_licences_and_figures_with_counts(teacher):
    provenance, metrics = (teacher.spec.documents[name] for name in ('provenance', 'metrics'))
    assert provenance['initial_weights']['licence'] == 'Apache-2.0'
    assert all(dataset['licence'] and dataset['training_images'] > 0 for dataset in provenance['datasets'])
    assert 'non-commercial' in teacher.spec.licence
    for measured in metrics['sets']:
        for figures in measured['model'].values():
            low, high = figures['interval95']
            assert 0 <= low <= figures['ap50'] <= high <= 1 and figures['objects'] > 0
    weights = sum(np.prod(layer['shape']) for layer in teacher.spec.documents['precision'].values())
    assert 900_000 < weights < 1_000_000


def test_each_camera_has_its_own_aspect_and_no_more_pixels_than_the_file(teacher):
    assert teacher.input_hw((375, 1242)) == (384, 1280)
    assert teacher.input_hw((720, 1280)) == (640, 1152)
    assert teacher.outputs(np.zeros((720, 1280, 3), np.uint8))[3].shape == (1, 35, 10, 18)


def test_teacher_finds_nothing_in_an_empty_image(teacher):
    assert len(teacher.detect(np.full((375, 1242, 3), 114, np.uint8)).detections) == 0


def test_teacher_says_nothing_about_the_computer_it_was_made_on():
    content = (MODELS / 'teacher.onnx').read_bytes()
    for trace in (b'/home/', b'/work/', b'/root/', b'site-packages', b'.py:'):
        assert trace not in content
