# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Training in two processes: real ones, over the loopback interface."""

import contextlib
import csv
import dataclasses
import os
from pathlib import Path
import socket
import subprocess
import sys

import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')
pytest.importorskip('onnxruntime', reason='the trainer validates with it')

from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.errors import TrainingError
from kd_perception.exit_codes import EXIT_BAD_INPUT
from kd_perception.training.data.datasets import collate
from kd_perception.training.loop.distributed import Processes
from kd_perception.training.loop.trainer import Trainer
from kd_perception.training.loop.weights import load_checkpoint
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.settings.run import TrainingSettings

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'config' / 'training'
LIMIT_S = 250  # below the 300 s of the Makefile; a launch needs 25 s of processor time, which others want too
# One process of two. What it finds goes into a file, for the tests to judge.
WORKER = """
import faulthandler, os, sys
from pathlib import Path
import torch
from kd_perception.cli.main import main
from kd_perception.config import load_config
from kd_perception.errors import TrainingError
from kd_perception.training.loop import trainer as module
from kd_perception.training.loop.distributed import Processes
from kd_perception.training.settings.run import TrainingSettings

faulthandler.dump_traceback_later(int(sys.argv[2]), exit=True)   # tells where it hangs
folder, ports = Path(sys.argv[1]), iter(sys.argv[3:])
# A port for each meeting: torchrun's meeting point outlives them, this one ends with the main process's part.
os.environ['MASTER_PORT'] = next(ports)
processes = Processes.from_environment()
rank, found = processes.rank, {}

def state(trainer):
    parts = {'network': trainer.network, 'average': trainer.average, 'methods': trainer.methods}
    return {f'{part}.{name}': value.clone() for part, owner in parts.items()
            for name, value in owner.state_dict().items()}

with processes.joined(2):
    parameters = [torch.nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last)),
                  torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    parameters[0].grad = torch.arange(24.).view(2, 3, 2, 2) * (1 - 3 * rank)   # contiguous: another layout
    if rank == 1:
        parameters[1].grad = torch.tensor([2., 4., 6.])
    processes.average_gradients(parameters)
    found['gradients'] = [p.grad for p in parameters]
    found['same_layout'] = parameters[0].grad.stride() == parameters[0].stride()
    found['mean'] = processes.mean({'a': rank + 1., 'b': float('nan') if rank else 0.})
    flags = torch.tensor([rank == 0, True])
    processes.broadcast([flags])
    found['broadcast'] = flags

    settings = load_config(TrainingSettings, folder / 'teacher.yaml')
    trainer = module.Trainer(settings, None, folder / 'teacher', None, processes=processes)
    with torch.no_grad():
        next(trainer.network.parameters()).add_(rank)   # as if drawn otherwise: the main one's state counts
    trainer.run(stop_at=1)
    found['first_step'] = state(trainer)
    trainer.run(stop_at=2)
    student = load_config(TrainingSettings, folder / 'student.yaml')
    trainer = module.Trainer(student, None, folder / 'student', None, folder / 'teacher' / 'last.pt',
                             processes=processes)
    trainer.run()
    found['student'] = state(trainer)

if rank == 1:
    make_loss = module.make_loss

    def make_broken_loss(*arguments, **options):
        loss = make_loss(*arguments, **options)
        return lambda *a: {name: value * float('nan') for name, value in loss(*a).items()}
    module.make_loss = make_broken_loss
os.environ['MASTER_PORT'] = next(ports)
found['exit_code'] = main(['train', '--config', str(folder / 'teacher.yaml'), '--run', str(folder / 'nan')])

os.environ['MASTER_PORT'] = next(ports)
try:
    with processes.joined(2):
        processes.barrier()   # both have joined
        if rank == 1:
            torch.save(found, folder / 'rank_1.pt')
            os._exit(0)
        processes.barrier()
except TrainingError as error:
    found['alone'] = str(error)
torch.save(found, folder / 'rank_0.pt')
"""


def write_config(source, path, **changes):
    """Copy a configuration with small images and other values of some top-level keys."""
    lines = (CONFIGS / source).read_text(encoding='utf-8').split('\n')
    small = {'rendered': 6, 'batch': 2, 'checkpoint_every': 1, 'train_hw': [64, 128], 'input_hw': [96, 192]}
    for key, value in {**small, **changes}.items():
        (index,) = [i for i, line in enumerate(lines) if line.startswith(f'{key}:')]
        lines[index] = f'{key}: {value}'
    path.write_text('\n'.join(lines), encoding='utf-8')
    return path


def surroundings(**more):
    """Return the environment of a process that talks to others on this machine alone."""
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo', **more}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Run the worker in two processes; return the folder that both have written to."""
    folder = tmp_path_factory.mktemp('together')
    write_config('teacher_smoke.yaml', folder / 'teacher.yaml', steps=3, validate_every=3)
    write_config('student_smoke.yaml', folder / 'student.yaml', steps=3, validate_every=3)
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(3)]
        for free in sockets:
            free.bind(('127.0.0.1', 0))
        ports = [str(free.getsockname()[1]) for free in sockets]
    started = []
    try:
        for rank in ('0', '1'):
            with (folder / f'stderr_{rank}.txt').open('w') as stderr:
                started.append(subprocess.Popen(
                    [sys.executable, '-c', WORKER, str(folder), str(LIMIT_S), *ports], cwd=ROOT,
                    stdout=subprocess.DEVNULL, stderr=stderr,
                    env=surroundings(RANK=rank, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')))
        codes = [process.wait(LIMIT_S + 20) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert codes == [0, 0], ''.join((folder / f'stderr_{rank}.txt').read_text() for rank in (0, 1))
    return folder


@pytest.fixture(scope='module')
def found(folder):
    return [torch.load(folder / f'rank_{rank}.pt', weights_only=True) for rank in (0, 1)]


def test_gradients_become_their_mean(found):
    values = torch.arange(24.).view(2, 3, 2, 2)
    for rank in (0, 1):
        everywhere, somewhere, nowhere = found[rank]['gradients']
        assert torch.equal(everywhere, (values + -2 * values) / 2) and found[rank]['same_layout']
        assert torch.equal(somewhere, torch.tensor([1., 2., 3.]))
        assert nowhere is None  # the optimiser skips it, as in one process


def test_values_are_averaged_and_tensors_come_from_the_main_process(found):
    for rank in (0, 1):
        assert found[rank]['mean']['a'] == 1.5 and found[rank]['mean']['b'] != found[rank]['mean']['b']
        assert found[rank]['broadcast'].tolist() == [True, True]


def test_first_step_is_that_of_the_mean_gradient_of_both_halves(folder, found, tmp_path):
    settings = load_config(TrainingSettings, folder / 'teacher.yaml')
    one = Trainer(settings, None, tmp_path, None)
    one.network.train().to(memory_format=torch.channels_last)
    for group in one.optimiser.param_groups:
        group['lr'] = group['base_lr'] / settings.optimiser.warmup_steps
    for sample in (0, 1):
        images, targets = collate([one.stream[sample]])
        images = FromCamera(one.network).normalise(images).contiguous(memory_format=torch.channels_last)
        one.loss(one.network(images), targets, None)['total'].backward()
    for parameter in one.network.parameters():
        parameter.grad /= 2
    torch.nn.utils.clip_grad_norm_(one.network.parameters(), settings.optimiser.clip_norm)
    one.optimiser.step()
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(found[0]['first_step'][f'network.{name}'], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize('run', ['first_step', 'student'])
def test_both_processes_hold_the_same_state(run, found):
    """Weights, average, adapters, and the buffers: batch norm statistics, signs and frozen weights."""
    first, second = (entry[run] for entry in found)
    assert list(first) == list(second) and len(first) > 100
    assert any(name.endswith('running_mean') for name in first) == (run == 'student')
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_one_process_resumes_what_two_began(folder):
    settings = load_config(TrainingSettings, folder / 'teacher.yaml')
    with (folder / 'teacher' / 'log.csv').open() as file:
        assert [row['step'] for row in csv.DictReader(file)] == ['1', '2']  # once, not once a process
    alone = Trainer(settings, None, folder / 'teacher', None)
    alone.resume()
    assert alone.step == 2
    alone.run()
    assert load_checkpoint(alone.checkpoint_path)['step'] == 3


def test_loss_that_is_not_finite_in_one_process_stops_both(folder, found):
    for rank in (0, 1):
        assert found[rank]['exit_code'] == EXIT_BAD_INPUT
        text = (folder / f'stderr_{rank}.txt').read_text()
        assert text.count('error: step 0: the loss is nan; stopped') == 1 and 'Traceback' not in text
    assert not (folder / 'nan' / 'last.pt').exists()


def test_process_left_alone_stops(found):
    assert 'stopped, because another process did' in found[0]['alone']


def test_torchrun_resumes_what_one_process_began(tmp_path):
    config = write_config('teacher_smoke.yaml', tmp_path / 'small.yaml', steps=3, batch=4, validate_every=3)
    run = tmp_path / 'run'
    Trainer(load_config(TrainingSettings, config), None, run, None).run(stop_at=1)
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', '--',
         'kd_perception', 'train', '--config', str(config), '--run', str(run), '--resume'],
        cwd=ROOT, env=surroundings(), timeout=LIMIT_S, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('done:') == 1 and done.stdout.count('development:') == 1
    assert load_checkpoint(run / 'last.pt')['step'] == 3
    for name, steps in (('log.csv', ['1', '3']), ('validation.csv', ['3'])):
        with (run / name).open() as file:
            assert [row['step'] for row in csv.DictReader(file)] == steps


def test_shares_of_all_processes_are_the_batch():
    for count in (1, 2, 3, 6):
        shares = [Processes(rank, count).share(6, step=5) for rank in range(count)]
        assert [number for share in shares for number in share] == list(range(30, 36))


def test_batch_that_cannot_be_shared_is_one_line(tmp_path, monkeypatch, capsys):
    """Refused before the processes look for one another, which alone would take for ever."""
    config = write_config('teacher_smoke.yaml', tmp_path / 'small.yaml', batch=4)
    monkeypatch.setenv('WORLD_SIZE', '3')
    monkeypatch.setenv('RANK', '1')
    assert main(['train', '--config', str(config), '--run', str(tmp_path / 'run')]) == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert 'batch: 4 cannot be shared evenly by 3 processes' in line


@pytest.mark.parametrize('environment, message', [
    ({'WORLD_SIZE': 'two'}, "WORLD_SIZE='two': expected"), ({'WORLD_SIZE': '0'}, "WORLD_SIZE='0': expected"),
    ({'WORLD_SIZE': '2'}, "RANK='': expected"), ({'WORLD_SIZE': '2', 'RANK': '2'}, 'RANK=2, WORLD_SIZE=2')])
def test_bad_environment_names_the_variable(environment, message):
    with pytest.raises(TrainingError, match=message):
        Processes.from_environment(environment)


def test_missing_address_is_one_line(monkeypatch):
    for variable in ('MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(TrainingError, match='process 0 of 2 cannot join .*MASTER_ADDR.*start with torchrun'):
        with Processes(0, 2).joined(2):
            pass


def test_one_process_needs_no_group():
    assert Processes.from_environment({}) == Processes.from_environment({'WORLD_SIZE': '1'}) == Processes()
    alone = Processes()
    assert dataclasses.astuple(alone) == (0, 1) and alone.is_main
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = gradient = torch.ones(2)
    with alone.joined(3), alone.main_first():
        alone.average_gradients([weight])
        alone.broadcast([weight])
        alone.barrier()
        assert alone.mean({'a': 0.1}) == {'a': 0.1}
        assert not torch.distributed.is_initialized()
    assert weight.grad is gradient and weight.tolist() == [0, 0]
