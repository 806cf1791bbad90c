# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import gzip
import json
from pathlib import Path
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from kd_perception.errors import EvaluationError
from kd_perception.evaluation.frame_set import FrameSet
from kd_perception.evaluation.metrics.coco_ap import coco_ap
from kd_perception.evaluation.metrics.kitti_eval import (
    ClassProtocol,
    KITTI_CLASSES,
    KITTI_DIFFICULTIES,
    KittiEvaluator,
)
from kd_perception.evaluation.metrics.mistakes import operating_point, worst_false_alarms, worst_misses
from kd_perception.evaluation.report.compare import compare, load_report, metrics
from kd_perception.evaluation.report.content import evaluate_frames, EvaluationOptions
from kd_perception.evaluation.report.gallery import make_gallery
from kd_perception.evaluation.report.page import render
from kd_perception.labels.kitti_text import parse_label_text
from kd_perception.labels.object_table import ObjectTable

ORACLE = json.loads(gzip.decompress((Path(__file__).parent / 'data' / 'kitti_oracle.json.gz').read_bytes()))
REST = '1 1 1 1 1 1 0.1'


def table(texts, scored, names=()):
    return ObjectTable.from_objects([parse_label_text(text, 'f', scored) for text in texts], names)


@pytest.fixture(scope='module')
def evaluation():
    texts = ORACLE['rand_b_ties']['cases']
    frames = FrameSet(table(texts['label_2'], False), table(texts['det'], True))
    frames.latency_ns = {'inference': np.arange(1, 101) * 1e6}
    frames.warnings.append('<script>alert("warning")</script>')
    frames.model = {'name': '<img src=x onerror=alert(1)>', 'sha256': 'ab' * 32}
    frames.data_sha256 = {'labels': '0' * 64}
    mask = np.arange(len(frames.labels.frames)) % 2 == 0
    return evaluate_frames(frames, EvaluationOptions(bootstrap=20), {'"fog" & <rain>': mask},
                           command=['kd_perception', 'evaluate', "--title='</code>'"])


def test_the_report_has_the_documented_keys_and_is_plain_json(evaluation):
    report = json.loads(json.dumps(evaluation.report, allow_nan=False))
    assert (report['schema'], report['schema_version']) == ('kd_perception.evaluation', 1)
    expected = ORACLE['rand_b_ties']['expected']
    for name in ('Car', 'Pedestrian', 'Cyclist'):
        for level in ('easy', 'moderate', 'hard'):
            item = report['results'][name][level]
            assert item['ap_r40'] == pytest.approx(expected[name.lower()][level]['R40'], abs=1e-4)
            assert item['ap_r11'] == pytest.approx(expected[name.lower()][level]['R11'], abs=1e-4)
            np.testing.assert_allclose(item['precision'], expected[name.lower()][level]['precision41'],
                                       atol=1e-6)
            assert item['valid_ground_truths'] > 0
            assert item['ci95'][0] <= item['ap_r40'] <= item['ci95'][1]
    assert set(report['miss_rate']) == {'reasonable', 'all', 'heavy'}
    assert 0 < report['miss_rate']['all'] <= 1
    assert report['latency_ms']['inference'] == pytest.approx(
        {'p50': 50.5, 'p95': 95.05, 'p99': 99.01, 'max': 100, 'mean': 50.5, 'count': 100})
    assert report['frames'] == {'total': 300, 'processed': 300, 'dropped': {}}
    assert report['model']['sha256'] == 'ab' * 32
    assert report['versions']['numpy'] == np.__version__
    assert report['conditions']['"fog" & <rain>']['frames'] == 150
    assert set(report['height_bins_px']['Car']) == {'25-50', '50-100', '100-200', '200+'}
    assert 0 <= report['calibration']['Car']['d_ece'] <= 1


def test_the_html_holds_every_part_and_escapes_all_text(evaluation):
    page = render(evaluation.report, title='<i>title</i>')
    for part in ('Average precision', 'miss rate', 'Calibration', 'By condition', 'By box height', 'Latency'):
        assert part in page
    assert '&lt;script&gt;' in page and '<script' not in page
    assert '<img' not in page and '&lt;img src=x onerror=alert(1)&gt;' in page
    assert '&quot;fog&quot; &amp; &lt;rain&gt;' in page
    assert '<i>title' not in page
    assert '&lt;/code&gt;' in page and "'</code>'" not in page
    assert not re.search(r'(src|href)\s*=\s*["\']?https?:', page), 'self-contained: nothing is loaded'
    svgs = re.findall(r'<svg.*?</svg>', page, re.DOTALL)
    assert len(svgs) == 3 + 1 + 1 + 3 + 1
    for svg in svgs:
        ElementTree.fromstring(svg)


def test_a_class_that_is_never_detected_reads_so(tmp_path):
    frames = FrameSet(table([f'Car 0 0 0 0 0 100 100 {REST}'], False), table([''], True))
    report = evaluate_frames(frames, EvaluationOptions(bootstrap=0)).report
    assert report['results']['Car']['easy']['ap_r40'] is None
    assert report['results']['Car']['easy']['reason'] == 'class never detected'
    assert report['results']['Car']['easy']['valid_ground_truths'] == 1
    assert report['calibration']['Car']['reason'] == 'no detections'
    assert 'class never detected' in render(report)
    with pytest.raises(EvaluationError, match='no frame'):
        evaluate_frames(FrameSet(table([], False), table([], True)), EvaluationOptions())


def test_class_names_of_any_kind_are_drawn_and_escaped():
    name = '<b>$\\frac$'
    texts = [f'{name} 0 0 0 0 0 100 100 {REST}'] * 3
    frames = FrameSet(table(texts, False), table([f'{text} 0.5' for text in texts], True))
    page = render(evaluate_frames(frames, EvaluationOptions((ClassProtocol(name, 0.5),), bootstrap=0)).report)
    assert '<b>$' not in page
    assert page.count('&lt;b&gt;$') > 5
    for svg in re.findall(r'<svg.*?</svg>', page, re.DOTALL):
        assert any(name in (item.text or '') for item in ElementTree.fromstring(svg).iter())


def test_coco_ap_of_a_hand_worked_case():
    labels = table([f'Car 0 3 0 0 0 100 100 {REST}\nVan 0 0 0 200 0 300 100 {REST}',
                    f'Car 0 0 0 0 0 100 100 {REST}'], False)
    found = table([f'Car 0 0 0 0 0 100 80 {REST} 0.9\nCar 0 0 0 200 0 300 90 {REST} 0.8',
                   f'Car 0 0 0 500 0 600 100 {REST} 0.7'], True)
    result = coco_ap(labels, found, KITTI_CLASSES)
    # One of two cars found, with IoU 0.8; the van's detection is ignored: precision 1 up to recall 0.5,
    # at 51 of COCO's 101 recall points, for thresholds up to 0.8.
    assert result['Car']['ap50'] == pytest.approx(100 * 51 / 101)
    assert result['Car']['ap'] == pytest.approx(100 * 51 / 101 * 7 / 10)
    assert result['Pedestrian']['ap'] is None
    assert result['mean']['ap'] == result['Car']['ap']


class TestMistakes:
    def setup_method(self):
        self.labels = table([
            f'Car 0 0 0 0 0 100 100 {REST}\nCar 0 0 0 200 0 300 60 {REST}\nVan 0 0 0 400 0 500 100 {REST}',
            f'Car 0 0 0 0 0 100 80 {REST}\nDontCare 0 0 0 400 0 600 100 {REST}'], False, ['a', 'b'])
        self.found = table([
            f'Car 0 0 0 0 0 100 50 {REST} 0.9\nCar 0 0 0 400 0 500 100 {REST} 0.8\n'
            f'Car 0 0 0 200 0 300 60 {REST} 0.4',
            f'Car 0 0 0 0 0 100 80 {REST} 0.7\nCar 0 0 0 410 10 500 90 {REST} 0.95\n'
            f'Car 0 0 0 700 0 800 50 {REST} 0.6'], True, ['a', 'b'])
        self.evaluator = KittiEvaluator(self.labels, self.found)
        self.point = operating_point(self.evaluator, KITTI_CLASSES[0], KITTI_DIFFICULTIES[1], 0.5)

    def test_counts_at_the_working_threshold(self):
        assert self.point.true_positives == 1
        assert self.point.missed.tolist() == [0, 1]
        assert self.point.false_alarms.tolist() == [0, 5]
        assert (self.point.precision, self.point.recall) == (1 / 3, 1 / 3)

    def test_largest_misses_and_surest_false_alarms_come_first(self):
        misses = worst_misses(self.evaluator, KITTI_CLASSES[0], self.point, 5)
        assert [(item.frame, item.box_xyxy[3]) for item in misses] == [(0, 100), (0, 60)]
        assert misses[0].note == 'best overlap: score 0.90, IoU 0.50'
        alarms = worst_false_alarms(self.evaluator, KITTI_CLASSES[0], self.point, 1)
        assert [(item.frame, item.score, item.note) for item in alarms] == [
            (0, 0.9, 'best overlap: Car, IoU 0.50')]

    def test_pictures_show_the_mistake_in_red(self):
        frames = FrameSet(self.labels, self.found)
        frames.images = lambda indices: (
            (i, np.zeros((120, 900, 3), dtype=np.uint8)) for i in indices if i == 0)
        gallery = make_gallery(frames, self.evaluator, KITTI_CLASSES[:1], {'Car': self.point}, 2)
        assert [item.frame for item in gallery['misses']] == ['a', 'a']
        assert [item.frame for item in gallery['false_alarms']] == ['a', 'b']
        assert gallery['false_alarms'][1].data_uri is None
        import base64

        import cv2
        data = base64.b64decode(gallery['misses'][0].data_uri.partition(',')[2])
        picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR).astype(int)
        assert (picture[..., 2] - picture[..., :2].max(axis=2) > 100).sum() > 200


class TestCompare:
    def test_deltas_have_a_direction_and_an_interval(self, evaluation):
        before = json.loads(json.dumps(evaluation.report))
        after = json.loads(json.dumps(evaluation.report))
        car = after['results']['Car']['easy']
        car['ap_r40'] -= 2.0
        car['resampled'] = [value - 2.0 for value in car['resampled']]
        after['miss_rate']['all'] += 0.25
        after['results']['Cyclist']['hard']['ap_r40'] = None
        deltas = {item.name: item for item in compare(before, after)}
        car = deltas['results.Car.easy.ap_r40']
        assert car.difference == pytest.approx(-2) and car.loss == pytest.approx(2)
        # On the same frames, drawn alike: what the pairs differ by.
        assert car.interval == pytest.approx((-2, -2)) and car.beyond_chance
        assert deltas['results.Pedestrian.easy.ap_r40'].interval == (0, 0)
        after['protocol']['resampling_sha256'] = 'f' * 64
        car = compare(before, after, ['results.Car.easy.ap_r40'])[0]
        low, high = before['results']['Car']['easy']['ci95']
        half = (high - low) / 2 * 2 ** 0.5
        assert car.interval == pytest.approx((-2 - half, -2 + half))
        assert deltas['miss_rate.all'].loss == pytest.approx(0.25)
        assert deltas['results.Cyclist.hard.ap_r40'].loss == float('inf')
        assert deltas['results.Car.hard.ap_r40'].loss == 0
        assert 'latency_ms.inference.p95' in deltas
        assert compare(before, after, ['frames.processed'])[0].difference == 0
        with pytest.raises(EvaluationError, match="'results.Car.ap' is in neither report"):
            compare(before, after, ['results.Car.ap'])
        assert 'results.Car.easy.valid_ground_truths' in metrics(before)

    @pytest.mark.parametrize('text, message', [
        ('', 'not JSON'), ('[]', 'not a report'), ('{"schema": "other"}', 'not a report'),
        ('{"schema": "kd_perception.evaluation", "schema_version": 99}', 'version 99, 1 expected'),
        ('[' * 100000, 'not JSON')])
    def test_what_is_no_report_is_refused(self, tmp_path, text, message):
        path = tmp_path / 'report.json'
        path.write_text(text)
        with pytest.raises(EvaluationError, match=message):
            load_report(path)
        with pytest.raises(EvaluationError, match='cannot be read'):
            load_report(tmp_path / 'missing.json')
