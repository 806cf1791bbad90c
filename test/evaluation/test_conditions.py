# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from kd_perception.errors import ConfigError, EvaluationError
from kd_perception.evaluation.conditions import automatic_tags, condition_masks, load_frame_info, scene_groups
from kd_perception.images.scene import SceneSignals

FRAMES = [f'{i:06d}' for i in range(6)]


def info_of(tmp_path, text):
    path = tmp_path / 'info.yaml'
    path.write_text(text)
    return load_frame_info(path)


def test_names_ranges_and_patterns_tag_frames(tmp_path):
    info = info_of(tmp_path, """
conditions:
  - {tag: fog, frames: ['000001..000003', '000005']}
  - {tag: fog, frames: ['000000']}
  - {tag: even, frames: ['*0', '*2', '*4']}
""")
    masks = condition_masks(info, FRAMES)
    assert masks['fog'].tolist() == [True, True, True, True, False, True]
    assert masks['even'].tolist() == [True, False, True, False, True, False]


def test_bag_intervals_tag_frames_by_seconds_from_the_first_image(tmp_path):
    info = info_of(tmp_path, """
conditions:
  - {tag: tunnel, bag: drive, from_s: 0.2, to_s: 0.4}
  - {tag: later, bag: drive, from_s: 0.4}
""")
    stamps = np.arange(6, dtype=np.int64) * 200_000_000 + 7_000_000_000
    masks = condition_masks(info, FRAMES, stamps, ['other'] + ['drive'] * 5)
    assert masks['tunnel'].tolist() == [False, False, True, True, False, False]
    assert masks['later'].tolist() == [False, False, False, True, True, True]
    with pytest.raises(EvaluationError, match="no bag 'drive' in this evaluation; bags: a, b"):
        condition_masks(info, FRAMES, stamps, ['a', 'b'] * 3)
    with pytest.raises(EvaluationError, match="no bag 'drive'"):
        condition_masks(info, FRAMES)


@pytest.mark.parametrize('text, message', [
    ('conditions: [{tag: fog, frames: [nosuch]}]', "condition 'fog': 'nosuch' names no frame"),
    ('conditions: [{tag: fog, frames: ["z*"]}]', "condition 'fog': 'z\\*' names no frame"),
])
def test_a_tag_that_fits_nothing_is_an_error(tmp_path, text, message):
    with pytest.raises(EvaluationError, match=message):
        condition_masks(info_of(tmp_path, text), FRAMES)


@pytest.mark.parametrize('text, message', [
    ('conditions: [{tag: fog}]', 'either frames or a bag'),
    ('conditions: [{tag: fog, frames: [a], bag: b}]', 'either frames or a bag'),
    ('conditions: [{tag: "auto:dark", frames: [a]}]', 'does not begin with'),
    ('conditions: [{tag: fog, bag: b, from_s: 3, to_s: 2}]', 'not after from_s'),
    ('weather: []', 'unknown key weather'),
    ('conditions: [{tag: fog, frames: [1]}]', 'info.yaml.conditions'),
])
def test_a_wrong_file_names_its_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        info_of(tmp_path, text)


def test_scene_groups_number_frames_and_leave_others_alone(tmp_path):
    info = info_of(tmp_path, """
groups:
  - {name: a, frames: ['000000..000001']}
  - {name: b, frames: ['000003', '000004']}
""")
    groups = scene_groups(info, FRAMES)
    assert groups[0] == groups[1] and groups[3] == groups[4]
    assert len(set(groups.tolist())) == 4
    assert sorted(set(groups.tolist())) == list(range(4))
    assert scene_groups(info_of(tmp_path, '{}'), FRAMES) is None
    twice = info_of(tmp_path, 'groups: [{name: a, frames: ["000000"]}, {name: b, frames: ["0000*"]}]')
    with pytest.raises(EvaluationError, match="group 'b': frame 000000 is in another group too"):
        scene_groups(twice, FRAMES)


def test_automatic_tags_come_from_luminance_and_sharpness():
    def signals(luminance, sharpness):
        return SceneSignals(luminance, 30.0, 0.0, 0.0, sharpness)

    tags = automatic_tags([signals(30, 2000), signals(90, 2000), signals(200, 20), None])
    assert tags['auto:dark'].tolist() == [True, False, False, False]
    assert tags['auto:medium light'].tolist() == [False, True, False, False]
    assert tags['auto:bright'].tolist() == [False, False, True, False]
    assert tags['auto:blurred or foggy'].tolist() == [False, False, True, False]
    assert automatic_tags([signals(90, 2000)] * 3) == {}  # nothing to tell apart
