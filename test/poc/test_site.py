# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A site's frames: no neighbours leak, classes are shared out, gaps are named, cores add up."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.errors import EvaluationError
from kd_perception.images.scene import SceneSignals
from kd_perception.labels.label_check import FolderCheck
from kd_perception.poc import site_gaps
from kd_perception.poc.camera_cost import CameraPlan, cost_table, least_share, LOAD
from kd_perception.poc.site_split import find_sequences, SiteSplit, split_site

LEVELS = ('easy', 'moderate', 'hard')


def drive(prefix, count, first=0, step=1):
    return [f'{prefix}{first + i * step:06d}' for i in range(count)]


def test_sequences_are_told_apart_by_name_and_by_jumps():
    stamps = [f'front_{1_700_000_000_000_000_000 + i * 10 ** 8}' for i in range(5)]
    later = [f'front_{1_700_009_000_000_000_000 + i * 10 ** 8}' for i in range(5)]
    names = [*drive('a_', 7), *drive('b_', 3), *stamps, *later, 'photo', 'scan']
    assert sorted(map(tuple, find_sequences(reversed(names)))) == sorted(map(tuple, [
        drive('a_', 7), drive('b_', 3), stamps, later, ['photo'], ['scan']]))
    assert find_sequences(['img10', 'img9', 'img100']) == [['img9', 'img10', 'img100']]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 4),
       st.floats(0.1, 0.9), st.integers(0, 5))
@settings(max_examples=30)
def test_parts_are_apart(lengths, block, gap, share, seed):
    names = [name for i, count in enumerate(lengths) for name in drive(f'cam{i}_', count)]
    try:
        split = split_site(names, {}, share, block, gap, seed)
    except EvaluationError:
        assert sum(-(-count // block) for count in lengths) < 4 or gap
        return
    parts = [*split.train, *split.held_out, *split.left_out]
    assert sorted(parts) == sorted(names), 'each frame is in one part'
    assert split.train and split.held_out and split == split_site(names, {}, share, block, gap, seed)
    for name in split.train:
        stem, number = name[:-6], int(name[-6:])
        near = {f'{stem}{number + i:06d}' for i in range(-gap, gap + 1)}
        assert not near & set(split.held_out), 'a neighbour of a training frame is held out'
    assert not {split.blocks[name] for name in split.held_out} & {split.blocks[name] for name in split.train}


def test_rare_classes_are_shared_out():
    names = drive('x', 200)
    rng = np.random.default_rng(0)
    riders = set(rng.choice(25, 6, replace=False).tolist())
    objects = {name: Counter(Car=int(rng.integers(0, 5)), Cyclist=int(i // 8 in riders))
               for i, name in enumerate(names)}
    split = split_site(names, objects, 0.4, 8, 2)
    for kind in ('Car', 'Cyclist'):
        total = sum(found[kind] for found in objects.values())
        assert 0.3 < sum(objects[name][kind] for name in split.held_out) / total < 0.5, kind
    assert split.held_out_blocks == 10 and split.sequences == 1


def test_too_few_frames_are_refused():
    with pytest.raises(EvaluationError, match='9 labelled frames make 3 blocks of 4'):
        split_site(drive('x', 9), {}, block_frames=4)
    with pytest.raises(EvaluationError, match='leave none to train on'):
        split_site(drive('x', 8), {}, 0.5, 2, 9)


def report(counts, ap=50.0, half=5.0):
    entry = {name: {level: {
        'ap_r40': ap, 'ci95': [ap - half, ap + half], 'valid_ground_truths': count,
        'few_ground_truths': count < 41} for level in LEVELS} for name, count in counts.items()}
    bins = {name: {'25-50': {'valid_ground_truths': count // 10}, '50+': {'valid_ground_truths': count}}
            for name, count in counts.items()}
    return {'results': entry, 'height_bins_px': bins, 'conditions': {}}


def scenes(*pairs):
    return [SceneSignals(light, 10.0, 0.0, 0.0, sharp) for light, sharp, count in pairs for _ in range(count)]


def test_gaps_name_classes_conditions_and_sizes():
    split = SiteSplit(('a',), ('b',), (), {'a': 0, 'b': 1}, 1, 20)
    found = site_gaps.data_gaps(split, {'Car': 500, 'Pedestrian': 12},
                                report({'Car': 300, 'Pedestrian': 40, 'Cyclist': 0}),
                                [*scenes((100, 900, 60), (30, 100, 19)), None])
    text = '\n'.join(f'{gap.weight}: {gap.finding}' for gap in found)
    for line in (
            'serious: Pedestrian: 40 in the held-out part', 'serious: Cyclist: none that counts',
            'minor: Pedestrian: 12 to train on', 'minor: Cyclist: 0 to train on',
            'minor: dark: 19 of 80', 'minor: bright: 0 of 80', 'minor: blurred or foggy: 19 of 80',
            'minor: Car, far (25-50 px high): 30', 'minor: Pedestrian, far (25-50 px high): 4',
            'serious: all frames are of one sequence', 'minor: 1 blocks are held out'):
        assert line in text, line
    assert len(found) == 11 and 'Car: 5' not in text and 'sharp:' not in text
    assert site_gaps.condition_counts(scenes((100, 900, 3))) == {
        'dark': 0, 'bright': 0, 'medium light': 3, 'blurred or foggy': 0, 'sharp': 3}


def test_gaps_say_what_chance_explains_and_how_many_frames_would_tell():
    before, after = report({'Car': 99}, 50.0, 6.0), report({'Car': 99}, 54.0, 8.0)
    (gap,) = site_gaps.gain_gaps(before, after, 100, 'moderate')
    assert 'Car: the change of +4.0 is within chance (interval ±10.0)' in gap.finding
    assert 'some 630 held-out frames' in gap.advice, '100 x (10 / 4)^2 = 625, two digits'
    assert site_gaps.gain_gaps(before, report({'Car': 99}, 70.0, 8.0), 100, 'moderate') == []
    (gap,) = site_gaps.gain_gaps(before, report({'Car': 99}, 50.01, 8.0), 100, 'moderate')
    assert 'more frames would hardly show it' in gap.advice


def test_gaps_of_labels_teacher_and_machine():
    check = FolderCheck(errors=[f'a.txt:{i}: wrong' for i in range(12)], warnings=['b.txt:1: '
                                                                                   'odd'], label_files=9,
                        usable=['c'])
    first, second = site_gaps.label_gaps(check)
    for words in ('12 errors', '8 frames left out', 'and 2 more'):
        assert words in first.finding
    assert second.weight == site_gaps.MINOR and site_gaps.label_gaps(FolderCheck()) == []
    metric = {'text': 'KITTI', 'teacher_ap': 40.0, 'student_ap': 41.0}
    gaps = site_gaps.teacher_gaps({'metrics': {'kitti': metric}, 'estimator': None}, old_ground=False)
    assert [gap.weight for gap in gaps] == ['serious', 'minor', 'minor']
    better = {'metrics': {'kitti': {**metric, 'teacher_ap': 60.0}}, 'estimator': {'kind': 'linear'}}
    assert site_gaps.teacher_gaps(better, True) == []
    old = {run: report({'Car': 99, 'Cyclist': 99}, ap)
           for run, ap in (('before', 50.0), ('after', 40.0))}
    old['after']['results']['Cyclist']['moderate']['ap_r40'] = 49.0
    (gap,) = site_gaps.loss_gaps(old, 'moderate')
    assert gap.weight == 'serious' and gap.finding.startswith('Car: AP 50.0 to 40.0 on the frames')
    assert site_gaps.machine_gaps({'load_average_at_start': '3.1 2 1', 'cores': '2'})
    assert not site_gaps.machine_gaps({'load_average_at_start': '0.3 2 1', 'cores': '2'})


def test_cores_add_up():
    plan = CameraPlan(4, 10.0)
    rows = cost_table(plan, 10.0, 100.0, (0.0, 0.2, 1.0))
    assert [row['busy_cores'] for row in rows] == [0.4, 1.2, 4.4]
    assert rows[1]['cores'] == pytest.approx(1.2 / LOAD, abs=0.01)
    assert [row['share'] for row in cost_table(plan, 10.0, None, (0.0, 0.5))] == [0.0]
    metric = {'shares': [0.0, 0.1, 0.3, 1.0], 'gates': {'g': {'recovered': [0.0, 0.4, 0.6, 1.0]},
                                                        'none': {'recovered': [None] * 4}}}
    assert least_share(metric, 'g') == 0.3 and least_share(metric, 'none') is None
    for cameras, rate in ((0, 10), (4, 0), (4, float('nan'))):
        with pytest.raises(EvaluationError, match='expected 1 to 1000 cameras'):
            CameraPlan(cameras, rate)
