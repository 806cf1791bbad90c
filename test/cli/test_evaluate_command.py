# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import gzip
import json
from pathlib import Path
import subprocess
import sys

import pytest

from kd_perception.cli.main import run_command

DATA = Path(__file__).resolve().parents[1] / 'evaluation' / 'data'
ORACLE = json.loads(gzip.decompress((DATA / 'kitti_oracle.json.gz').read_bytes()))
CASE = ORACLE['rand_b_ties']
BOTH = ('--labels', 'LABELS', '--detections', 'DETECTIONS')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('case')
    for folder, texts in (('labels', CASE['cases']['label_2']), ('detections', CASE['cases']['det'])):
        (root / folder).mkdir()
        for i, text in enumerate(texts):
            (root / folder / f'{i:06d}.txt').write_text(text)
    return root


def evaluate(*words):
    return run_command('evaluate', [str(word) for word in words])


def test_folders_give_a_report_with_the_official_figures(folders, tmp_path, capsys):
    assert evaluate('--labels', folders / 'labels', '--detections', folders / 'detections',
                    '--out', tmp_path / 'a' / 'b', '--bootstrap', '10', '--title', 'A & B') == 0
    report = json.loads((tmp_path / 'a' / 'b' / 'report.json').read_text())
    for name, levels in CASE['expected'].items():
        for level, expected in levels.items():
            found = report['results'][name.capitalize()][level]['ap_r40']
            assert found == pytest.approx(expected['R40'], abs=1e-4)
    assert report['frames']['total'] == 300
    page = (tmp_path / 'a' / 'b' / 'report.html').read_text()
    assert '<h1>A &amp; B</h1>' in page
    out = capsys.readouterr().out
    assert f'{CASE["expected"]["car"]["easy"]["R40"]:.2f}' in out
    assert sorted(path.name for path in (tmp_path / 'a' / 'b').iterdir()) == ['report.html', 'report.json']


def test_it_runs_as_a_process_without_torch_rclpy_and_cv2(folders, tmp_path):
    code = ('import sys; sys.modules.update(torch=None, rclpy=None, cv2=None, rosbags=None);'
            'from kd_perception.cli.main import main; sys.exit(main(sys.argv[1:]))')
    run = subprocess.run(
        [sys.executable, '-c', code, 'evaluate', '--labels', str(folders / 'labels'), '--out', str(tmp_path),
         '--detections', str(folders / 'detections'), '--no-html', '--bootstrap', '0', '--coco', 'off'],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / 'report.html').exists()
    assert json.loads((tmp_path / 'report.json').read_text())['coco'] is None


def test_other_classes_can_be_asked_for(folders, tmp_path):
    assert evaluate('--labels', folders / 'labels', '--detections', folders / 'detections', '--out', tmp_path,
                    '--bootstrap', '0', '--no-html', '--coco', 'off',
                    '--class', 'Car=0.5:Van', '--class', 'Truck=0.6') == 0
    report = json.loads((tmp_path / 'report.json').read_text())
    assert list(report['results']) == ['Car', 'Truck']
    assert report['results']['Car']['easy']['ap_r40'] >= CASE['expected']['car']['easy']['R40']
    assert report['miss_rate'] == {}
    assert report['protocol']['classes']['Car'] == {'min_iou': 0.5, 'neighbours': ['Van']}


@pytest.mark.parametrize('words, message', [
    ([], '--labels and --out are needed'),
    (['--labels', 'LABELS', '--out', 'OUT'], 'either --detections or --model is needed'),
    (['--labels', 'LABELS', '--out', 'OUT', '--bag', 'b'], 'either --detections or --model is needed'),
    (['--labels', 'nosuch', '--detections', 'DETECTIONS', '--out', 'OUT'], 'nosuch: not a readable folder'),
    (['--labels', 'LABELS', '--detections', 'LABELS', '--out', 'OUT'], '.txt:1: 15 columns, 16 expected'),
    ([*BOTH, '--out', 'OUT', '--class', 'Car'], 'NAME=IOU'),
    ([*BOTH, '--out', 'OUT', '--class', 'Car=7'], 'above 0 and below 1'),
    ([*BOTH, '--out', 'OUT', '--frame-info', 'x.yaml'], 'x.yaml'),
    ([*BOTH, '--out', 'OUT', '--bootstrap', '-1'], '--bootstrap 0 to'),
    ([*BOTH, '--out', '/dev/null/x'], 'cannot be written'),
])
def test_bad_input_is_one_line_and_exit_code_2(folders, tmp_path, capsys, words, message):
    places = {'LABELS': folders / 'labels', 'DETECTIONS': folders / 'detections', 'OUT': tmp_path / 'out'}
    assert evaluate(*[places.get(word, word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if 'error:' in line]
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / 'out' / 'report.json').exists()


class TestCompare:
    @pytest.fixture()
    def reports(self, folders, tmp_path):
        assert evaluate('--labels', folders / 'labels', '--detections', folders / 'detections',
                        '--out', tmp_path, '--bootstrap', '10', '--no-html', '--coco', 'off') == 0
        report = json.loads((tmp_path / 'report.json').read_text())
        report['results']['Car']['moderate']['ap_r40'] -= 1.0
        report['miss_rate']['reasonable'] += 0.1
        (tmp_path / 'worse.json').write_text(json.dumps(report))
        return tmp_path / 'report.json', tmp_path / 'worse.json'

    @pytest.mark.parametrize('options, code', [
        ([], 0),
        (['--metric', 'results.Car.moderate.ap_r40'], 1),
        (['--metric', 'results.Car.moderate.ap_r40=0.9'], 1),
        (['--metric', 'results.Car.moderate.ap_r40=1.1'], 0),
        (['--metric', 'results.Car.moderate.ap_r40', '--tolerance', '1.1'], 0),
        (['--metric', 'results.Cyclist.easy.ap_r40'], 0),
        (['--metric', 'miss_rate.reasonable=0.05'], 1),
        (['--metric', 'results.Car.moderate.ap_r11'], 0),
        (['--metric', 'results.Car.nosuch'], 2),
        (['--metric', 'miss_rate.reasonable=x'], 2),
        (['--metric', 'miss_rate.reasonable=-1'], 2),
    ])
    def test_exit_code_tells_whether_a_named_metric_became_worse(self, reports, capsys, options, code):
        capsys.readouterr()
        assert evaluate('compare', *reports, *options) == code
        captured = capsys.readouterr()
        if code < 2:
            assert 'results.Car.moderate.ap_r40' in captured.out and '-1.000' in captured.out
            assert ('worse: ' in captured.out) == bool(code)

    def test_a_gain_is_never_a_failure_and_a_lost_figure_is(self, reports, capsys):
        better, worse = reports
        assert evaluate('compare', worse, better, '--metric', 'results.Car.moderate.ap_r40',
                        '--metric', 'miss_rate.reasonable') == 0
        report = json.loads(worse.read_text())
        report['results']['Car']['moderate']['ap_r40'] = None
        worse.write_text(json.dumps(report))
        assert evaluate('compare', better, worse, '--metric', 'results.Car.moderate.ap_r40=50') == 1
