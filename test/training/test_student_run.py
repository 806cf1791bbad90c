# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A student's run on rendered scenes: teacher, transfer, staged binarisation, resume, packed export."""

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')
pytest.importorskip('onnx', reason='export needs onnx')
pytest.importorskip('onnxruntime', reason='the exported file is run')

from kd_perception.boxes.detections import Detections
from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.training import activation_bits
from kd_perception.training.binary.layers import BinaryConv2d
from kd_perception.training.data.datasets import MixedStream
from kd_perception.training.data.rendered import render_scene
from kd_perception.training.export.model_file import write_model
from kd_perception.training.loop.student import make_optimiser
from kd_perception.training.loop.trainer import Trainer
from kd_perception.training.loop.weights import load_checkpoint, load_teacher
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.networks.torch_detector import detection_spec
from kd_perception.training.settings.activations import ActivationSettings
from kd_perception.training.settings.network import NetworkSettings
from kd_perception.training.settings.run import InitSettings, TrainingSettings

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'
SHORT = {'steps': 6, 'batch': 2, 'checkpoint_every': 3, 'validate_every': 100, 'rendered': 6}


@pytest.fixture(scope='module')
def settings():
    return dataclasses.replace(load_config(TrainingSettings, CONFIGS / 'student_smoke.yaml'), **SHORT)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    smoke = load_config(TrainingSettings, CONFIGS / 'teacher_smoke.yaml')
    folder = tmp_path_factory.mktemp('teacher')
    Trainer(dataclasses.replace(smoke, **{**SHORT, 'steps': 1}), None, folder, None).run()
    return folder / 'last.pt'


@pytest.mark.parametrize('start', [None, 0.4])
def test_resumed_student_ends_at_the_very_weights(settings, teacher, tmp_path, start):
    if start is not None:   # activations are rounded from before the interruption on
        activations = ActivationSettings(start=start, calibration_batches=1)
        settings = dataclasses.replace(settings, activations=activations)
    Trainer(settings, None, tmp_path / 'whole', None, teacher).run()
    Trainer(settings, None, tmp_path / 'cut', None, teacher).run(stop_at=3)
    resumed = Trainer(settings, None, tmp_path / 'cut', None, teacher)
    resumed.resume()
    resumed.run()
    whole, cut = (load_checkpoint(tmp_path / name / 'last.pt') for name in ('whole', 'cut'))
    assert whole['methods']  # adapters: the teacher is wider
    for part in ('network', 'average', 'methods'):
        assert list(whole[part]) == list(cut[part])
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), (part, name)
    flags = {name: value for name, value in whole['average'].items() if name.endswith('.binary')}
    assert len(flags) == 19 and all(flags.values())
    rounded = {name: value for name, value in whole['average'].items() if name.endswith('.enabled')}
    assert len(rounded) == (0 if start is None else 27) and all(rounded.values())
    with (tmp_path / 'whole' / 'log.csv').open() as file:
        (row,) = csv.DictReader(file)
    assert all(float(row[f'kd_{name}']) > 0 for name in ('logits', 'localisation', 'pyramid', 'regions'))


def test_averaged_statistics_follow_the_network(settings, teacher, tmp_path):
    """Without re-estimation the average carries the network's own batch-norm statistics."""
    binarization = dataclasses.replace(settings.binarization, batch_norm_batches=0)
    without = dataclasses.replace(settings, binarization=binarization)
    plain = Trainer(without, None, tmp_path / 'a', None, teacher)
    plain.run()
    fitted = Trainer(settings, None, tmp_path / 'b', None, teacher)
    fitted.run()
    name = 'backbone.stem.norm.running_mean'
    assert torch.equal(plain.average.state_dict()[name], plain.network.state_dict()[name])
    assert not torch.equal(fitted.average.state_dict()[name], fitted.network.state_dict()[name])
    assert torch.equal(plain.network.state_dict()[name], fitted.network.state_dict()[name])


def test_latent_weights_do_not_decay(settings, teacher, tmp_path):
    trainer = Trainer(settings, None, tmp_path, None, teacher)
    optimiser = make_optimiser(trainer.network, dataclasses.replace(
        settings, optimiser=dataclasses.replace(settings.optimiser, weight_decay=0.1)),
        trainer.methods.parameters())
    latent = {id(layer.weight) for layer in trainer.network.modules() if isinstance(layer, BinaryConv2d)}
    for group in optimiser.param_groups:
        kinds = {id(p) in latent for p in group['params']}
        assert kinds == {group['weight_decay'] == 0}
    held = [id(p) for group in optimiser.param_groups for p in group['params']]
    wanted = [*trainer.network.parameters(), *trainer.methods.parameters()]
    assert sorted(held) == sorted(map(id, wanted))


def test_published_networks_train(settings, tmp_path, monkeypatch):
    """One step of the smaller one, with a narrow head so that it takes no time."""
    import kd_perception.training.networks.yolov2_head as head
    monkeypatch.setattr(head.YoloV2Head.__init__, '__defaults__', (16,))
    network = NetworkSettings('mobilenet_v1_yolov2', anchors_px=((20.0, 30.0), (60.0, 40.0)))
    chosen = dataclasses.replace(settings, network=network, distillation=None, steps=1, train_hw=(64, 64),
                                 binarization=dataclasses.replace(settings.binarization, freeze=None))
    trainer = Trainer(chosen, None, tmp_path, None)
    before = trainer.network.head.predict.bias.detach().clone()
    trainer.run()
    assert not torch.equal(trainer.network.head.predict.bias, before)
    assert (tmp_path / 'last.pt').is_file()


@pytest.mark.parametrize('integers', [False, True])
def test_commands_train_and_export_a_packed_student(settings, teacher, tmp_path, capsys, integers):
    config = tmp_path / 'student.yaml'
    text = (CONFIGS / 'student_smoke.yaml').read_text(encoding='utf-8')
    text = (text.replace('steps: 30', 'steps: 4').replace('rendered: 16', 'rendered: 6')
            .replace('validate_every: 30', 'validate_every: 4'))
    activations = 'activations: {bits: 8, start: 0.5, calibration_batches: 1}\n'
    config.write_text(text + activations * integers)
    run, out = tmp_path / 'run', tmp_path / 'student.onnx'
    train = ['train', '--config', str(config), '--run', str(run)]
    assert main(train) == EXIT_BAD_INPUT
    assert '--teacher' in capsys.readouterr().err
    assert main([*train, '--teacher', str(teacher)]) == EXIT_OK
    assert main(['export', '--config', str(config), '--run', str(run), '--checkpoint', str(run / 'last.pt'),
                 '--out', str(out), '--float-twin']) == EXIT_OK
    assert 'times as large' in capsys.readouterr().out
    detector = OnnxDetector.load(out)
    bits = [entry['bits'] for entry in detector.spec.documents['precision'].values()]
    assert bits.count(1) == 19 and bits.count(8) == 4 and len(bits) == 23
    assert out.stat().st_size < 0.17 * out.with_suffix('.float.onnx').stat().st_size
    rounded = [entry.get('activation_bits') for entry in detector.spec.documents['precision'].values()]
    assert rounded.count(8) == (20 if integers else 0)
    # The other kind of activations, of the same checkpoint.
    other, turned = tmp_path / 'other.onnx', tmp_path / 'turned.yaml'
    turned.write_text(text + activations)
    assert main(['export', '--config', str(turned), '--run', str(run), '--checkpoint', str(run / 'last.pt'),
                 '--out', str(other), '--no-measure',
                 *(['--float-activations'] if integers else ['--calibrate', '3'])]) == EXIT_OK
    assert ('activation_bits' in str(OnnxDetector.load(other).spec.documents['precision'])) is not integers
    if not integers:
        capsys.readouterr()
        assert activation_bits.main(['--config', str(turned), '--checkpoint', str(run / 'last.pt'), '--data',
                                     str(run / 'rendered'), '--bits', '8', '5', '--images', '2']) == EXIT_OK
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(':')[0] for line in lines] == ['float', '8 bits', '5 bits']
        assert activation_bits.main(['--config', str(config), '--checkpoint', str(run / 'last.pt'), '--data',
                                     str(run / 'rendered')]) == EXIT_BAD_INPUT
        assert 'has no activations' in capsys.readouterr().err
    scene, _ = render_scene(np.random.default_rng(0))
    assert len(detector.detect(scene, 1e-4).detections) > 0
    assert main(['model', 'verify', str(out)]) == EXIT_OK
    images, found = tmp_path / 'images', tmp_path / 'found'
    images.mkdir()
    cv2.imwrite(str(images / '000000.png'), scene)
    assert main(['detect', '--model', str(out), '--input', str(images), '--out', str(found), '--quiet',
                 '--score-threshold', '0.001']) == EXIT_OK
    assert (found / '000000.txt').read_text().splitlines()


def test_a_model_file_teaches_as_its_network_does(settings, tmp_path):
    torch.manual_seed(0)
    network = PicoDet(3).eval()
    write_model(network, detection_spec('t', settings.labels, (64, 96), network), tmp_path / 'teacher.onnx')
    loaded = load_teacher(tmp_path / 'teacher.onnx', settings.labels)
    assert not any(p.requires_grad for p in loaded.parameters())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(network(images), loaded(images)):
            assert torch.allclose(a, b, atol=1e-5)
    with pytest.raises(TrainingError, match='the teacher knows'):
        load_teacher(tmp_path / 'teacher.onnx', ('Car',))
    plain = PlainDetector(3, 0.25).eval()
    write_model(plain, detection_spec('p', settings.labels, (64, 96), plain), tmp_path / 'plain.onnx')
    with pytest.raises(TrainingError, match='plain.onnx: has no head or maps that a loss could compare'):
        load_teacher(tmp_path / 'plain.onnx', settings.labels)


def test_a_run_goes_on_from_another_one(settings, teacher, tmp_path):
    """Same weights at the start, whether or not they are binary there; a wrong network is named."""
    float_run = dataclasses.replace(settings, binarization=None, distillation=None, steps=1)
    Trainer(float_run, None, tmp_path / 'first', None).run()
    start = tmp_path / 'first' / 'last.pt'
    binary_run = dataclasses.replace(settings, distillation=None, init=InitSettings('model'))
    average = load_checkpoint(start)['average']
    going_on = Trainer(binary_run, None, tmp_path / 'second', None, None, start)
    state = going_on.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in average.items())
    assert going_on.reference is not None  # what it was goes on teaching it
    quiet = dataclasses.replace(binary_run, loss=dataclasses.replace(binary_run.loss, distil=0.0))
    assert Trainer(quiet, None, tmp_path / 'quiet', None, None, start).reference is None
    with pytest.raises(TrainingError, match='with --start'):
        Trainer(binary_run, None, tmp_path / 'third', None)
    wider = dataclasses.replace(binary_run, network=NetworkSettings('plain', width=0.5))
    with pytest.raises(TrainingError, match='last.pt: weights do not fit the network at'):
        Trainer(wider, None, tmp_path / 'fourth', None, None, start)


def test_decoded_images_are_kept_as_far_as_there_is_room(settings, tmp_path):
    plain = Trainer(settings_without_teacher(settings), None, tmp_path, None).stream
    size = plain.images[0][0].read().nbytes
    cached = MixedStream(dataclasses.replace(plain.settings, image_cache_mib=1), plain.images,
                         lambda image: Detections.empty())
    for i in range(12):
        assert torch.equal(plain[i].image, cached[i].image)
    assert 0 < sum(image.nbytes for image in cached._decoded.values()) <= 1 << 20
    assert len(cached._decoded) == min((1 << 20) // size, len({id(v) for v in cached._decoded.values()}))
    assert not plain._decoded


def settings_without_teacher(settings):
    return dataclasses.replace(settings, distillation=None)


def test_a_teacher_of_other_classes_is_refused(settings, teacher, tmp_path):
    with pytest.raises(TrainingError, match='the teacher knows'):
        load_teacher(teacher, ('Car',))
    mixed = load_checkpoint(teacher)
    mixed['settings']['export']['average_with_initial'] = 0.5
    torch.save(mixed, tmp_path / 'mixed.pt')
    with pytest.raises(TrainingError, match='mixed with its initial weights'):
        load_teacher(tmp_path / 'mixed.pt', settings.labels)


def test_a_student_cannot_start_from_the_teachers_file(settings):
    with pytest.raises(ValueError, match='does not fit network.kind plain'):
        dataclasses.replace(settings, init=InitSettings('picodet_onnx', (2, 0, 1)))
