# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Knowledge transfer: nothing to learn from a twin, gradients to the student alone, masks and schedules."""

import math

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception.config import from_mapping
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.training.distillation.distiller import Distiller, distiller_for, feature_channels
from kd_perception.training.distillation.losses import (
    channel_loss,
    l2_loss,
    localisation_loss,
    logit_loss,
    pearson_loss,
    position_weights,
)
from kd_perception.training.networks.head_views import HeadView
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.networks.plain_detector import PlainDetector
from kd_perception.training.settings.distillation import (
    DistillationSettings,
    LocalisationSettings,
    LogitSettings,
    PyramidSettings,
    RegionSettings,
    TermSchedule,
)

HW = (64, 96)
BOXES = [torch.tensor([[8.0, 8.0, 40.0, 48.0], [60.0, 10.0, 90.0, 60.0]]), torch.zeros(0, 4)]
EVERYTHING = DistillationSettings(
    logits=LogitSettings(1.0), localisation=LocalisationSettings(1.0, least_score=0.0),
    pyramid=PyramidSettings(1.0), regions=RegionSettings(1.0, least_difference=0.001))


def plain(seed, width=0.25, **options):
    torch.manual_seed(seed)
    return PlainDetector(3, width, **options).eval()


def images(seed=0):
    return torch.randn(2, 3, *HW, generator=torch.Generator().manual_seed(seed))


def run(distiller, student, teacher, progress=0.5, boxes=BOXES):
    with torch.no_grad():
        taught = teacher.forward_features(images())
    return distiller(student.forward_features(images()), taught, boxes, HW, progress)


def test_a_twin_teaches_nothing():
    student = plain(0)
    terms = run(distiller_for(EVERYTHING, student, student), student, student)
    assert set(terms) == {'logits', 'localisation', 'pyramid', 'regions'}
    for name, value in terms.items():
        assert float(value.detach()) == pytest.approx(0, abs=1e-6), name
    # Quality focal loss and Kullback-Leibler alike have their least value there.
    kl = DistillationSettings(logits=LogitSettings(1.0, 'kl'), pyramid=PyramidSettings(1.0, method='channel'))
    for value in run(distiller_for(kl, student, student), student, student).values():
        assert float(value.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('teacher', [plain(1), plain(1, 0.5), PicoDet(3).eval()],
                         ids=['same', 'wider', 'picodet'])
def test_gradient_reaches_the_student_alone(teacher):
    student = plain(0)
    distiller = distiller_for(EVERYTHING, student, teacher)
    wider = feature_channels(student)['p3'] != feature_channels(teacher)['p3']
    assert len(list(distiller.parameters())) == (6 if wider else 0)  # weight and bias of three adapters
    taught = teacher.forward_features(images())  # with its graph: nothing may flow back
    terms = distiller(student.forward_features(images()), taught, BOXES, HW, 0.5)
    for name, value in terms.items():
        assert math.isfinite(float(value.detach())) and float(value.detach()) > 0, name
    sum(terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is not None for p in distiller.parameters())


@pytest.mark.parametrize('term', ['logits', 'localisation', 'pyramid', 'regions'])
def test_every_term_pulls_towards_the_teacher(term):
    """A few steps on one term alone bring that term down."""
    student, teacher = plain(0).train(), plain(1)
    chosen = {'logits': LogitSettings(1.0), 'localisation': LocalisationSettings(1.0, least_score=0.0),
              'pyramid': PyramidSettings(1.0), 'regions': RegionSettings(1.0, disagreements=0)}[term]
    distiller = distiller_for(DistillationSettings(**{term: chosen}), student, teacher)
    optimiser = torch.optim.Adam([*student.parameters(), *distiller.parameters()], 5e-3)
    values = []
    for _ in range(12):
        terms = run(distiller, student, teacher)
        assert set(terms) == {term}
        optimiser.zero_grad()
        terms[term].backward()
        optimiser.step()
        values.append(float(terms[term].detach()))
    assert values[-1] < 0.8 * values[0]


def test_terms_can_be_off():
    student, teacher = plain(0), plain(1)
    assert run(distiller_for(DistillationSettings(), student, teacher), student, teacher) == {}
    late = DistillationSettings(logits=LogitSettings(2.0, schedule=TermSchedule(0.5, 0.2)))
    distiller = distiller_for(late, student, teacher)
    found = [float(run(distiller, student, teacher, p)['logits'].detach()) for p in (0.4, 0.6, 0.7, 1.0)]
    assert found[0] == 0 and found[1] == pytest.approx(found[2] / 2) and found[2] == found[3] > 0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_schedules_stay_between_0_and_1(start, ramp, progress):
    schedule = TermSchedule(start, ramp)
    assert 0 <= schedule.factor(progress) <= 1
    assert schedule.factor(progress) <= schedule.factor(min(1.0, progress + 0.1))
    assert TermSchedule(0, 0, 0.5).factor(0.5) == 0 and TermSchedule(0, 0, 0.5).factor(0.49) == 1


def test_pyramid_starts_with_the_shallow_maps():
    student, teacher = plain(0), plain(1)

    def value(progress, **changes):
        chosen = PyramidSettings(1.0, stagger=0.2, schedule=TermSchedule(0.3), **changes)
        distiller = distiller_for(DistillationSettings(pyramid=chosen), student, teacher)
        return float(run(distiller, student, teacher, progress)['pyramid'].detach())

    first = value(0.4, pairs=(('p3', 'p3'),))
    assert value(0.2) == 0
    assert value(0.4) == pytest.approx(first / 3)
    assert value(0.4) < value(0.6) < value(0.8)


def test_normalised_losses_ignore_scale_and_offset():
    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 5, 6, 7)
    assert float(pearson_loss(a, 3 * a + 2)) == pytest.approx(0, abs=1e-5)
    assert float(pearson_loss(a, -a)) == pytest.approx(2, rel=1e-4)
    r = torch.stack([torch.corrcoef(torch.stack([a[:, c].flatten(), b[:, c].flatten()]))[0, 1]
                     for c in range(5)])
    assert float(pearson_loss(a, b)) == pytest.approx(float(1 - r.mean()), rel=1e-3)
    assert float(channel_loss(a, a + 5, 1.0)) == pytest.approx(0, abs=1e-6)
    assert float(l2_loss(a, a + 2)) == pytest.approx(4, rel=1e-5)
    # CWD by hand: KL over the 42 positions of each channel.
    p, q = b.flatten(2).div(4).softmax(-1), a.flatten(2).div(4).softmax(-1)
    assert float(channel_loss(a, b, 4.0)) == pytest.approx(float(
        16 * (p * (p / q).log()).sum(-1).mean()), rel=1e-4)


def test_foreground_outweighs_what_lies_outside():
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[0, 1, 2:4] = True
    weights = position_weights(mask, 0.8)
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[mask].sum()) == pytest.approx(0.8)
    a = torch.randn(1, 3, 4, 5)
    b = a.clone()
    b[:, :, 0, 0] += 1  # outside
    inside_only = position_weights(mask, 1.0)
    assert float(l2_loss(a, b, inside_only)) == 0 and float(l2_loss(a, b, weights)) > 0
    empty = position_weights(torch.zeros(1, 4, 5, dtype=torch.bool), 0.8)
    assert float(empty.sum()) == pytest.approx(0.2)


def test_foreground_changes_the_pyramid():
    student, teacher = plain(0), plain(1)

    def value(foreground, boxes):
        chosen = PyramidSettings(1.0, foreground=foreground, foreground_score=1.0)
        distiller = distiller_for(DistillationSettings(pyramid=chosen), student, teacher)
        return float(run(distiller, student, teacher, boxes=boxes)['pyramid'].detach())

    moved = [BOXES[1], BOXES[0]]
    assert value(None, BOXES) == value(None, moved)
    assert value(0.5, BOXES) != pytest.approx(value(0.5, moved), rel=1e-3)


def view(scores, boxes, distributions=None):
    logits = torch.tensor(scores).logit()[None, :, None]
    return HeadView(logits, torch.tensor(boxes)[None], distributions)


def test_localisation_weighs_by_the_teachers_score():
    torch.manual_seed(0)
    boxes = [[0.0, 0.0, 1.0, 1.0]] * 3
    taught, own = torch.randn(1, 3, 4, 8), torch.randn(1, 3, 4, 8)
    teacher = view([0.9, 0.3, 0.01], boxes, taught)
    settings_ = LocalisationSettings(1.0, temperature=2.0, least_score=0.05)
    each = []
    for place in range(3):
        mixed = taught.clone()
        mixed[:, place] = own[:, place]
        each.append(float(localisation_loss(view([0.5] * 3, boxes, mixed), teacher, settings_)))
    assert each[2] == 0  # below the least score
    p, q = (taught[0] / 2).softmax(-1), (own[0] / 2).softmax(-1)
    kl = (p * (p / q).log()).sum(-1).mean(-1)
    assert each[:2] == pytest.approx([float(4 * kl[0] * 0.9 / 1.2), float(4 * kl[1] * 0.3 / 1.2)], rel=1e-4)


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4), st.sampled_from(['qfl', 'kl']))
def test_logit_loss_is_least_at_the_teachers_scores(scores, method):
    boxes = [[0.0, 0.0, 1.0, 1.0]] * 4
    teacher, chosen = view([0.2, 0.5, 0.8, 0.05], boxes), LogitSettings(1.0, method)
    assert float(logit_loss(view(scores, boxes), teacher, chosen)) >= -1e-6
    assert float(logit_loss(teacher, teacher, chosen)) == pytest.approx(0, abs=1e-6)


def test_teacher_at_twice_the_size():
    """Grids that match are compared, whatever their strides: level_16 at twice the input is level_8."""
    student, teacher = plain(0), plain(1)
    pairs = (('level_8', 'level_16'), ('level_16', 'level_32'))
    maps = (('p3', 'p4'), ('p4', 'p5'))
    chosen = DistillationSettings(pairs, LogitSettings(1.0), LocalisationSettings(1.0, least_score=0),
                                  PyramidSettings(1.0, maps), RegionSettings(1.0, maps))
    distiller = distiller_for(chosen, student, teacher)
    with torch.no_grad():
        taught = teacher.forward_features(torch.nn.functional.interpolate(images(), scale_factor=2.0))
    terms = distiller(student.forward_features(images()), taught, BOXES, HW, 0.5)
    assert all(float(value.detach()) > 0 for value in terms.values()) and len(terms) == 4
    # Boxes are shares of the image: both heads speak of the same places.
    a = distiller.student_reader(student.forward_features(images()))
    b = distiller.teacher_reader(taught)
    centres = [(v.boxes[..., :2] + v.boxes[..., 2:]) / 2 for v in (a, b)]
    assert (centres[0] - centres[1]).abs().mean() < 0.2


def test_refusals():
    student, teacher = plain(0), plain(1, reg_max=15)
    with pytest.raises(TrainingError, match="the student has no map 'x'; it has c3"):
        distiller_for(DistillationSettings(pyramid=PyramidSettings(1.0, (('x', 'p3'),))), student, teacher)
    with pytest.raises(TrainingError, match='different reg_max'):
        run(distiller_for(EVERYTHING, student, teacher), student, teacher)
    four = PicoDet(4).eval()
    with pytest.raises(TrainingError, match='the heads do not match'):
        run(distiller_for(EVERYTHING, student, four), student, four)
    with pytest.raises(TrainingError, match="reader of the student's head"):
        Distiller(EVERYTHING, feature_channels(student), feature_channels(student))
    with pytest.raises(TrainingError, match='Linear: its head is not known'):
        distiller_for(EVERYTHING, torch.nn.Linear(1, 1), student)
    with pytest.raises(ValueError, match='foreground does not go with'):
        PyramidSettings(1.0, method='channel', foreground=0.5)
    with pytest.raises(ConfigError, match='c.yaml.logits: expected weight'):
        from_mapping(DistillationSettings, {'logits': {'weight': -1}}, 'c.yaml')
    loaded = from_mapping(DistillationSettings, {'pyramid': {'weight': 1, 'pairs': [['c3', 'c4']]}}, 'c.yaml')
    assert loaded.pyramid.pairs == (('c3', 'c4'),)
