# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Binary and 8-bit weights: definition, edge values, properties and gradients."""

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd_perception.training.binary.layers import BinaryConv2d, RoundedConv2d, sign


class _Sign(torch.autograd.Function):
    """Sign forward; backward the derivative of the chosen stand-in."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, estimator: str, temperature: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, temperature)
        ctx.estimator = estimator
        return sign(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        x, temperature = ctx.saved_tensors
        if ctx.estimator == 'clipped':
            gradient = gradient * (x.abs() <= 1)
        elif ctx.estimator == 'annealed':
            gain = torch.clamp_min(1 / temperature, 1.0)
            gradient = gradient * gain * temperature * (1 - torch.tanh(temperature * x).square())
        return gradient, None, None


def estimated_sign(x: torch.Tensor, estimator='clipped', temperature=1.0):
    """Return `sign(x)` with the gradient of a stand-in, as binary_layers describes it, on its own."""
    return _Sign.apply(x, estimator, torch.as_tensor(temperature, dtype=x.dtype, device=x.device))


def layer(inputs=3, outputs=4, kernel=3, seed=0, active=True, **options):
    torch.manual_seed(seed)
    made = BinaryConv2d.adopt(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), **options)
    if active:
        made.activate()
    return made


def test_sign_edges():
    values = torch.tensor([-2.0, -1e-45, -0.0, 0.0, 1e-45, 3.0])
    assert sign(values).tolist() == [-1, -1, 1, 1, 1, 1]
    assert estimated_sign(values).tolist() == [-1, -1, 1, 1, 1, 1]


def test_zero_filter_is_plus_zero_and_nan_is_seen():
    made = layer()
    with torch.no_grad():
        made.weight[0] = 0
        made.weight[1, 0, 0, 0] = float('nan')
    assert (made.codes()[0] == 1).all() and (made.effective_weight()[0] == 0).all()
    assert made.effective_weight()[1].isnan().all()
    assert made.effective_weight()[2:].isfinite().all()


@pytest.mark.parametrize('standardise', [False, True])
def test_constant_filters_have_a_finite_gradient(standardise):
    made = layer(standardise=standardise)
    with torch.no_grad():
        made.weight[0], made.weight[1] = 0, 0.3
    made(torch.randn(1, 3, 5, 5)).square().sum().backward()
    assert made.weight.grad.isfinite().all() and made.weight.grad[2:].abs().sum() > 0
    assert (made.codes()[:2] == 1).all()


def test_float_until_activated():
    made = layer(active=False)
    x = torch.randn(1, 3, 5, 5)
    float_layer = nn.Conv2d(3, 4, 3, padding=1)
    float_layer.weight, float_layer.bias = made.weight, made.bias
    assert torch.equal(made(x), float_layer(x))
    made.activate()
    assert not torch.allclose(made(x), float_layer(x))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 2, 5]), st.sampled_from([1, 3]), st.booleans())
def test_weight_is_codes_times_scale(seed, inputs, kernel, standardise):
    made = layer(inputs, 4, kernel, seed, standardise=standardise and inputs * kernel > 1)
    codes, scale = made.codes(), made.code_scale()
    assert codes.dtype == torch.int8 and set(codes.unique().tolist()) <= {-1, 1}
    assert (scale >= 0).all()
    assert torch.equal(made.effective_weight(), codes.float() * scale.view(-1, 1, 1, 1))
    assert made.effective_weight()[0].abs().unique().numel() <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.2, 3.0))
def test_no_other_scale_or_signs_fit_better(seed, factor):
    """alpha = mean |W| and sign W minimise ||W - alpha B||^2 (XNOR-Net, equations 3 to 6)."""
    made = layer(seed=seed)
    best = (made.weight - made.effective_weight()).square().sum(dim=(1, 2, 3))
    other = (made.weight - factor * made.effective_weight()).square().sum(dim=(1, 2, 3))
    assert (best <= other + 1e-6).all()
    flipped = made.codes().float()
    flipped[:, 0, 0, 0] *= -1
    flipped *= made.code_scale().view(-1, 1, 1, 1)
    assert (best <= (made.weight - flipped).square().sum(dim=(1, 2, 3)) + 1e-6).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.01, 100.0))
def test_scaling_the_latents_scales_the_weights(seed, factor):
    made = layer(seed=seed)
    before = made.effective_weight().detach().clone()
    with torch.no_grad():
        made.weight *= factor
    assert torch.allclose(made.effective_weight(), before * factor, rtol=1e-4)


def test_standardised_filters_are_balanced():
    made = layer(16, 8, 3, standardise=True)
    with torch.no_grad():
        made.weight += 0.5  # all positive: plain signs would carry nothing
    share = (made.codes() > 0).float().mean(dim=(1, 2, 3))
    assert ((share > 0.35) & (share < 0.65)).all()
    assert torch.allclose(made.code_scale(), (
        made.weight - made.weight.mean(dim=(1, 2, 3), keepdim=True)).abs().mean(dim=(1, 2, 3)))


STAND_INS = {
    'identity': lambda x, t: x,
    'clipped': lambda x, t: x.clamp(-1, 1),
    'annealed': lambda x, t: max(1 / t, 1) * torch.tanh(t * x),
}


@pytest.mark.parametrize('temperature', [0.1, 1.0, 10.0])
@pytest.mark.parametrize('estimator', list(STAND_INS))
def test_gradient_is_the_stand_ins(estimator, temperature):
    x = torch.linspace(-2.25, 2.25, 45, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(45, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: STAND_INS[estimator](v, temperature), (x,))
    (expected,) = torch.autograd.grad((STAND_INS[estimator](x, temperature) * seed).sum(), x)
    (found,) = torch.autograd.grad((estimated_sign(x, estimator, temperature) * seed).sum(), x)
    assert torch.allclose(found, expected)


def composed_weight(made, stand_in=None):
    """Write the module's description down as torch operations; `stand_in` replaces the sign."""
    centred = made.weight
    if made.standardise:
        centred = centred - centred.mean(dim=(1, 2, 3), keepdim=True)
    argument = centred
    if made.standardise:
        argument = centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
    signs = (estimated_sign(argument, made.estimator, made.temperature) if stand_in is None
             else stand_in(argument, float(made.temperature)))
    if made.track_flips:  # `where` cuts the gradient: a frozen weight does not drift through its sign
        signs = torch.where(made.frozen, sign(made.mean_sign), signs)
    scale = centred.abs().mean(dim=(1, 2, 3)) if made.learned_scale is None else made.learned_scale.abs()
    return scale.view(-1, 1, 1, 1) * signs


@pytest.mark.parametrize('standardise', [False, True])
@pytest.mark.parametrize('learned_scale', [False, True])
@pytest.mark.parametrize('estimator', list(STAND_INS))
@pytest.mark.parametrize('temperature', [0.1, 3.0])
def test_weight_and_gradient_are_those_of_the_composed_operations(estimator, learned_scale, standardise,
                                                                  temperature):
    made = layer(5, 4, 3, estimator=estimator, learned_scale=learned_scale, standardise=standardise,
                 track_flips=True).double()
    made.temperature.fill_(temperature)
    with torch.no_grad():
        made.weight *= 4  # some beyond the clip
        made.weight[1] = 0.5  # a constant filter: its deviation is 0
        made.weight[2, 0, 0, 0] = 0.0
        made.frozen[3, :2] = True
        if learned_scale:
            made.learned_scale[0] *= -1
    upstream = torch.randn_like(made.weight)
    found = made.effective_weight()
    expected = composed_weight(made)
    assert torch.equal(found, expected)
    parameters = [value for name, value in made.named_parameters() if name != 'bias']
    for a, b in zip(torch.autograd.grad((found * upstream).sum(), parameters),
                    torch.autograd.grad((expected * upstream).sum(), parameters)):
        assert a.abs().max() > 0 and torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_gradient_of_the_weight_is_the_papers():
    """Scale and signs both pass gradient: XNOR-Net's backward, with n = weights of a filter."""
    made = layer().double()
    with torch.no_grad():
        made.weight *= 8  # some beyond the clip
    upstream = torch.randn_like(made.weight)
    (made.effective_weight() * upstream).sum().backward()
    weight, signs = made.weight.detach(), sign(made.weight.detach())
    alpha = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
    inside = (weight.abs() <= 1)
    assert not inside.all()
    expected = alpha * upstream * inside + signs * (upstream * signs).mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(made.weight.grad, expected)


@pytest.mark.parametrize('options', [
    {}, {'standardise': True}, {'standardise': True, 'estimator': 'annealed'}, {'learned_scale': True}])
def test_gradient_against_differences_of_the_surrogate(options, monkeypatch):
    """With sign replaced by its stand-in the whole layer passes a numeric gradient check."""
    monkeypatch.setattr(BinaryConv2d, 'effective_weight',
                        lambda self: composed_weight(self, STAND_INS[self.estimator]))
    made = layer(2, 2, 2, **options).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    names = [name for name, _ in made.named_parameters()]

    def run(*values):
        return torch.func.functional_call(made, dict(zip(names, values)), (x,))

    values = [value.detach().clone().requires_grad_(True) for value in made.parameters()]
    assert torch.autograd.gradcheck(run, values)


def test_learned_scale_starts_at_the_mean_and_learns():
    made = layer(learned_scale=True)
    assert torch.allclose(made.learned_scale, made.weight.abs().mean(dim=(1, 2, 3)))
    made(torch.randn(1, 3, 5, 5)).square().sum().backward()
    assert made.learned_scale.grad.abs().min() > 0
    with torch.no_grad():
        made.learned_scale.neg_()
    assert (made.code_scale() > 0).all()


def test_projection():
    made = layer(5)
    with torch.no_grad():
        made.weight *= 20
    made.project(centre=True, clamp=False)
    assert made.weight.mean(dim=1).abs().max() < 1e-6 and made.weight.abs().max() > 1
    made.project(centre=False, clamp=True)
    assert made.weight.abs().max() <= 1
    before = made.weight.clone()
    made.project(centre=False, clamp=False)
    assert torch.equal(made.weight, before)
    single = layer(1)
    made_before = single.weight.clone()
    single.project(centre=True, clamp=False)  # centring would erase a depthwise filter
    assert torch.equal(single.weight, made_before)


def test_oscillating_weights_freeze_and_others_do_not():
    made = layer(2, 1, 1, track_flips=True)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([0.5, 0.5]).view(1, 2, 1, 1))
    made.binary.fill_(False)
    made.activate()
    for step in range(60):
        with torch.no_grad():
            # The first weight is negative one step out of three; the second moves and stays.
            made.weight[0, 0] = -0.5 if step % 3 == 0 else 0.5
            made.weight[0, 1] = -0.5 if step > 5 else 0.5
        made.freeze_oscillating(0.2, 0.1)
    assert made.frozen.flatten().tolist() == [True, False]
    with torch.no_grad():
        made.weight[0, 0] = -0.5
    # Frozen at the sign it had most of the time, with no gradient through the sign.
    assert made.codes().flatten().tolist() == [1, -1]
    # The scale is half of |W1| + |W2|: its gradient remains.
    gradient = torch.autograd.grad(made.effective_weight().sum(), made.weight)[0]
    assert gradient.flatten().tolist() == [0, 0.5]


def test_state_survives_a_checkpoint():
    made = layer(track_flips=True, learned_scale=True)
    made.frozen[0, 0] = True
    made.mean_sign[0, 0] = -made.mean_sign[0, 0]
    other = layer(seed=9, active=False, track_flips=True, learned_scale=True)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.effective_weight(), made.effective_weight())


def test_eight_bits():
    torch.manual_seed(0)
    made = RoundedConv2d.adopt(nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        made.weight[1] = 0
    codes, scale = made.codes(), made.code_scale()
    assert codes.dtype == torch.int8 and codes[0].abs().max() == 127 and (codes[1] == 0).all()
    weight = made.effective_weight()
    assert torch.allclose(weight, codes.float() * scale.view(-1, 1, 1, 1), atol=1e-7)
    assert ((weight - made.weight).abs() <= 0.5001 * scale.view(-1, 1, 1, 1)).all()
    weight.sum().backward()
    assert (made.weight.grad == 1).all()
