# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Which layers become binary, when, and what the refinements do to a network in training."""

import copy

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from torch import nn

from kd_perception.errors import TrainingError
from kd_perception.training.binary.binarization import (
    activate_all,
    BinarizationSchedule,
    binarize,
    latent_parameters,
    reestimate_batch_norm,
)
from kd_perception.training.binary.layers import BinaryConv2d, RoundedConv2d
from kd_perception.training.loop.averaging import MovingAverage
from kd_perception.training.networks.darknet import DarkNet19YoloV2
from kd_perception.training.networks.mobilenet import MobileNetV1YoloV2
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.settings.binarization import BinarizationSettings, FreezeSettings, StageSettings


def tiny():
    torch.manual_seed(0)
    return PlainDetector(2, 0.25)


def images(count=2, seed=0):
    return torch.randn(count, 3, 32, 64, generator=torch.Generator().manual_seed(seed))


def test_outputs_stay_until_the_schedule_starts():
    network = tiny().eval()
    before = network(images())
    binarize(network, BinarizationSettings())
    assert all(torch.equal(a, b) for a, b in zip(network(images()), before))
    activate_all(network)
    assert not any(torch.allclose(a, b) for a, b in zip(network(images()), before))


def test_first_last_and_depthwise_keep_their_precision():
    network = tiny()
    report = binarize(network, BinarizationSettings())
    assert set(report.kept) == {'backbone.stem.conv', 'head.predict.0', 'head.predict.1', 'head.predict.2'}
    binary = {n for n, m in network.named_modules() if isinstance(m, BinaryConv2d)}
    convolutions = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert binary == set(report.binary) == convolutions - set(report.kept)
    with torch.device('meta'):
        darknet, mobile, deep_mobile = (
            cls(3, ((8, 8),)) for cls in (DarkNet19YoloV2, MobileNetV1YoloV2, MobileNetV1YoloV2))
    assert len(binarize(darknet, BinarizationSettings()).kept) == 2
    kept = binarize(mobile, BinarizationSettings()).kept
    assert len(kept) == 2 + 13
    assert all('depthwise' in n for n in kept if n not in ('stem.conv', 'head.predict'))
    assert len(binarize(deep_mobile, BinarizationSettings(depthwise=True)).kept) == 2


def test_keep_and_eight_bits():
    network = tiny()
    report = binarize(network, BinarizationSettings(keep=('neck.lateral.0.conv',), kept_bits=8))
    assert 'neck.lateral.0.conv' in report.kept
    assert isinstance(network.neck.lateral[0].conv, RoundedConv2d)
    assert isinstance(network.head.predict[0], RoundedConv2d) and network.head.predict[0].bias is not None


def test_any_network_is_binarised_but_for_its_ends():
    network = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(8)))
    report = binarize(network, BinarizationSettings())
    assert report.kept == ('0', '7')
    assert report.stages == {'early': ('1', '2'), 'middle': ('3', '4'), 'deep': ('5', '6')}


def test_refusals():
    network = tiny()
    with pytest.raises(TrainingError, match="'nothing' is no convolution of PlainDetector"):
        binarize(network, BinarizationSettings(keep=('nothing',)))
    binarize(network, BinarizationSettings())
    with pytest.raises(TrainingError, match='binarised already'):
        binarize(network, BinarizationSettings())
    with pytest.raises(ValueError, match='standardise'):
        BinarizationSettings(estimator='annealed')
    with pytest.raises(ValueError, match='stages.deep'):
        StageSettings(deep=1.5)
    with pytest.raises(ValueError, match='freeze'):
        FreezeSettings(first=0.01, last=0.02)


def active(network, report):
    return {stage for stage, names in report.stages.items()
            if all(network.get_submodule(n).binary for n in names)}


def test_deep_layers_turn_binary_first():
    network = tiny()
    settings = BinarizationSettings(stages=StageSettings(0.2, 0.5, 0.8))
    report = binarize(network, settings)
    schedule = BinarizationSchedule(network, settings, 10)
    seen = []
    for step in range(10):
        schedule.before_step(step)
        seen.append(active(network, report))
        for stage in ('deep', 'middle', 'early'):
            if stage not in seen[-1]:
                assert not any(network.get_submodule(n).binary for n in report.stages[stage])
    assert seen == [set()] * 2 + [{'deep'}] * 3 + [{'deep', 'middle'}] * 3 + [{'deep', 'middle', 'early'}] * 2
    # A run that starts late (resumed without a checkpoint of the flags) stands where it should.
    late = tiny()
    late_report = binarize(late, settings)
    BinarizationSchedule(late, settings, 10).before_step(6)
    assert active(late, late_report) == {'deep', 'middle'}


def test_a_stage_that_never_comes_is_finished():
    network = tiny()
    settings = BinarizationSettings(stages=StageSettings(1, 1, 1))
    report = binarize(network, settings)
    schedule = BinarizationSchedule(network, settings, 4)
    schedule.before_step(3)
    assert active(network, report) == set()
    schedule.finish()
    assert active(network, report) == {'deep', 'middle', 'early'}


def test_temperature_grows_from_the_stages_start_to_the_end():
    network = tiny()
    settings = BinarizationSettings(standardise=True, estimator='annealed', stages=StageSettings(0, 0.5, 0.5))
    report = binarize(network, settings)
    schedule = BinarizationSchedule(network, settings, 11)
    deep = network.get_submodule(report.stages['deep'][0])
    early = network.get_submodule(report.stages['early'][0])
    temperatures = []
    for step in range(11):
        schedule.before_step(step)
        temperatures.append((float(deep.temperature), float(early.temperature)))
    assert temperatures[0][0] == pytest.approx(0.1) and temperatures[5][0] == pytest.approx(1.0)
    assert temperatures[10] == (pytest.approx(10.0), pytest.approx(10.0))
    assert temperatures[6][1] == pytest.approx(0.1) and temperatures[8][1] == pytest.approx(1.0)


def run_steps(network, settings, optimiser, steps, total):
    """Learn to give the maps of another network, for the given range of steps of a run of `total`."""
    schedule = BinarizationSchedule(network, settings, total)
    torch.manual_seed(5)
    other = PlainDetector(2, 0.25).train().requires_grad_(False)
    network.train()
    losses = []
    for step in steps:
        schedule.before_step(step)
        batch = images(2, step % 2)
        wanted, found = other.forward_features(batch), network.forward_features(batch)
        loss = sum((found[name] - wanted[name]).square().mean() for name in ('p3', 'p4', 'p5'))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.after_step(step)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize('settings', [
    BinarizationSettings(stages=StageSettings(0, 0, 0)),
    BinarizationSettings(standardise=True, estimator='annealed', scale='learned', centre=False, clamp=False,
                         stages=StageSettings(0, 0, 0), kept_bits=8, freeze=FreezeSettings(0.3, 0.1, 0.1)),
])
def test_binary_weights_learn(settings):
    network = tiny()
    binarize(network, settings)
    # Only the latent weights move: whatever is learnt is learnt by flipping signs.
    optimiser = torch.optim.Adam(latent_parameters(network), 1e-2)
    losses = run_steps(network, settings, optimiser, range(40), 40)
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    for weight in latent_parameters(network):
        assert weight.isfinite().all()
        if settings.clamp:
            assert weight.abs().max() <= 1
        if settings.centre:
            assert weight.mean(dim=1).abs().max() < 1e-3  # clamping follows centring


def test_a_resumed_run_ends_with_the_same_weights():
    settings = BinarizationSettings(standardise=True, scale='learned', freeze=FreezeSettings(0.2, 0.05, 0.2))

    def new():
        network = tiny()
        binarize(network, settings)
        return network, torch.optim.Adam(network.parameters(), 2e-3)

    whole, optimiser = new()
    run_steps(whole, settings, optimiser, range(12), 12)
    first, optimiser = new()
    run_steps(first, settings, optimiser, range(6), 12)
    second, restored = new()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    restored.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    run_steps(second, settings, restored, range(6, 12), 12)
    assert any(layer.frozen.any() for layer in whole.modules() if isinstance(layer, BinaryConv2d))
    for (name, a), b in zip(whole.state_dict().items(), second.state_dict().values()):
        assert torch.equal(a, b), name


def test_batch_norm_statistics_are_the_average_of_the_batches():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    batches = [images(2, seed) + seed for seed in range(3)]
    with torch.no_grad():
        means = torch.stack([network[0](batch).mean(dim=(0, 2, 3)) for batch in batches])
        variances = torch.stack([network[0](batch).var(dim=(0, 2, 3)) for batch in batches])
    momentum = network[1].momentum
    assert reestimate_batch_norm(network, batches) == 3
    assert torch.allclose(network[1].running_mean, means.mean(0), atol=1e-5)
    assert torch.allclose(network[1].running_var, variances.mean(0), rtol=1e-4)
    assert network[1].momentum == momentum and all(module.training for module in network)
    kept = network[1].running_mean.clone()
    assert reestimate_batch_norm(network, []) == 0
    assert torch.equal(network[1].running_mean, kept)


def test_the_average_turns_binary_with_the_network():
    """Its scale is that of its own weights at once, not what an average of ones comes down to."""
    torch.manual_seed(0)
    network = PlainDetector(1, 0.25)
    settings = BinarizationSettings(scale='learned', stages=StageSettings(deep=0.5, middle=0.5, early=0.5))
    binarize(network, settings)
    average = copy.deepcopy(network).requires_grad_(False)
    schedule = BinarizationSchedule(network, settings, 4)
    for step in range(4):
        schedule.before_step(step)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        MovingAverage(average, network).follow(0.001)
        scales = [(slow.learned_scale, fast.learned_scale)
                  for slow, fast in zip(average.modules(), network.modules())
                  if isinstance(fast, BinaryConv2d)]
        if step < 2:
            assert all((slow > 0.9).all() for slow, _ in scales)
        else:
            assert all((slow < 0.5).all() and torch.allclose(slow, fast, atol=0.1) for slow, fast in scales)
    layer = next(m for m in average.modules() if isinstance(m, BinaryConv2d))
    assert bool(layer.binary)
