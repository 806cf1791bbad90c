# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`demo` as a user runs it: its nodes over DDS, what it writes, and that nothing of it stays behind."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
psutil = pytest.importorskip('psutil', reason='psutil is not installed')

from kd_perception.bags.reader import BagReader
from kd_perception.benchmark.rectangle_model import draw_rectangles
from kd_perception.messages import build as messages
from ros_harness import REPOSITORY

BOX = (16, 24, 48, 64)


@pytest.fixture
def images(tmp_path):
    """12 images, each with a car, every third one with a cyclist too."""
    folder = tmp_path / 'drive'
    folder.mkdir()
    for i in range(12):
        shapes = [(0, BOX, 200)] + ([(2, (80, 10, 110, 30), 220)] if i % 3 == 0 else [])
        cv2.imwrite(str(folder / f'{i:06d}.png'), draw_rectangles((96, 128), *shapes))
    return folder


@pytest.fixture
def two_cameras(tmp_path):
    """8 images of each of two cameras; the car of every third one is hardly above the working threshold."""
    for camera in ('front', 'rear'):
        folder = tmp_path / 'drive' / camera
        folder.mkdir(parents=True)
        for i in range(8):
            cv2.imwrite(str(folder / f'{i:06d}.png'),
                        draw_rectangles((96, 128), (0, BOX, 110 if i % 3 == 0 else 250)))
    return tmp_path / 'drive'


def demo(*arguments, **popen):
    """Start the command."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(
        filter(None, (str(REPOSITORY), os.environ.get('PYTHONPATH'))))}
    return subprocess.Popen(
        [sys.executable, '-m', 'kd_perception', 'demo', *map(str, arguments)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **popen)


def finish(process, timeout_s=100):
    """Wait for the end; return (exit code, output)."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, output


@pytest.mark.parametrize('more', [['--lockstep'], []], ids=['lockstep', 'real time'])
def test_a_folder_of_images(domain, model, images, tmp_path, more):
    out = tmp_path / 'out'
    code, output = finish(demo('--input', images, '--model', model, '--out', out, '--threads', 1, *more))
    assert code == 0, output
    summary = json.loads((out / 'summary.json').read_text())
    frames = summary['frames']
    assert frames['in'] == 12
    assert frames['processed'] + sum(frames['dropped'].values()) + frames['undelivered'] == 12
    if more:
        assert frames['processed'] == 12 and frames['unanswered_in_time'] == 0
        assert summary['detections_per_class'] == {'Car': 12, 'Pedestrian': 0, 'Cyclist': 4}
    assert summary['input']['rendered'] is False and summary['input']['path'] == str(images)
    assert summary['latency_ms']['camera']['inference']['p50'] > 0
    assert len(summary['model']['sha256']) == 64
    with BagReader(out / 'detections.mcap') as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
        assert counts['/camera/image_raw/compressed'] == counts['/camera/detections'] == \
            counts['/camera/annotations'] == frames['processed']
        assert counts['/camera/label_info'] == 1 and counts['/diagnostics'] >= 1
        for record in bag.messages(['/camera/detections']):
            stamp_ns, _, boxes, _, names = messages.parse_detection_array(record.raw)
            assert stamp_ns == record.log_ns
            np.testing.assert_allclose(boxes[names.index('Car')], BOX, atol=1e-3)
    overview = cv2.imread(str(out / 'overview.png'))
    assert overview is not None and overview.shape[1] == 3 * 640
    for text in ('12 published', 'inference', 'overview.png', 'drive'):
        assert text in output
    # A second run replaces the first one.
    if more:
        assert finish(demo('--input', images, '--model', model, '--out', out, '--duration', 0.5))[0] == 0
        assert json.loads((out / 'summary.json').read_text())['frames']['in'] == 5


def test_the_hybrid_answers_each_frame_once(domain, model, two_cameras, tmp_path):
    out = tmp_path / 'out'
    # A deadline that a busy machine keeps: what is asserted is who answers, not how fast.
    code, output = finish(demo(
        '--input', two_cameras, '--student', model, '--teacher', model, '--out', out, '--lockstep',
        '--share', 0.5, '--deadline-ms', 20000, '--scorer', 'band'))
    assert code == 0, output
    summary = json.loads((out / 'summary.json').read_text())
    verified, frames = summary['verified'], summary['frames']
    assert frames['in'] == frames['processed'] == 16 and frames['unanswered_in_time'] == 0
    assert verified['messages'] == verified['student_results'] == verified['deadline_met'] == 16
    assert verified['lost'] == verified['doubled'] == verified['without_provenance'] == 0
    assert sum(verified['sources'].values()) == sum(verified['reasons'].values()) == 16
    # The frames in doubt are three of eight a camera: within half of them and a burst.
    assert verified['reasons']['band'] >= 6
    assert verified['sources']['teacher'] == verified['sent'] >= 6
    clear = verified['reasons'].get('clear', 0)     # some have what is carried, and the source says so
    assert sum(verified['unverified'].values()) == 16 - verified['sent'] - clear
    assert verified['sent_share'] == pytest.approx(verified['sent'] / 16, abs=1e-3)
    assert summary['teacher']['frames'] == {'processed': verified['sent'], 'dropped': {}, 'undelivered': 0}
    assert 0 < verified['waited_when_sent_ms']['p50'] <= verified['waited_ms']['max'] < 20000
    assert summary['detections_per_class'] == {'Car': 16, 'Pedestrian': 0, 'Cyclist': 0}
    assert set(summary['states_s']) == set(summary['latency_ms']) == {'front', 'rear'}
    assert set(summary['teacher']['latency_ms']) == {'front/teacher', 'rear/teacher'}
    assert {role: len(item['sha256']) for role, item in summary['models'].items()} == {
        'student': 64, 'teacher': 64}
    with BagReader(out / 'detections.mcap') as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
        for camera in ('front', 'rear'):
            for topic in ('image_raw/compressed', 'detections', 'verified_detections', 'provenance',
                          'annotations'):
                assert counts[f'/{camera}/{topic}'] == 8, topic
            assert counts[f'/{camera}/label_info'] == counts[f'/{camera}/teacher/label_info'] == 1
            assert 3 <= counts[f'/{camera}/teacher/detections'] <= verified['sent'] - 3
        assert counts['/diagnostics'] >= 3
        for record in bag.messages(['/front/verified_detections']):
            stamp_ns, _, boxes, _, names = messages.parse_detection_array(record.raw)
            assert stamp_ns == record.log_ns and names == ('Car',)
            # A carried box follows the image's motion, which is estimated.
            np.testing.assert_allclose(boxes, [BOX], atol=1.5)
    assert cv2.imread(str(out / 'overview.png')).shape[1] == 3 * 640
    assert cv2.imread(str(out / 'timeline.png')) is not None
    for text in ('16 for 16 results', '0 lost, 0 doubled', 'timeline.png', 'latency of rear: teacher'):
        assert text in output


def test_a_rendered_scene_is_named_as_one_and_no_teacher_is_degraded(domain, model, tmp_path):
    code, output = finish(demo(
        '--footage', 'rendered', '--student', model, '--teacher', 'none', '--out', tmp_path / 'out',
        '--cache', tmp_path / 'cache', '--duration', 1, '--lockstep'))
    assert code == 0, output
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['input']['rendered'] is True and summary['frames']['in'] == 10
    assert 'RENDERED, NOT FOOTAGE' in output
    assert summary['models']['teacher'] is None and summary['verified']['sent'] == 0
    assert summary['verified']['messages'] == 10 and set(summary['verified']['unverified']) <= {'teacher_off'}
    states, = summary['states_s'].values()
    assert set(states) == {'DEGRADED'}
    assert 'none, by design' in output


@pytest.mark.parametrize('arguments,told', [
    (['--input', '/nowhere'], '/nowhere: no such folder, video or recording'),
    (['--input', '/', '--model', '/none.onnx'], '/none.onnx'),
    (['--input', '/', '--rate', '0'], '--rate is 0')])
def test_wrong_usage_is_one_line(domain, model, tmp_path, arguments, told):
    if '--model' not in arguments:
        arguments = [*arguments, '--model', model]
    code, output = finish(demo(*arguments, '--out', tmp_path / 'out'))
    assert code == 2 and told in output and 'Traceback' not in output, output


def test_somebody_elses_folder_is_refused(domain, model, images, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('precious')
    code, output = finish(demo('--input', images, '--model', model, '--out', tmp_path / 'out'))
    assert code == 2 and 'not an earlier demo' in output


def running(process, count):
    """Return the nodes of a demo once all of them run."""
    parent = psutil.Process(process.pid)
    end = time.monotonic() + 60
    children = []
    while len(children) < count and time.monotonic() < end and process.poll() is None:
        children = parent.children(recursive=True)
        time.sleep(0.05)
    assert len(children) == count, finish(process)
    return children


@pytest.mark.parametrize('number,hybrid', [
    (signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGKILL, True)])
def test_the_nodes_go_with_the_demo(domain, model, images, tmp_path, number, hybrid):
    models = ['--student', model, '--teacher', model] if hybrid else ['--model', model]
    process = demo('--input', images, *models, '--out', tmp_path / 'out', '--rate', 0.02)
    children = running(process, 4 if hybrid else 2)
    process.send_signal(number)
    process.wait(30)
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    assert alive == []
    assert process.returncode == (130 if number != signal.SIGKILL else -signal.SIGKILL)


def test_a_node_that_dies_is_an_error_and_takes_the_others_along(domain, model, images, tmp_path):
    process = demo('--input', images, '--student', model, '--teacher', model, '--out', tmp_path / 'out',
                   '--rate', 0.02)
    children = running(process, 4)
    fallback = next(child for child in children if 'kd_perception.nodes.fallback_node' in child.cmdline())
    fallback.kill()
    code, output = finish(process)
    assert code == 2 and 'fallback: ended with exit code -9' in output, output
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
