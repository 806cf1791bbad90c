# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
from concurrent.futures import ThreadPoolExecutor
import json
import pickle

import numpy as np
import pytest

from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.boxes.detections import Detections
from kd_perception.cli.main import run_command
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import BagError, EvaluationError, ModelError
from kd_perception.evaluation.replay import replay, replay_frame_set, ReplayJob
from kd_perception.messages import build as messages
from kd_perception.messages import typestore as ts
from kd_perception.sources.any_source import open_source

pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')
from kd_perception.benchmark.rectangle_model import write_rectangle_model
from kitti_drive import HW, write_object

CAMERA = '/kitti/camera_color_left'
TRUTH, FOUND = f'{CAMERA}/ground_truth', f'{CAMERA}/detections'


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_rectangle_model(tmp_path_factory.mktemp('model') / 'rectangles.onnx', HW)


@pytest.fixture(scope='module')
def kitti(tmp_path_factory):
    return write_object(tmp_path_factory.mktemp('kitti') / 'kitti')


@pytest.fixture(scope='module')
def bag(kitti, tmp_path_factory):
    out = tmp_path_factory.mktemp('bags') / 'drive'
    assert run_command('convert', ['kitti-to-bag', '--input', str(kitti), '--out', str(out)]) == 0
    return out


@pytest.fixture(scope='module')
def recorded(bag, model, tmp_path_factory):
    """The drive as a running graph would record it: one message of detections for each image but the last."""
    out = tmp_path_factory.mktemp('bags') / 'recorded'
    detector = OnnxDetector.load(model)
    with BagWriter(out) as writer, BagReader(bag) as reader, open_source(bag) as source:
        for record in reader.messages():
            writer.write_raw(record.topic, record.msgtype, record.raw, record.log_ns)
        for frame in list(source)[:-1]:
            found = detector.detect(frame.decode(), score_threshold=0.05).detections
            message = messages.detection_array(found, detector.spec.labels, frame.stamp_ns, frame.frame_id)
            writer.write(FOUND, message, frame.log_ns + 25_000_000)
    return out


def evaluate(*words):
    return run_command('evaluate', [str(word) for word in words])


def report_of(out):
    return json.loads((out / 'report.json').read_text())


def test_labels_by_topic_and_by_folder_and_images_by_bag_and_by_folder_agree(bag, kitti, model):
    folder = str(kitti / 'training' / 'label_2')
    jobs = [ReplayJob(str(bag), TRUTH, str(model)), ReplayJob(str(bag), folder, str(model)),
            ReplayJob(str(kitti / 'training' / 'image_2'), folder, str(model))]
    for job in jobs:
        result = replay(job)
        assert result.names == ['000000', '000001', '000002', '000003']
        assert [len(found) for found in result.detections] == [1, 2, 0, 1]
        assert [found.types for found in result.labels] == [
            ('Car',), ('Car', 'Cyclist', 'DontCare'), ('Car',), ()]
        np.testing.assert_allclose(result.detections[0].boxes_xyxy, [[16, 24, 60, 70]], atol=0.01)
        assert result.image_hw == [HW] * 4
        assert set(result.latency_ns) == {'decode', 'preprocess', 'inference', 'postprocess', 'total'}
        assert not result.dropped
    assert replay(jobs[0]).sha256 == replay(jobs[0]).sha256


def test_a_recorded_topic_gives_the_same_figures(recorded, bag, model, tmp_path, capsys):
    common = ['--labels', TRUTH, '--bootstrap', '0', '--no-html']
    assert evaluate('--bag', bag, *common, '--model', model, '--out', tmp_path / 'offline') == 0
    assert evaluate('--bag', recorded, *common, '--detections', FOUND, '--out', tmp_path / 'online') == 0
    offline, online = report_of(tmp_path / 'offline'), report_of(tmp_path / 'online')
    assert offline['results']['Car']['hard']['ap_r40'] == online['results']['Car']['hard']['ap_r40']
    assert offline['results']['Car']['hard']['valid_ground_truths'] == 3
    assert offline['recordings'] == {'count': 1, 'lost_messages': 0}
    assert offline['frames'] == {'total': 4, 'processed': 4, 'dropped': {}}
    assert online['frames'] == {'total': 4, 'processed': 3, 'dropped': {'no_detections': 1}}
    assert any('1 labelled frames have no message on' in line for line in online['warnings'])
    assert online['latency_ms']['recorded']['p50'] == pytest.approx(25)
    assert offline['model']['name'] == 'rectangles' and len(offline['model']['sha256']) == 64
    assert online['data']['sha256']['labels'] == offline['data']['sha256']['labels']
    assert 'warning: ' in capsys.readouterr().err


def test_jobs_spread_over_any_map_and_processes_without_changing_a_figure(bag, model, tmp_path):
    jobs = [ReplayJob(str(bag), TRUTH, str(model))] * 2
    assert pickle.loads(pickle.dumps(jobs)) == jobs
    plain = replay_frame_set(jobs)
    assert plain.labels.frames[:1] + plain.labels.frames[4:5] == ('drive-1/000000', 'drive-2/000000')
    with ThreadPoolExecutor(2) as pool:
        spread = replay_frame_set(jobs, pool.map)
    np.testing.assert_array_equal(plain.detections.boxes_xyxy, spread.detections.boxes_xyxy)
    images = dict(plain.images([1, 6]))
    assert sorted(images) == [1, 6] and images[1].shape == (*HW, 3)
    assert evaluate('--bag', bag, '--bag', bag, '--labels', TRUTH, '--model', model, '--jobs', '2',
                    '--out', tmp_path, '--bootstrap', '10') == 0
    report = report_of(tmp_path)
    assert report['frames']['processed'] == 8
    assert report['results']['Car']['hard']['valid_ground_truths'] == 6
    page = (tmp_path / 'report.html').read_text()
    assert 'data:image/jpeg;base64,' in page and 'drive-1/000003' in page


def test_a_truncated_recording_is_evaluated_as_far_as_it_goes(kitti, model, tmp_path):
    """A power cut: the file ends in the middle of a chunk, without index or summary."""
    whole = tmp_path / 'whole.mcap'
    assert run_command('convert', ['kitti-to-bag', '--input', str(kitti), '--out', str(tmp_path / 'raw.mcap'),
                                   '--image', 'raw']) == 0
    with BagWriter(whole) as writer, BagReader(tmp_path / 'raw.mcap') as reader:
        records = list(reader.messages())
        for turn in range(20):
            for record in records:
                message = ts.deserialize(record.raw, record.msgtype)
                message.header.stamp.sec += turn
                writer.write(record.topic, message, record.log_ns + turn * 10 ** 9)
    data = whole.read_bytes()
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(data[:len(data) * 6 // 10])
    assert evaluate('--bag', cut, '--labels', TRUTH, '--model', model, '--out', tmp_path / 'out',
                    '--bootstrap', '0', '--no-html') == 0
    report = report_of(tmp_path / 'out')
    assert 0 < report['frames']['processed'] < 80
    assert any('cut.mcap' in line and 'the file ends after byte' in line for line in report['warnings'])
    assert report['recordings'] == {'count': 1, 'lost_messages': None}  # without a summary nobody knows


def test_undecodable_images_are_counted_by_reason(bag, model, tmp_path):
    out = tmp_path / 'broken'
    with BagWriter(out) as writer, BagReader(bag) as reader:
        for _i, record in enumerate(reader.messages()):
            raw = record.raw
            if record.msgtype == ts.COMPRESSED_IMAGE:
                message = ts.deserialize(raw, record.msgtype)
                if message.header.stamp.nanosec == 100_000_000:
                    message.data = message.data[:20]
                    raw = ts.serialize(message)
            writer.write_raw(record.topic, record.msgtype, raw, record.log_ns)
    frames = replay_frame_set([ReplayJob(str(out), TRUTH, str(model))])
    assert frames.frames == {'total': 4, 'processed': 3, 'dropped': {'corrupt_compressed': 1}}
    assert frames.labels.frames == ('000000', '000002', '000003')


def test_labels_without_image_and_images_without_label_are_counted(kitti, model, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    for name, target in (('000000', '000000'), ('000001', '000001'), ('000009', '000002')):
        (images / f'{name}.png').write_bytes((kitti / 'training' / 'image_2' / f'{target}.png').read_bytes())
    frames = replay_frame_set([ReplayJob(str(images), str(kitti / 'training' / 'label_2'), str(model))])
    assert frames.frames == {'total': 5, 'processed': 2, 'dropped': {'no_labels': 1, 'not_recorded': 2}}
    assert any('2 labelled frames are not in it: 000002, 000003' in line for line in frames.warnings)


def test_wrong_sources_are_refused(bag, kitti, model, tmp_path):
    with pytest.raises(BagError, match='no topic /nosuch'):
        replay(ReplayJob(str(bag), '/nosuch', str(model)))
    with pytest.raises(BagError, match='image_raw/compressed is sensor_msgs'):
        replay(ReplayJob(str(bag), TRUTH, detections=f'{CAMERA}/image_raw/compressed'))
    with pytest.raises(EvaluationError, match='neither a folder of labels nor a topic'):
        replay(ReplayJob(str(bag), 'nosuch', str(model)))
    with pytest.raises(EvaluationError, match='no label file'):
        replay(ReplayJob(str(bag), str(tmp_path), str(model)))
    with pytest.raises(BagError, match='no camera'):
        replay(ReplayJob(str(bag), TRUTH, str(model), camera='rear'))
    with pytest.raises(ModelError, match='sha256 is'):
        replay(ReplayJob(str(bag), TRUTH, str(model), sha256='0' * 64))
    with pytest.raises(EvaluationError, match='no recording'):
        replay_frame_set([])
    (tmp_path / '777777.txt').write_text('')
    with pytest.raises(EvaluationError, match='none of its frames has labels'):
        replay(ReplayJob(str(bag), str(tmp_path), str(model)))


def test_detections_recorded_without_images_are_evaluated_by_stamp(tmp_path):
    found = Detections(np.array([[0, 0, 50, 60]], np.float32), np.array([0.9], np.float32), np.array([0]))
    with BagWriter(tmp_path / 'bag') as writer:
        for i in range(3):
            stamp = 10 ** 9 + i
            writer.write('/cam/gt', messages.detection_array(found, ['Car'], stamp, 'cam'), stamp)
            writer.write('/cam/detections', messages.detection_array(found, ['Car'], stamp, 'cam'), stamp)
        writer.write('/cam/detections', messages.detection_array(found, ['Car'], 10 ** 9, 'cam'), stamp)
    frames = replay_frame_set([ReplayJob(str(tmp_path / 'bag'), '/cam/gt', detections='/cam/detections')])
    assert frames.frames == {'total': 4, 'processed': 3, 'dropped': {'duplicate_stamp': 1}}
    assert len(frames.detections) == 3 and frames.latency_ns == {}
