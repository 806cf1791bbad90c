# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import hashlib

import cv2
import numpy as np
import pytest

from kd_perception.errors import EvaluationError, LabelError
from kd_perception.evaluation.frame_set import attach_images, read_frame_set
from kd_perception.output_folder import MARKER

CAR = 'Car 0 0 0 0 0 100 100 1 1 1 1 1 1 0.1'


@pytest.fixture()
def folders(tmp_path):
    labels, detections = tmp_path / 'labels', tmp_path / 'detections'
    labels.mkdir()
    detections.mkdir()
    return labels, detections


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f'{name[1:]}.txt').write_text(text)


def test_frames_are_matched_by_name_and_every_difference_is_counted(folders):
    labels, detections = folders
    write(labels, _000001=CAR, _000002='', _000003=CAR, _000004=CAR)
    write(detections, _000001=f'{CAR} 0.5', _000003='', _000009=f'{CAR} 0.5')
    frames = read_frame_set(labels, detections)
    assert frames.labels.frames == ('000001', '000002', '000003', '000004')
    assert np.diff(frames.detections.offsets).tolist() == [1, 0, 0, 0]
    assert frames.frames == {'total': 5, 'processed': 2, 'dropped': {'no_detections': 2, 'no_labels': 1}}
    assert any('1 detection files have no labels and are left out: 000009' in line
               for line in frames.warnings)
    assert any('2 labelled frames have no detection file' in line and '000002, 000004' in line
               for line in frames.warnings)
    digest = hashlib.sha256()
    for name, text in (('000001', f'{CAR} 0.5'), ('000003', '')):
        digest.update(f'{name}\0{len(text)}\0{text}'.encode())
    assert frames.data_sha256['detections'] == digest.hexdigest()


def test_detections_of_an_unfinished_run_are_stated(folders):
    labels, detections = folders
    write(labels, _000001=CAR)
    write(detections, _000001=f'{CAR} 0.5')
    marker = detections.parent / MARKER
    # Another command's run in the folder around it, which has written nothing here, is no reason.
    marker.write_text('{"command": "detect"}\n"other/000001.txt"\n')
    assert read_frame_set(labels, detections).warnings == []
    marker.write_text('{"command": "detect"}\n"detections/000001.txt"\n"detections/0000')
    warning, = read_frame_set(labels, detections).warnings
    assert f'{detections}: its files are of a run that has not finished' in warning


def test_scores_that_are_no_probabilities_are_stated(folders):
    labels, detections = folders
    write(labels, _000001=CAR)
    write(detections, _000001=f'{CAR} 7.5\n{CAR} 0.5\n')
    frames = read_frame_set(labels, detections)
    assert frames.warnings == ['1 of 2 scores lie outside 0 to 1 (0.5 to 7.5): average precision uses only '
                               'their order, calibration is left out']


def test_nothing_to_evaluate_is_an_error(folders):
    labels, detections = folders
    with pytest.raises(EvaluationError, match='labels: no label file'):
        read_frame_set(labels, detections)
    write(labels, _000001=CAR)
    with pytest.raises(EvaluationError, match='detections: no detection file'):
        read_frame_set(labels, detections)
    write(detections, _7=f'{CAR} 0.5')
    with pytest.raises(EvaluationError, match='no file is named as one of .*7.txt and 000001.txt'):
        read_frame_set(labels, detections)
    with pytest.raises(LabelError, match='nosuch: not a readable folder'):
        read_frame_set(labels, labels / 'nosuch')
    write(detections, _000001=CAR)
    with pytest.raises(LabelError, match='000001.txt:1: 15 columns, 16 expected'):
        read_frame_set(labels, detections)


def test_images_are_found_by_name_and_damage_is_stated(folders, tmp_path):
    labels, detections = folders
    write(labels, _000001=CAR, _000002=CAR, _000003=CAR)
    write(detections, _000001='', _000002='', _000003='')
    frames = read_frame_set(labels, detections)
    with pytest.raises(EvaluationError, match='no such folder of images'):
        attach_images(frames, tmp_path / 'nosuch')
    with pytest.raises(EvaluationError, match='no image is named as one of the frames'):
        attach_images(frames, labels)
    images = tmp_path / 'images'
    images.mkdir()
    cv2.imwrite(str(images / '000001.png'), np.full((20, 30, 3), 7, dtype=np.uint8))
    (images / '000002.jpg').write_bytes(b'not an image')
    attach_images(frames, images)
    found = dict(frames.images(range(3)))
    assert list(found) == [0] and found[0].shape == (20, 30, 3)
    assert dict(frames.images([1])) == {}
    assert any('1 frames have no image: 000003' in line for line in frames.warnings)
    assert sum('000002.jpg' in line for line in frames.warnings) == 1
