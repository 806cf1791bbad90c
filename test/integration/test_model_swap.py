# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Promote, roll back and swap models under running nodes: each frame is answered, by the right model."""

import hashlib
import json
import re
import signal
import threading
import time

import pytest

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')
pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from detector_client import CameraClient, DetectorClient, image_message
from detector_scenarios import IMAGE
from hybrid_client import (
    AMBIGUOUS_IMAGE,
    check_promise,
    CLEAR_IMAGE,
    HybridClient,
    ros_arguments,
    start_fallback,
)
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.evaluation.report.verdict import Comparison, SetVerdict, VerdictLimits
from kd_perception.models.spec import ThresholdSpec
from kd_perception.nodes.detector_node import DetectorNode
from ros_harness import ChildProcess

OK, WARN = b'\0', b'\1'
LONG_MS = 10_000.0
PERIOD_S = 0.05
OLD, NEW = 1.0, 0.9         # the score of a rectangle of full brightness tells the models apart


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Models:
    """Two models, a store that holds the first one, and the command on it."""

    def __init__(self, folder):
        self.folder, self.store = folder, folder / 'store'
        # What is doubtful to the old one is beyond doubt to the new one, and the other way round.
        self.old = write_rectangle_model(folder / 'old.onnx', name='old')
        self.new = write_rectangle_model(
            folder / 'new.onnx', name='new', score_gain=NEW, thresholds=ThresholdSpec(score=0.95))
        self.first = folder / 'report.json'
        self.first.write_text(json.dumps({
            'schema': 'kd_perception.evaluation', 'schema_version': 1,
            'model': {'sha256': digest(self.old)}}))
        self.compare = folder / 'compare.json'
        report = {'report': self.first.name, 'sha256': digest(self.first)}
        named = ({'name': path.stem, 'sha256': digest(path)} for path in (self.old, self.new))
        self.compare.write_text(Comparison(
            *named, VerdictLimits(min_sets=1), (SetVerdict('1' * 64, 9, report, report, (), ()),), ()).text())
        assert main(['model', 'promote', '--store', str(self.store), '--model', str(self.old),
                     '--report', str(self.first)]) == 0
        self.reference = f'store:{self.store}#student'

    def promote_words(self):
        return ('model', 'promote', '--store', self.store, '--model', self.new, '--report', self.compare)

    def rollback_words(self):
        return 'model', 'rollback', '--store', self.store


@pytest.fixture
def models(tmp_path):
    return Models(tmp_path)


def run_beside(probe, folder, words, show=lambda: None, timeout_s=60.0):
    """Run a command; spin and call `show` every period until it ends; return its exit code and output."""
    process = ChildProcess('kd_perception', *words, folder=folder)
    try:
        end, next_s = time.monotonic() + timeout_s, 0.0
        while process.alive:
            now = time.monotonic()
            assert now < end, f'{words} has not ended'
            if now >= next_s:
                show()
                next_s = now + PERIOD_S
            probe.executor.spin_once(timeout_sec=0.01)
        return process.wait(), process.log
    finally:
        process.kill()


def scores(results):
    """Return the best score of each result, rounded."""
    return [round(result.detections[0].results[0].hypothesis.score, 2) for result in results]


def test_promotion_and_rollback_under_a_stream(probe, start_detector, models, tmp_path):
    """Each image has its answer or its counted drop; one switch each way, at no other place."""
    start_detector(model=models.reference, image_depth=50, score_threshold=0.5)
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    sent = []

    def show():
        sent.append(image_message(IMAGE))
        camera.publisher.publish(sent[-1])

    def settle():
        """Wait until every image is accounted for; return the number of drops."""
        status = detector.wait_status(
            'camera camera', lambda s, v: int(v['received']) == len(sent)
            == int(v['processed']) + int(v['dropped']), lambda: f'{len(sent)} images to be accounted for')
        values = {pair.key: int(pair.value) for pair in status.values if pair.key in ('processed', 'dropped')}
        probe.wait_for(lambda: len(camera.results) >= values['processed'], 'all results')
        stamps = [result.header.stamp for result in camera.results]
        known = [message.header.stamp for message in sent]
        assert len(stamps) == values['processed'] and all(stamp in known for stamp in stamps)
        assert all(stamps.count(stamp) == 1 for stamp in stamps), 'none is doubled'
        return values['dropped']

    for words, before, after, name in ((models.promote_words(), OLD, NEW, 'new'),
                                       (models.rollback_words(), NEW, OLD, 'old')):
        first = len(camera.results)
        assert scores([camera.ask(sent.append(image_message(IMAGE)) or sent[-1])]) == [before]
        code, log = run_beside(probe, tmp_path, [*words, '--node', '/detector'], show)
        assert code == 0 and f'/detector: runs sha256 {digest(getattr(models, name))[:12]}' in log, log
        assert scores([camera.ask(sent.append(image_message(IMAGE)) or sent[-1])]) == [after]
        settle()
        found = scores(camera.results[first:])
        switch = found.index(after)
        assert switch > 0 and found == [before] * switch + [after] * (len(found) - switch)
    values = detector.values('model')
    assert (values['name'], values['swap'], values['swap.requests']) == ('old', 'done', '2')
    assert values['sha256'] == digest(models.old) and int(values['swap.processed']) >= 0
    assert detector.status('model').hardware_id == values['sha256'][:12]


@pytest.fixture
def node(probe, models):
    """A detector in this process, whose loads wait where the test says so."""
    gate = threading.Event()
    gate.set()

    def load(*args):
        gates.append(str(args[0]))
        assert gate.wait(60)
        return OnnxDetector.load(*args)

    gates = []
    node = DetectorNode(load=load, context=probe.context, parameter_overrides=[
        Parameter('model', value=str(models.old)), Parameter('image_reliability', value='reliable')])
    node.gate, node.loads = gate, gates
    probe.executor.add_node(node)
    yield node
    gate.set()
    node.close()
    node.destroy_node()


def ask_for(node, model):
    assert node.set_parameters([Parameter('model', value=str(model))])[0].successful, 'a request, no more'


def test_a_model_that_cannot_take_over_leaves_the_old_one(probe, node, models, tmp_path):
    node.start()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    labels = write_rectangle_model(tmp_path / 'labels.onnx', labels=('Car', 'Cyclist', 'Pedestrian'))
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(models.new.read_bytes()[:900])
    refused = [(tmp_path / 'none.onnx', 'none.onnx: no such model file'),
               (broken, 'broken.onnx: is not a model that onnxruntime can load'),
               (labels, 'labels are Car, Cyclist, Pedestrian, the running model has Car, Pedestrian'),
               ('nobody', "'nobody' is no model of"),
               (f'store:{models.store}#teacher', 'no teacher was promoted yet')]
    for count, (model, reason) in enumerate(refused, 1):
        ask_for(node, model)
        status = detector.wait_status(
            'model', lambda s, v: v['swap'].startswith('failed: ') and v['swap.requests'] == str(count),
            f'why {model} is refused')
        assert reason in detector.values('model')['swap']
        assert status.level == WARN and 'model ready; swap failed: ' in status.message
        assert detector.values('model')['swap.model'] == str(model)
        assert scores([camera.ask(image_message(IMAGE))]) == [OLD]
        assert node.get_parameter('model').value == str(models.old), 'the parameter says what runs'
    for words, code, reason in (
            ([broken, '--node', '/detector'], 1, '/detector: .*broken.onnx: is not a model'),
            (['', '--node', '/detector'], 1, '/detector: refused: model: is empty'),
            ([models.old, '--node', '/nobody', '--timeout', 0.3], 1, '/nobody: service .* is not there'),
            ([models.old, '--node', '/probe', '--timeout', 5], 1, '/probe: has none of the parameters model'),
            ([models.old, '--node', '/detector', '--timeout', 0], 2, 'more than 0 s expected')):
        found, log = run_beside(probe, tmp_path, ['model', 'swap', *words])
        assert found == code and re.search(reason, log), log
    # Digests hold for a swap, too; then a good one clears the warning.
    node.set_parameters([Parameter('expected_sha256', value='f' * 64)])
    ask_for(node, models.new)
    detector.wait_status('model', lambda s, v: 'expected ffff' in v['swap'], 'the wrong digest')
    node.set_parameters([Parameter('expected_sha256', value=digest(models.new))])
    ask_for(node, models.new)
    detector.wait_status('model', lambda s, v: s.level == OK and v['name'] == 'new', 'the new model')
    # Its threshold is 0.95, unless a user says otherwise.
    assert camera.ask(image_message(IMAGE)).detections == []
    probe.wait_for(lambda: abs(camera.label_info[-1].threshold - 0.95) < 1e-6, 'its threshold in label_info')
    node.set_parameters([Parameter('score_threshold', value=0.5)])
    assert scores([camera.ask(image_message(IMAGE))]) == [NEW]
    node.set_parameters([Parameter('expected_sha256', value='')])
    ask_for(node, models.old)
    detector.wait_status('model', lambda s, v: v['name'] == 'old', 'the old model')
    assert scores([camera.ask(image_message(IMAGE))]) == [OLD] and node.settings.thresholds.score == 0.5


def test_the_old_model_works_while_the_new_one_loads(probe, node, models):
    """The newest request wins; a node that gives its model up forgets the request."""
    node.start()
    detector, camera = DetectorClient(probe), CameraClient(probe)
    camera.wait_ready()
    node.set_parameters([Parameter('score_threshold', value=0.5)])
    node.gate.clear()
    ask_for(node, models.new)
    ask_for(node, models.new)       # sent again, since its answer was lost
    for _ in range(5):
        assert scores([camera.ask(image_message(IMAGE))]) == [OLD]
    detector.wait_status('model', lambda s, v: v['swap'] == 'loading' and v['name'] == 'old', 'the load')
    node.gate.set()
    detector.wait_status('model', lambda s, v: v['swap'] == 'done' and v['name'] == 'new', 'the new model')
    assert scores([camera.ask(image_message(IMAGE))]) == [NEW]
    values = detector.values('model')
    assert (values['swap.processed'], values['swap.dropped'], values['swap.requests']) == ('5', '0', '2')

    node.gate.clear()
    ask_for(node, models.folder / 'none.onnx')
    ask_for(node, models.old)
    node.gate.set()
    detector.wait_status('model', lambda s, v: v['swap'] == 'done' and v['name'] == 'old', 'the newest one')
    assert scores([camera.ask(image_message(IMAGE))]) == [OLD] and node.loads[-1] == str(models.old)

    node.gate.clear()
    ask_for(node, models.new)
    assert node.trigger_deactivate() == node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    detector.wait_status('model', lambda s, v: 'the node was cleaned up' in v['swap'], 'its end')
    node.gate.set()
    probe.spin(0.3)
    assert node.state == 'unconfigured' and detector.values('model').get('name') is None
    # The parameter is what the next configure takes; a swap goes on while the node is inactive.
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    detector.wait_status('model', lambda s, v: v.get('name') == 'new', 'the parameter')
    ask_for(node, models.old)
    detector.wait_status('model', lambda s, v: v['swap'] == 'done' and v['name'] == 'old', 'a swap')
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    camera.results.clear()
    assert scores([camera.ask(image_message(IMAGE), repeat=True)]) == [OLD]


def test_a_signal_while_a_model_loads_beside_the_present_one(probe, start_detector, models):
    slow = write_rectangle_model(models.folder / 'slow.onnx', load_steps=2000)
    process = start_detector(model=models.old)
    detector = DetectorClient(probe)
    assert detector.set_parameters(model=str(slow)) == {'model': (True, '')}
    probe.wait_for(lambda: 'while the present one goes on' in process.log, 'the load to begin')
    assert process.stop(signal.SIGTERM) == 0
    assert 'Traceback' not in process.log and 'ERROR' not in process.log


def test_the_hybrid_follows_its_student_and_answers_every_frame_once(probe, start, models, tmp_path):
    """Promotion and rollback while frames wait for the teacher: one verified message a result, in order."""
    start('kd_perception.nodes.detector_node', *ros_arguments(
        model=models.reference, image_reliability='reliable', image_depth=50), '-r', '__node:=student')
    process = start_fallback(start, models.reference, deadline_ms=LONG_MS, teacher_misses=10,
                             teacher_timeout_s=60.0)
    fallback, client = DetectorClient(probe, '/fallback'), HybridClient(probe, student=False)
    client.wait_ready()
    client.teacher.delay_s = 0.3
    images = [CLEAR_IMAGE, AMBIGUOUS_IMAGE]

    def show():
        images.reverse()
        client.publish_image(images[0])

    def source(image):
        return client.show(image).facts['source']

    assert (source(CLEAR_IMAGE), source(AMBIGUOUS_IMAGE)) == ('student', 'teacher')
    for words, path, expected in ((models.promote_words(), models.new, ('teacher', 'student')),
                                  (models.rollback_words(), models.old, ('student', 'teacher'))):
        code, log = run_beside(probe, tmp_path, [*words, '--node', '/student', '--node', 'fallback'], show)
        assert code == 0 and log.count(f'runs sha256 {digest(path)[:12]}') == 2, log
        assert (source(CLEAR_IMAGE), source(AMBIGUOUS_IMAGE)) == expected, "the new one's facts judge"
        fallback.wait_status('teacher', lambda s, v: v['student_sha256'] == digest(path), 'the digest')
        assert fallback.values('teacher')['student'] == path.stem
        client.wait_answered()
        check_promise(client, LONG_MS)
    assert len(client.verified) > 20 and int(fallback.values('teacher')['swap.verified']) >= 0
    # Other classes are refused, and a teacher's model.
    assert main(['model', 'promote', '--store', str(models.store), '--model', str(models.old), '--report',
                 str(models.first), '--role', 'teacher']) == 0
    teacher = f'store:{models.store}#teacher'
    code, log = run_beside(probe, tmp_path, ['model', 'swap', teacher, '--node', '/fallback'])
    assert code == 1 and 'which reads the student' in log, log
    labels = write_rectangle_model(models.folder / 'labels.onnx', labels=('Car', 'Van', 'Cyclist'))
    assert fallback.set_parameters(student_model=str(labels)) == {'student_model': (True, '')}
    fallback.wait_status(
        'teacher', lambda s, v: s.level == WARN and 'labels are Car, Van' in v['swap'], 'why not')
    assert source(AMBIGUOUS_IMAGE) == 'teacher'
    check_promise(client, LONG_MS)
    assert process.alive and 'Traceback' not in process.log
