# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Drift monitors over DDS: a model with a reference is watched, and changed images raise the level."""

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

import cv2
import numpy as np

from detector_client import CameraClient, DetectorClient, image_message
from detector_scenarios import IMAGE
from hybrid_client import CLEAR, HybridClient, start_fallback
from kd_perception.cli.main import run_command

OK, WARN = b'\0', b'\1'
DRIFT = 'camera camera drift'


def on_grey(rng, grey):
    """Return the scenario's rectangle on a grey background that differs from image to image."""
    background = np.clip(grey + 6 * rng.normal() + rng.normal(0, 5, IMAGE.shape[:2]), 0, 255)
    return np.where(IMAGE.any(axis=2, keepdims=True), IMAGE, background.astype(np.uint8)[..., None])


@pytest.fixture
def watched(tmp_path, model):
    """The model with a reference of 60 images."""
    rng = np.random.default_rng(0)
    (tmp_path / 'before').mkdir()
    for i in range(60):
        cv2.imwrite(str(tmp_path / 'before' / f'{i:03d}.png'), on_grey(rng, 70))
    out = tmp_path / 'watched.onnx'
    assert run_command('model', [
        'attach-reference', str(model), '--images', str(tmp_path / 'before'), '--scene-frames', '2', '--out',
        str(out), '--quiet']) == 0
    return out


def test_changed_images_raise_the_level_of_the_drift_component(probe, start_detector, watched):
    start_detector(model=watched, drift_window=100, image_depth=100)
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    rng = np.random.default_rng(1)
    status = detector.wait_status(DRIFT, lambda s, v: True, 'the component')
    assert status.level == OK and status.message == 'no frame yet'

    def show(frames, grey):
        for _ in range(frames):
            camera.ask(image_message(on_grey(rng, grey)))

    show(110, 70)
    status = detector.wait_status(DRIFT, lambda s, v: v.get('frames') == '100', 'a full window')
    assert status.level == OK and status.message == 'like the reference'
    show(110, 15)
    status = detector.wait_status(DRIFT, lambda s, v: s.level == WARN, 'the drift')
    assert 'drift of luminance' in status.message
    values = detector.values(DRIFT)
    assert float(values['luminance.ks']) >= float(values['luminance.ks.threshold'])


def test_a_model_without_reference_says_so(probe, start_detector):
    start_detector()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    camera.ask(image_message(IMAGE))
    status = detector.wait_status(DRIFT, lambda s, v: s.message != 'no frame yet', 'the component')
    assert status.level == OK and status.message == 'no reference statistics'


def test_a_fallback_tells_what_audited_frames_say_of_the_student(probe, start, model):
    start_fallback(start, model, deadline_ms=10_000.0, audit_share=1.0, camera_silence_s=60.0)
    client, fallback = HybridClient(probe), DetectorClient(probe, '/fallback')
    client.wait_ready()
    for _ in range(5):
        answer = client.ask(CLEAR)
        assert answer.facts['audit'] == 'true' and answer.facts['source'] == 'teacher'
    status = fallback.wait_status(DRIFT, lambda s, v: int(v['audited_frames']) >= 5, 'the audited frames')
    assert status.level == OK and status.message == 'no reference statistics'
    values = fallback.values(DRIFT)
    # The teacher calls the student's box by another name, and has one more.
    assert values['miss_rate'] == values['false_alarm_rate'] == '1.000'
    assert float(values['miss_rate.low']) < 0.8 and values['miss_rate.high'] == '1.000'
