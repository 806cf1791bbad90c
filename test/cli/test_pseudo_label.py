# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`pseudo-label` with a model that finds bright rectangles: labels, masks, summary, what it refuses."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip('onnx', reason='onnx, which writes the test model, is not installed')

from kd_perception.benchmark.rectangle_model import draw_rectangles, write_rectangle_model
from kd_perception.cli.main import main
from kd_perception.labels.kitti_text import read_label_file

HW = (96, 128)
# (class, box, brightness): scores 0.784, 0.392 and 0.471.
CAR, DIM_CAR, DIM_WALKER = (0, (16, 24, 48, 64), 200), (0, (16, 24, 48, 64), 100), (1, (80, 10, 110, 60), 120)
CAR_LINE = 'Car 0.00 0 0.10 70.00 20.00 90.00 50.00 1.50 1.60 3.70 1.00 1.70 9.00 0.20\n'


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_rectangle_model(tmp_path_factory.mktemp('model') / 'rectangles.onnx')


@pytest.fixture
def site(tmp_path):
    """A folder of four images: a sure car, a doubtful car, a doubtful walker, nothing."""
    folder = tmp_path / 'site'
    folder.mkdir()
    for number, shapes in enumerate(([CAR], [DIM_CAR], [DIM_WALKER], [])):
        cv2.imwrite(str(folder / f'{number:06d}.png'), draw_rectangles(HW, *shapes))
    return folder


@pytest.fixture
def partly(tmp_path):
    """A data set with labels of cars: one image with a label file, one without."""
    folder = tmp_path / 'partly'
    (folder / 'images').mkdir(parents=True)
    (folder / 'label_2').mkdir()
    for name in 'ab':
        picture = draw_rectangles(HW, CAR, (1, (100, 10, 120, 60), 200))
        cv2.imwrite(str(folder / 'images' / f'{name}.png'), picture)
    (folder / 'label_2' / 'a.txt').write_text(CAR_LINE)
    return folder


def label(model, out, *more):
    return main(['pseudo-label', '--model', str(model), '--out', str(out), '--quiet', *map(str, more)])


def types_in(folder):
    return {path.stem: read_label_file(path, scores=False).types for path in sorted(folder.glob('*.txt'))}


def test_sure_ones_are_labels_and_doubtful_ones_dont_care(model, site, tmp_path, capsys):
    out = tmp_path / 'out'
    assert label(model, out, '--input', site) == 0
    assert types_in(out / 'site' / 'label_2') == {
        '000000': ('Car',), '000001': ('DontCare',), '000002': ('DontCare',), '000003': ()}
    objects = read_label_file(out / 'site' / 'label_2' / '000000.txt')
    np.testing.assert_allclose(objects.boxes_xyxy, [CAR[1]], atol=1e-3)
    assert sorted(path.name for path in out.iterdir()) == ['pseudo_labels.json', 'site']
    summary = json.loads((out / 'pseudo_labels.json').read_text())
    (entry,) = summary['sets']
    assert summary['scores'] == {'Car': 0.45, 'Pedestrian': 0.5, 'Cyclist': 0.5}
    assert summary['model']['name'] == 'rectangles' and len(summary['model']['sha256']) == 64
    assert entry['labelled_images'] == 4 and entry['added'] == {'Car': 1, 'Pedestrian': 0, 'Cyclist': 0}
    assert entry['dont_care'] == {'Car': 1, 'Pedestrian': 1, 'Cyclist': 0} and entry['skipped'] == []
    assert 'site: 4 images; added 1 Car, 0 Pedestrian' in capsys.readouterr().out


def test_thresholds_are_options(model, site, tmp_path):
    assert label(model, tmp_path / 'out', '--input', site, '--score', 'Pedestrian=0.45', '--score', 'Car=0.8',
                 '--uncertain', 0.4) == 0
    assert types_in(tmp_path / 'out' / 'site' / 'label_2') == {
        '000000': ('DontCare',), '000001': (), '000002': ('Pedestrian',), '000003': ()}


def test_labels_of_covered_classes_are_kept_and_others_added(model, partly, tmp_path):
    out = tmp_path / 'out'
    assert label(model, out, '--input', partly, '--labelled', 'partly:Car', '--link-images') == 0
    # The image without a label file was labelled for no class.
    assert types_in(out / 'partly' / 'label_2') == {'a': ('Car', 'Pedestrian'), 'b': ('Car', 'Pedestrian')}
    assert (out / 'partly' / 'label_2' / 'a.txt').read_text().startswith(CAR_LINE), 'unchanged'
    assert (out / 'partly' / 'images' / 'a.png').is_file()
    assert (partly / 'label_2' / 'a.txt').read_text() == CAR_LINE
    (entry,) = json.loads((out / 'pseudo_labels.json').read_text())['sets']
    assert entry['covered_classes'] == ['Car'] and entry['given_objects'] == {'Car': 1}
    assert entry['added'] == {'Car': 1, 'Pedestrian': 2, 'Cyclist': 0}


def test_incomplete_labels_are_completed(model, partly, tmp_path):
    assert label(model, tmp_path / 'out', '--input', partly, '--labelled', 'partly:') == 0
    assert types_in(tmp_path / 'out' / 'partly' / 'label_2')['a'] == ('Car', 'Car', 'Pedestrian')


def test_several_folders_with_masks_of_their_own(model, site, partly, tmp_path, capsys):
    out = tmp_path / 'out'
    assert label(model, out, '--input', site, partly, '--labelled', 'Car') == 0
    assert len(types_in(out / 'site' / 'label_2')) == 4 and len(types_in(out / 'partly' / 'label_2')) == 2
    entries = json.loads((out / 'pseudo_labels.json').read_text())['sets']
    assert [entry['covered_classes'] for entry in entries] == [[], ['Car']]
    assert 'partly: 2 images' in capsys.readouterr().out


def test_broken_images_are_counted_and_get_no_labels(model, site, tmp_path, capsys):
    (site / 'torn.jpg').write_bytes(b'\xff\xd8\xff')
    assert label(model, tmp_path / 'out', '--input', site) == 0
    assert 'warning: site/torn.jpg: corrupt_compressed' in capsys.readouterr().err
    assert 'torn' not in types_in(tmp_path / 'out' / 'site' / 'label_2')
    only = tmp_path / 'only'
    only.mkdir()
    (only / 'torn.jpg').write_bytes(b'\xff\xd8\xff')
    assert label(model, tmp_path / 'other', '--input', only) == 2
    assert 'not a single image' in capsys.readouterr().err


def test_labels_are_replaced_only_if_ours_and_asked_for(model, site, tmp_path, capsys):
    out = tmp_path / 'out'
    assert label(model, out, '--input', site) == 0
    assert label(model, out, '--input', site) == 2
    assert 'give --overwrite' in capsys.readouterr().err
    (site / '000003.png').unlink()
    assert label(model, out, '--input', site, '--overwrite') == 0
    assert sorted(types_in(out / 'site' / 'label_2')) == ['000000', '000001', '000002']
    (out / 'pseudo_labels.json').unlink()
    assert label(model, out, '--input', site, '--overwrite') == 2
    assert 'choose another --out' in capsys.readouterr().err
    assert len(types_in(out / 'site' / 'label_2')) == 3


def test_given_labels_are_never_the_target(model, partly, capsys):
    assert label(model, partly.parent, '--input', partly, '--labelled', 'partly:Car', '--overwrite') == 2
    assert 'choose another --out' in capsys.readouterr().err
    assert (partly / 'label_2' / 'a.txt').read_text() == CAR_LINE


@pytest.mark.parametrize('arguments, expected', [
    (['--score', 'Dog=0.5'], 'class of the model'), (['--score', 'Car=much'], 'is not a number'),
    (['--score', 'Car=0.1'], 'uncertain score <= label score'), (['--uncertain', 'nan'], 'uncertain score'),
    (['--labelled', 'partly:Dog'], 'classes of the model'), (['--labelled', 'elsewhere:Car'], 'not among'),
    (['--labelled', 'Car', '--labelled', 'Pedestrian'], 'given twice'), ([], 'say with --labelled partly:')])
def test_usage_is_checked_before_anything_is_written(model, partly, tmp_path, capsys, arguments, expected):
    assert label(model, tmp_path / 'out', '--input', partly, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('kd_perception pseudo-label: error: ') and expected in error
    assert error.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_wrong_input_is_named(model, site, partly, tmp_path, capsys):
    (partly / 'label_2' / 'b.txt').write_text(CAR_LINE + 'Car 1 2\n')
    out = tmp_path / 'out'
    assert label(model, out, '--input', partly, '--labelled', 'Car') == 2
    assert 'b.txt:2: 3 columns, 15 expected' in capsys.readouterr().err
    assert label(model, out, '--input', tmp_path / 'nowhere') == 2
    assert 'nowhere: cannot be read' in capsys.readouterr().err
    (tmp_path / 'empty').mkdir()
    assert label(model, out, '--input', tmp_path / 'empty') == 2
    assert 'holds no images' in capsys.readouterr().err
    assert label(model, out, '--input', site, tmp_path / 'empty' / '..' / 'site') == 2
    assert "two folders called 'site'" in capsys.readouterr().err
    cv2.imwrite(str(site / '000000.jpg'), draw_rectangles(HW))
    assert label(model, out, '--input', site) == 2
    assert "stand for two images, first '000000'" in capsys.readouterr().err
    assert not out.exists()
