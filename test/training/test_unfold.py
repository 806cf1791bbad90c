# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A model file alone is enough to train on: the unfolded network computes what the file computes."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')
pytest.importorskip('onnx', reason='export needs onnx')
pytest.importorskip('onnxruntime', reason='the exported file is run')

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
import onnx
from onnx import numpy_helper
from torch import nn

from kd_perception.config import load_config
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import TrainingError
from kd_perception.models.spec import InputSpec, ModelSpec
from kd_perception.training.binary.binarization import activate_all, BinarizationSchedule
from kd_perception.training.binary.layers import BinaryConv2d, CodedConv2d
from kd_perception.training.data.rendered import render_scene
from kd_perception.training.export.half_scales import fit_half_scales
from kd_perception.training.export.model_file import write_model
from kd_perception.training.export.unfold import (
    calibrate,
    LATENT_SIZE,
    latent_weights,
    rendered_images,
    unfold,
)
from kd_perception.training.loop.network_builder import build_network
from kd_perception.training.loop.trainer import Trainer
from kd_perception.training.loop.weights import initial_network
from kd_perception.training.networks.preprocess import FromCamera
from kd_perception.training.settings.binarization import BinarizationSettings, FreezeSettings, StageSettings
from kd_perception.training.settings.network import NetworkSettings
from kd_perception.training.settings.run import InitSettings, TrainingSettings

CONFIGS = Path(__file__).resolve().parents[2] / 'config' / 'training'
LABELS = ('Car', 'Pedestrian')
# Every kind of layer: stride 64 that predicts nothing, one prediction for all levels.
NETWORK = NetworkSettings('plain', channels=(8, 8, 16, 16, 24, 32), blocks=(0, 1, 1, 1, 1), neck=16, levels=3,
                          shared_prediction=True)
AT_ONCE = StageSettings(0, 0, 0)
STUDENT = BinarizationSettings(standardise=True, estimator='annealed', scale='learned', kept_bits=8,
                               stages=AT_ONCE, freeze=FreezeSettings())
PLAIN = BinarizationSettings(stages=AT_ONCE)


def scene(seed=5):
    """Return the middle of a rendered scene, (1, 128, 192, 3) uint8 BGR."""
    return np.ascontiguousarray(render_scene(np.random.default_rng(seed))[0][None, 64:, 96:288])


def trained(binarization, seed=1, network=NETWORK, active=True):
    """Return a network as training might leave it: centred weights, statistics of scenes, any gains."""
    torch.manual_seed(seed)
    made = build_network(network, len(LABELS), binarization)
    if active:
        activate_all(made)
    for layer in made.modules():
        if isinstance(layer, BinaryConv2d):
            layer.project(centre=True, clamp=True)
    with torch.no_grad():
        made.train()
        images = rendered_images(2, seed=8)[..., 64:, 96:288]
        for _ in range(10):
            made(images)
        for norm in (m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.weight[0] *= -1
            norm.bias.normal_(0, 0.3)
        made.head.predict[0].weight.normal_(0, 0.1)
    return made.eval()


def write(network, path, **options):
    if options.get('half'):
        fit_half_scales(network)
    spec = ModelSpec('small', LABELS, InputSpec(128, 192), network.decoder_spec())
    return write_model(network, spec, path, **options)


def fresh(binarization, network=NETWORK):
    torch.manual_seed(99)
    return build_network(network, len(LABELS), binarization)


def difference(network, detector, image):
    """Return the largest difference to the file, and the typical one as a share of the outputs' deviation."""
    training = network.training
    with torch.no_grad():
        made = FromCamera(network).eval()(torch.from_numpy(image))
    network.train(training)
    stored = np.concatenate([a.ravel() for a in detector.session.run(None, {'images': image})])
    errors = np.abs(stored - np.concatenate([level.numpy().ravel() for level in made]))
    assert stored.std() > 0.5
    return float(errors.max()), float(np.sqrt(np.mean(errors**2)) / stored.std())


def codes_of(network):
    return {n: m.codes() for n, m in network.named_modules() if isinstance(m, CodedConv2d)}


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp('packed') / 'student.onnx'
    write(trained(STUDENT), path, half=True)
    return path


@pytest.mark.parametrize('half, kept_bits, standardise, scale', [  # each pair of choices occurs
    (False, 8, False, 'mean'), (True, 8, True, 'mean'), (True, 32, False, 'learned'),
    (False, 32, True, 'learned')])
def test_the_unfolded_network_computes_what_the_file_computes(half, kept_bits, standardise, scale, tmp_path):
    binarization = dataclasses.replace(PLAIN, standardise=standardise, scale=scale, kept_bits=kept_bits)
    source = trained(binarization)
    detector = write(source, tmp_path / 'packed.onnx', half=half)
    network = fresh(binarization)
    unfold(network, tmp_path / 'packed.onnx', LABELS)
    assert network.training
    assert not any(m.binary for m in network.modules() if isinstance(m, BinaryConv2d))
    activate_all(network)
    assert difference(network, detector, scene())[0] < 1e-4
    # In training mode the calibration images give the same.
    images = rendered_images(8)
    with torch.no_grad():
        evaluates, trains = network.eval()(images), network.train()(images)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(trains, evaluates))
    # The same signs, and scales of the same sign: nothing is turned round.
    for name, codes in codes_of(source).items():
        assert torch.equal(codes_of(network)[name], codes), name
    gains = [[block.norm.weight.sign() for block in made.modules()
              if isinstance(getattr(block, 'conv', None), BinaryConv2d)] for made in (source, network)]
    assert len(gains[0]) > 10 and all(torch.equal(a, b) for a, b in zip(*gains))


def test_a_schedule_that_starts_binary_keeps_signs_and_function(packed):
    detector, network = OnnxDetector.load(packed), fresh(STUDENT)
    unfold(network, packed, LABELS)
    schedule = BinarizationSchedule(network, STUDENT, 10)
    schedule.before_step(0)
    before = codes_of(network)
    for step in range(3):  # centring, clamping and freezing find nothing to change
        schedule.after_step(step)
    assert all(torch.equal(codes, before[name]) for name, codes in codes_of(network).items())
    assert difference(network, detector, scene())[0] < 1e-4
    sizes = [m.code_scale() for m in network.modules() if isinstance(m, BinaryConv2d)]
    assert max(float(size.max()) for size in sizes) == pytest.approx(LATENT_SIZE, rel=1e-4)


@pytest.mark.parametrize('source, target', [
    (STUDENT, STUDENT),  # the twin of a binary file still holds its signs
    (STUDENT, None),
    (None, None)])
def test_float_twins_and_float_networks(source, target, tmp_path):
    detector = write(trained(source), tmp_path / 'twin.onnx', packed=False)
    network = fresh(target)
    unfold(network, tmp_path / 'twin.onnx', LABELS)
    activate_all(network)
    assert difference(network, detector, scene())[0] < 1e-4


def test_a_float_network_may_become_binary(tmp_path):
    detector = write(trained(None), tmp_path / 'float.onnx')
    network = fresh(PLAIN)
    unfold(network, tmp_path / 'float.onnx', LABELS)
    assert difference(network, detector, scene())[0] < 1e-4
    rounded = fresh(dataclasses.replace(PLAIN, kept_bits=8))  # float weights, rounded at once
    unfold(rounded, tmp_path / 'float.onnx', LABELS)
    assert 1e-4 < difference(rounded, detector, scene())[1] < 0.1


def test_calibration_changes_training_mode_alone(packed):
    network = fresh(STUDENT)
    unfold(network, packed, LABELS)
    activate_all(network)
    site = 0.3 * rendered_images(4, seed=3) + 1.0  # a darker camera, say
    with torch.no_grad():
        before = network.eval()(site)
        strayed = copy.deepcopy(network).train()(site)  # training mode moves the statistics
        calibrate(network, site)
        after, trains = network.eval()(site), network.train()(site)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(before, after))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(trains, after))
    assert max(float((a - b).abs().max()) for a, b in zip(strayed, after)) > 0.1


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.sampled_from([1, 3]), st.floats(0.03, 0.97),
       st.booleans())
def test_latent_weights_have_the_signs_under_every_setting(seed, inputs, kernel, share, standardise):
    random = np.random.default_rng(seed)
    codes = np.where(random.random((4, inputs, kernel, kernel)) < share, 1.0, -1.0)
    if standardise:
        if inputs * kernel == 1:
            return
        codes[:, 0, 0, 0], codes[:, -1, -1, -1] = 1, -1
    codes = torch.from_numpy(codes).float()
    layer = BinaryConv2d(inputs, 4, kernel, standardise=standardise, learned_scale=True, bias=False)
    layer.weight.data = latent_weights(codes, standardise)
    layer.activate()
    assert torch.equal(layer.codes().float(), codes)
    sizes = layer.weight.abs().mean(dim=(1, 2, 3))
    assert torch.allclose(layer.learned_scale, sizes, rtol=1e-4) and (sizes > 0).all()
    assert sizes.max() <= LATENT_SIZE * 1.0001 and layer.weight.abs().max() <= 1.0001
    if ((codes > 0).any(dim=1) & (codes < 0).any(dim=1)).all():
        layer.project(centre=True, clamp=True)
        assert torch.equal(layer.codes().float(), codes)
        assert torch.allclose(layer.weight.abs().mean(dim=(1, 2, 3)), sizes, rtol=1e-4)


def test_filters_of_one_sign(tmp_path):
    source = trained(PLAIN)
    layer = source.backbone.stages[1][0].conv
    images = rendered_images(2)[..., 64:, 96:288]
    layer.weight.data[2] = layer.weight.data[2].abs() + 0.01
    detector = write(source, tmp_path / 'packed.onnx')
    network = fresh(PLAIN)
    unfold(network, tmp_path / 'packed.onnx', LABELS, images)
    activate_all(network)
    assert difference(network, detector, scene())[0] < 1e-4
    with pytest.raises(TrainingError, match=r'packed.onnx: backbone.stages.1.0.conv: filter 2 has weights of '
                                            'one sign only') as error:
        unfold(fresh(STUDENT), tmp_path / 'packed.onnx', LABELS)
    assert '\n' not in str(error.value)
    source.backbone.stages[1][0].norm.weight.data[2] = 0  # never used: it may have any signs
    detector = write(source, tmp_path / 'dead.onnx')
    network = fresh(STUDENT)
    unfold(network, tmp_path / 'dead.onnx', LABELS, images)
    activate_all(network)
    # The file's first and last layers are float, this network's of 8 bits.
    assert difference(network, detector, scene())[1] < 0.1


@pytest.mark.parametrize('change, message', [
    ({'channels': (8, 8, 16, 16, 32, 32)}, 'has weights of shape'),
    ({'blocks': (0, 1, 1, 1, 2)}, 'only the configured network has a layer backbone.stages.4.2.body.conv'),
    ({'blocks': (0, 1, 1, 1, 0)}, 'only the file has a layer backbone.stages.4.1.body.conv'),
    ({'levels': 4}, 'is of another network: decoder'),
    ({'shortcut': False}, 'its layers fit, but')])
def test_another_architecture_is_refused(packed, change, message):
    network = fresh(STUDENT, dataclasses.replace(NETWORK, **change))
    with pytest.raises(TrainingError, match=message) as error:
        unfold(network, packed, LABELS)
    assert str(error.value).startswith(f'{packed}: ') and '\n' not in str(error.value)


def _cut(content):
    return content[:len(content) // 2]


def _edited(edit):
    def change(content):
        model = onnx.load_model_from_string(content)
        edit(model)
        return model.SerializeToString()
    return change


def _without_precision(model):
    kept = [e for e in model.metadata_props if not e.key.endswith('precision')]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def _not_finite(model):
    for tensor in model.graph.initializer:
        if tensor.name == 'biases':
            values = np.array(numpy_helper.to_array(tensor))
            values[0] = np.inf
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _other_document(model):
    spec = ModelSpec.from_metadata({e.key: e.value for e in model.metadata_props}, 'm')
    first, second = list(spec.documents['precision'].values())[:2]
    first['as'], second['as'] = second['as'], first['as']
    onnx.helper.set_model_props(model, spec.to_metadata())


@pytest.mark.parametrize('change, message', [
    (_cut, 'is not a model that onnxruntime can load'),
    (_edited(_without_precision), 'precision document'),
    (_edited(_not_finite), 'not finite'),
    (_edited(_other_document), 'precision document says')])
def test_a_damaged_file_is_refused(packed, change, message, tmp_path):
    path = tmp_path / 'damaged.onnx'
    path.write_bytes(change(packed.read_bytes()))
    with pytest.raises(TrainingError, match=message) as error:
        unfold(fresh(STUDENT), path, LABELS)
    assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value)


def test_a_missing_file_and_other_labels_are_refused(packed, tmp_path):
    with pytest.raises(TrainingError, match='no such model file'):
        unfold(fresh(STUDENT), tmp_path / 'none.onnx', LABELS)
    with pytest.raises(TrainingError, match=r"student.onnx: knows \['Car', 'Pedestrian'\]"):
        unfold(fresh(STUDENT), packed, ('Car', 'Cyclist'))


def test_a_run_goes_on_from_a_packed_file(tmp_path):
    smoke = load_config(TrainingSettings, CONFIGS / 'student_smoke.yaml')
    binarization = dataclasses.replace(smoke.binarization, stages=AT_ONCE)
    run = dataclasses.replace(smoke, steps=3, batch=2, rendered=6, checkpoint_every=3, validate_every=100,
                              binarization=binarization, distillation=None, init=InitSettings('model'))
    torch.manual_seed(2)
    source = build_network(smoke.network, 3, binarization)
    activate_all(source)
    source.train()(rendered_images(2))
    spec = ModelSpec('student', run.labels, InputSpec(128, 192), source.decoder_spec())
    fit_half_scales(source)
    path = tmp_path / 'student.onnx'
    detector = write_model(source.eval(), spec, path, half=True)
    trainer = Trainer(run, None, tmp_path / 'run', None, start_path=path)
    start = initial_network(run, None, path).state_dict()  # the same for a seed
    state = trainer.network.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in state.items() if '.norm.' not in name)
    # Calibrated on the run's own images: other statistics, the same function.
    name = 'backbone.stem.norm.running_mean'
    assert not torch.equal(state[name], start[name])
    trainer.methods.before_step(0)
    assert difference(trainer.network, detector, scene())[0] < 1e-4
    assert difference(trainer.reference, detector, scene())[0] < 1e-4  # what it was teaches it
    before = trainer.network.head.predict[0].bias.detach().clone()
    trainer.run()
    assert not torch.equal(trainer.network.head.predict[0].bias, before)
    with pytest.raises(TrainingError, match='is of another network'):
        initial_network(run, None, CONFIGS.parents[1] / 'models' / 'teacher.onnx')
