# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The retraining loop from end to end, each step by its command as docs/how-to/operations.md has it.

Rendered scenes, and a network so small and a run so short that figures mean nothing: what is tested is that
each step takes what the one before gives, and that nothing but accepted frames is trained on.
"""

from pathlib import Path
import shutil

import numpy as np
import pytest

pytest.importorskip('torch', reason='the training toolkit needs torch')
pytest.importorskip('onnx', reason='export needs onnx')

from hard_frames import hard_frame
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.evaluation.report.compare import load_report
from kd_perception.exit_codes import EXIT_OK
from kd_perception.labels.kitti_text import read_label_file
from kd_perception.training.data.rendered import render_dataset, render_scene
from label_editor import ask, editor

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'
LABELS = ('Car', 'Pedestrian', 'Cyclist')
FRAMES = 10
LOOP = """
base: student_smoke.yaml
rendered: 0
steps: {steps}
batch: 2
checkpoint_every: {steps}
validate_every: {steps}
distillation: null
datasets:
  - {{folder: {folder}, train_below: 0.7, develop: true, width_px: [256, 512],
     ignore: {{DontCare: [Car, Pedestrian, Cyclist]}}}}
evaluation: []
"""


def step(*words):
    assert main([str(word) for word in words]) == EXIT_OK, words


def hard_frame_recording(path):
    """Return the scenes' labels by frame number; the recorded teacher misses each scene's first object."""
    truths = []
    with BagWriter(path) as bag:
        for number in range(FRAMES):
            image, truth = render_scene(np.random.default_rng([1, number]))
            seen = [(LABELS.index(name), .9, tuple(box)) for name, box in zip(truth.types, truth.boxes_xyxy)]
            frame = hard_frame(number, image=image, student=[], teacher=seen[1:])
            for topic, kind, raw in frame.messages():
                bag.write_raw(topic, kind, raw, frame.stamp_ns)
            truths.append(truth)
    return truths


def label_by_hand(server, truths):
    """Reject the first frame, add the missed object on the others; return the names of the accepted ones."""
    accepted = []
    for number, entry in enumerate(ask(server, 'GET', 'api/frames')[1]['frames']):
        _, frame = ask(server, 'GET', f'api/frames/{number}')
        truth = truths[(frame['facts']['stamp_ns'] // 10 ** 8) % 10 ** 6 % FRAMES]
        missed = {'class': truth.types[0], 'box_xyxy': truth.boxes_xyxy[0].tolist()}
        status = 'accepted' if number else 'rejected'
        code, _ = ask(server, 'PUT', f'api/frames/{number}', {
            'status': status, 'boxes': [*frame['boxes'], missed], 'revision': frame['revision']})
        assert code == 200
        accepted += [entry['name']] if number else []
    return accepted


def test_hard_frames_become_a_measured_model(tmp_path, capsys):
    data, hard, models = tmp_path / 'data', tmp_path / 'hard' / 'hard_1', tmp_path / 'models'
    for folder, seed in (('scenes', 5), ('site_val', 6), ('original_val', 7)):
        render_dataset(data / folder, 6, seed)
    for name in ('student_smoke', 'loop', 'first'):
        (tmp_path / 'configs').mkdir(exist_ok=True)
        if name == 'student_smoke':
            shutil.copy(CONFIGS / f'{name}.yaml', tmp_path / 'configs')
            continue
        text = LOOP.format(steps=2 if name == 'first' else 4, folder='scenes' if name == 'first' else 'site')
        if name == 'loop':
            text += 'init: {kind: model}\nbinarization: {stages: {deep: 0.0, middle: 0.0, early: 0.0}}\n'
        (tmp_path / 'configs' / f'{name}.yaml').write_text(text)

    def train_and_export(name, *start):
        config, run = tmp_path / 'configs' / f'{name}.yaml', tmp_path / 'runs' / name
        step('train', '--config', config, '--data', data, '--run', run, *start)
        step('export', '--config', config, '--data', data, '--run', run, '--checkpoint', run / 'last.pt',
             '--out', models / f'{name}.onnx')
        return models / f'{name}.onnx', run / 'last.pt'

    models.mkdir()
    old, checkpoint = train_and_export('first')                         # the model in service

    truths = hard_frame_recording(hard)                                 # 1. what the fallback has recorded
    with editor(hard.parent, data / 'site') as server:                  # 2. a person's decisions
        accepted = label_by_hand(server, truths)
    assert {path.stem for path in (data / 'site' / 'label_2').iterdir()} == set(accepted)
    assert len(accepted) == FRAMES - 1
    found = [read_label_file(data / 'site' / 'label_2' / f'{name}.txt') for name in accepted]
    by_stamp = {name: truths[int(name.rsplit('_', 1)[1]) // 10 ** 8 % 10 ** 6 % FRAMES] for name in accepted}
    for name, labels in zip(accepted, found):
        assert sorted(labels.types) == sorted(by_stamp[name].types), 'the missed object is labelled'
    step('check-labels', '--input', data / 'site', '--quiet')           # 3. nothing is wrong with them

    new, _ = train_and_export('loop', '--start', checkpoint)            # 4. and 5.
    assert OnnxDetector.load(new).sha256 != OnnxDetector.load(old).sha256
    reports = {}
    for where in ('site_val', 'original_val'):                          # 6. on both grounds
        for model in (old, new):
            out = reports[where, model] = tmp_path / 'reports' / f'{where}_{model.stem}'
            step('evaluate', '--images', data / where / 'images', '--labels', data / where / 'label_2',
                 '--model', model, '--out', out, '--bootstrap', '5', '--no-html')
    capsys.readouterr()
    for where in ('site_val', 'original_val'):                          # 7. better here, no worse there?
        before, after = (reports[where, model] / 'report.json' for model in (old, new))
        step('evaluate', 'compare', before, after, '--metric', 'results.Car.moderate.ap_r40=100')
        assert 'results.Car.moderate.ap_r40' in capsys.readouterr().out
        assert load_report(after)['model']['sha256'] == OnnxDetector.load(new).sha256
    # 8. into service, by a verdict with limits that models of four steps can pass; and back
    store, verdict = tmp_path / 'store', tmp_path / 'compare.json'
    pairs = [[reports[where, model] / 'report.json' for model in (old, new)]
             for where in ('site_val', 'original_val')]
    step('evaluate', 'compare', *pairs[0], '--also', *pairs[1], '--verdict', verdict, '--judge-class', 'Car',
         '--min-ground-truths', '1', '--max-ap-loss', '100', '--max-ap-loss-bound', '100',
         '--max-miss-rate-rise', '1', '--max-miss-rate-rise-bound', '1')
    step('model', 'promote', '--store', store, '--model', old, '--report', pairs[1][0])
    step('model', 'promote', '--store', store, '--model', new, '--report', verdict)
    assert OnnxDetector.named(f'store:{store}#student').sha256 == OnnxDetector.load(new).sha256
    step('model', 'rollback', '--store', store)
    assert OnnxDetector.named(f'store:{store}#student').sha256 == OnnxDetector.load(old).sha256
