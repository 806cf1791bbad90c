# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Training end to end on rendered scenes: resume, stop on bad losses, export, detect."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')
pytest.importorskip('onnx', reason='export needs onnx')
pytest.importorskip('onnxruntime', reason='the exported file is run')

from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from kd_perception.files import lock_folder
from kd_perception.models.manifest import load_manifest
from kd_perception.training.ablation import AblationSettings
from kd_perception.training.data.rendered import render_scene
from kd_perception.training.export.model_file import parity, PARITY_TOLERANCE
from kd_perception.training.loop import autocast
from kd_perception.training.loop.network_builder import build_network
from kd_perception.training.loop.trainer import learning_rate_share, load_checkpoint, Trainer
from kd_perception.training.loop.weights import average_weights
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.settings.network import NetworkSettings
from kd_perception.training.settings.run import TrainingSettings

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'


@pytest.fixture(scope='module')
def settings():
    smoke = load_config(TrainingSettings, CONFIGS / 'teacher_smoke.yaml')
    return dataclasses.replace(smoke, steps=4, batch=2, checkpoint_every=2, validate_every=100, rendered=6)


def test_resumed_run_ends_at_the_very_weights_of_an_uninterrupted_one(settings, tmp_path):
    Trainer(settings, None, tmp_path / 'whole', None).run()
    Trainer(settings, None, tmp_path / 'cut', None).run(stop_at=2)
    resumed = Trainer(settings, None, tmp_path / 'cut', None)
    resumed.resume()
    assert resumed.step == 2
    resumed.run()
    whole, cut = (load_checkpoint(tmp_path / name / 'last.pt') for name in ('whole', 'cut'))
    assert whole['step'] == cut['step'] == 4
    for part in ('network', 'average'):
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), name
    start = Trainer(settings, None, tmp_path / 'start', None).network.state_dict()
    assert not all(torch.equal(value, whole['network'][name]) for name, value in start.items())


def test_a_run_that_is_out_of_time_stops_with_a_checkpoint_to_go_on_from(settings, tmp_path):
    trainer = Trainer(settings, None, tmp_path, None)
    trainer.run(hours=1e-9)
    assert trainer.step == load_checkpoint(trainer.checkpoint_path)['step'] == 1
    trainer = Trainer(settings, None, tmp_path, None)
    trainer.resume()
    trainer.run(hours=100)
    assert load_checkpoint(trainer.checkpoint_path)['step'] == 4


def test_a_run_goes_on_in_the_precision_that_it_began_with(settings, tmp_path, monkeypatch):
    half = dataclasses.replace(settings, precision='bfloat16')
    Trainer(half, None, tmp_path / 'whole', None).run()
    Trainer(half, None, tmp_path / 'cut', None).run(stop_at=2)
    # On a machine where float32 would be chosen.
    resumed = Trainer(dataclasses.replace(settings, precision='auto'), None, tmp_path / 'cut', None)
    resumed.resume()
    resumed.run()
    whole, cut = (load_checkpoint(tmp_path / name / 'last.pt')['network'] for name in ('whole', 'cut'))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert all(value.dtype != torch.bfloat16 for value in whole.values())
    Trainer(settings, None, tmp_path / 'single', None).run()
    single = load_checkpoint(tmp_path / 'single' / 'last.pt')['network']
    assert not all(torch.equal(value, single[name]) for name, value in whole.items())


def test_the_faster_precision_is_chosen_and_the_measurement_leaves_no_trace(monkeypatch):
    network = build_network(NetworkSettings('plain', width=0.25), 3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    for costs, expected in (((1.0, 0.5), True), ((1.0, 0.95), False), ((1.0, 3.0), False)):
        # Single and half precision in turn, the first round is not counted.
        times = iter((9.0, 0.1, *costs * 3))
        monkeypatch.setattr(autocast, '_duration', lambda call, times=times: (call(), next(times))[1])
        chosen, why = autocast.choose_precision('auto', network, images)
        assert chosen == expected and ('bfloat16 (' if chosen else 'float32 (') in why
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert autocast.choose_precision('bfloat16', network, images)[0]


def test_resume_refuses_another_configuration(settings, tmp_path):
    Trainer(settings, None, tmp_path, None).run(stop_at=2)
    with pytest.raises(TrainingError, match='made with another configuration'):
        Trainer(dataclasses.replace(settings, batch=3), None, tmp_path, None).resume()
    # What only matters to the export may change.
    Trainer(dataclasses.replace(settings, evaluation=()), None, tmp_path, None).resume()


def test_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(settings, tmp_path):
    trainer = Trainer(settings, None, tmp_path, None)
    trainer.run(stop_at=2)
    good = load_checkpoint(trainer.checkpoint_path)
    broken = Trainer(settings, None, tmp_path, None)
    broken.resume()
    with torch.no_grad():
        broken.network.head.predict[0].bias.fill_(float('nan'))
    with pytest.raises(TrainingError, match='step 2: the loss is nan'):
        broken.run()
    kept = load_checkpoint(trainer.checkpoint_path)
    assert kept['step'] == 2 and torch.equal(kept['network']['backbone.stem.0.weight'],
                                             good['network']['backbone.stem.0.weight'])


def test_checkpoint_that_cannot_be_written_is_a_clear_error(settings, tmp_path, monkeypatch):
    trainer = Trainer(settings, None, tmp_path, None)
    trainer.run(stop_at=2)

    def full_disk(*_):
        raise RuntimeError('PytorchStreamWriter failed writing file: file write failed')
    monkeypatch.setattr(torch, 'save', full_disk)
    resumed = Trainer(settings, None, tmp_path, None)
    resumed.resume()
    with pytest.raises(TrainingError, match='cannot be written .*; the last one stays'):
        resumed.run()
    assert load_checkpoint(trainer.checkpoint_path)['step'] == 2


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', b'PK\x03\x04 broken'])
def test_damaged_checkpoint_is_refused(content, tmp_path):
    (tmp_path / 'last.pt').write_bytes(content)
    with pytest.raises(TrainingError, match='last.pt: is not a readable checkpoint'):
        load_checkpoint(tmp_path / 'last.pt')


def test_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({'network': Path('x')}, tmp_path / 'last.pt')  # any object beyond tensors and plain values
    with pytest.raises(TrainingError, match='is not a readable checkpoint'):
        load_checkpoint(tmp_path / 'last.pt')


def test_learning_rate_warms_up_then_falls(settings):
    whole = dataclasses.replace(settings, steps=100)
    shares = [learning_rate_share(step, whole) for step in range(101)]
    warmup = whole.optimiser.warmup_steps
    assert np.all(np.diff(shares[:warmup]) > 0) and np.all(np.diff(shares[warmup:]) <= 0)
    assert max(shares) == 1 and shares[-1] == pytest.approx(whole.optimiser.final_lr_share)


def test_average_of_weights_interpolates():
    torch.manual_seed(0)
    tuned, initial = PicoDet(3), PicoDet(3)
    mixed = average_weights(tuned, initial, 0.25)
    for a, b, c in zip(tuned.parameters(), initial.parameters(), mixed.parameters()):
        torch.testing.assert_close(c, 0.75 * a + 0.25 * b)


def test_commands_train_resume_export_and_the_file_detects(tmp_path, capsys):
    text = (CONFIGS / 'teacher_smoke.yaml').read_text()
    config = tmp_path / 'small.yaml'
    config.write_text(text.replace('steps: 30', 'steps: 6').replace('rendered: 16', 'rendered: 6')
                      .replace('batch: 4', 'batch: 2').replace('validate_every: 30', 'validate_every: 6'))
    run = ['--config', str(config), '--run', str(tmp_path / 'run')]
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'log.csv').write_text('step,total\n1,9\n99,9\n')    # a run without a checkpoint yet
    with lock_folder(tmp_path / 'run'):
        assert main(['train', *run]) == EXIT_BAD_INPUT
    assert 'another run is writing here' in capsys.readouterr().err
    assert main(['train', *run]) == EXIT_OK
    assert main(['train', *run]) == EXIT_BAD_INPUT
    assert 'add --resume' in capsys.readouterr().err
    assert main(['train', *run, '--resume']) == EXIT_OK
    with (tmp_path / 'run' / 'log.csv').open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row['step']) for row in rows]
    assert steps == sorted(set(steps)) and max(steps) <= 6 and 'lr' in rows[0]
    out = tmp_path / 'model' / 'small.onnx'
    assert main(['export', *run, '--checkpoint', str(tmp_path / 'run' / 'last.pt'), '--out', str(out),
                 '--manifest', 'small']) == EXIT_OK
    detector = OnnxDetector.load(out, expected_sha256=load_manifest(out.parent).models['small'].sha256)
    assert detector.spec.labels == ('Car', 'Pedestrian', 'Cyclist') and detector.spec.input.hw == (192, 384)
    measured = detector.spec.documents['metrics']['sets'][0]
    assert measured['images'] == 6 and measured['model']['Car']['objects'] > 0
    assert detector.spec.documents['provenance']['steps'] == 6
    assert sum(np.prod(layer['shape']) for layer in detector.spec.documents['precision'].values()) > 900_000
    image, _ = render_scene(np.random.default_rng(0))
    assert len(detector.detect(image, 0.001).detections) > 0


def test_exported_outputs_equal_torch(tmp_path):
    config = str(CONFIGS / 'teacher_smoke.yaml')
    out = tmp_path / 'untrained.onnx'
    assert main(['export', '--config', config, '--untrained', '--out', str(out)]) == EXIT_OK
    settings = load_config(TrainingSettings, config)
    torch.manual_seed(settings.seed)
    network = PicoDet(len(settings.labels)).eval()
    assert parity(network, OnnxDetector.load(out)) <= PARITY_TOLERANCE
    with torch.no_grad():
        network.head.predict[3].bias[0] += 0.01
    assert parity(network, OnnxDetector.load(out)) == pytest.approx(0.01, abs=PARITY_TOLERANCE)


@pytest.mark.parametrize('name', sorted(path.name for path in CONFIGS.glob('*.yaml')))
def test_shipped_configurations_are_valid(name):
    if name.startswith('ablation'):
        training = load_config(AblationSettings, CONFIGS / name).training
        assert training.labels == ('Car', 'Pedestrian', 'Cyclist')
        return
    assert load_config(TrainingSettings, CONFIGS / name).labels == ('Car', 'Pedestrian', 'Cyclist')


@pytest.mark.parametrize('change, message', [
    ('train_hw: [100, 192]', 'multiples of 32'), ('labels: [Car, Car]', 'distinct names'),
    ('steps: 0', 'must be positive'), ('datasets: []', 'at least one')])
def test_bad_configuration_names_the_field(change, message, tmp_path):
    lines = (CONFIGS / 'teacher_smoke.yaml').read_text().split('\n')
    key = change.split(':')[0]
    index = next(i for i, line in enumerate(lines) if line.startswith(key + ':'))
    end = index + 1
    while end < len(lines) and lines[end].startswith(' '):
        end += 1
    (tmp_path / 'bad.yaml').write_text('\n'.join(lines[:index] + [change] + lines[end:]))
    with pytest.raises(ConfigError, match=message):
        load_config(TrainingSettings, tmp_path / 'bad.yaml')


def test_missing_data_and_weights_are_one_line(tmp_path, capsys, monkeypatch):
    for variable in ('KD_PERCEPTION_DATA', 'KD_PERCEPTION_PICODET_ONNX'):
        monkeypatch.delenv(variable, raising=False)
    config = ['--config', str(CONFIGS / 'teacher.yaml'), '--run', str(tmp_path / 'run')]
    assert main(['train', *config]) == EXIT_BAD_INPUT
    assert 'give the folder of the data sets with --data' in capsys.readouterr().err
    assert main(['train', *config, '--data', str(tmp_path)]) == EXIT_BAD_INPUT
    assert 'give the published weights with --init' in capsys.readouterr().err
