# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The teacher's maps through onnxruntime are those that torch computes."""

import dataclasses

import pytest

torch = pytest.importorskip('torch', reason='the training toolkit needs torch')
pytest.importorskip('onnx', reason='the teacher is exported')
pytest.importorskip('onnxruntime', reason='the exported teacher is run')

from kd_perception.training.distillation.frozen_teacher import FrozenTeacher, taught_maps
from kd_perception.training.networks.picodet import PicoDet
from kd_perception.training.settings.distillation import (
    DistillationSettings,
    LogitSettings,
    PyramidSettings,
    RegionSettings,
)


def test_maps_are_those_of_torch_at_each_size():
    network = PicoDet(3).eval()
    names = ('level_8', 'p3', 'c5')
    teacher = FrozenTeacher(network, names)
    for shape in ((2, 3, 64, 96), (1, 3, 96, 64), (2, 3, 64, 96)):
        images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        found = teacher(images)
        assert tuple(found) == names
        with torch.no_grad():
            expected = network.forward_features(images)
        for name in names:
            assert not found[name].requires_grad
            assert torch.allclose(found[name], expected[name], atol=1e-4)


def test_only_what_the_terms_need():
    off = DistillationSettings()
    assert taught_maps(off) == ()
    assert FrozenTeacher(PicoDet(3), ())(torch.zeros(1, 3, 64, 64)) == {}
    logits = dataclasses.replace(off, logits=LogitSettings(weight=1.0))
    assert taught_maps(logits) == ('level_8', 'level_16', 'level_32')
    pairs = (('a', 'p3'), ('b', 'p4'))
    pyramid = dataclasses.replace(off, pyramid=PyramidSettings(weight=1.0, pairs=pairs))
    assert taught_maps(pyramid) == ('p3', 'p4')
    both = dataclasses.replace(pyramid, regions=RegionSettings(weight=1.0, pairs=pairs[:1]))
    assert taught_maps(both) == ('level_8', 'level_16', 'level_32', 'p3', 'p4')
