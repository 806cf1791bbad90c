# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The example of docs/how-to/attach_detector.md, run as it stands."""

from pathlib import Path
import re

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from kd_perception.cli.main import main
from kd_perception.errors import TrainingError
from kd_perception.training.binary.layers import BinaryConv2d
from kd_perception.training.distillation.distiller import Distiller, feature_channels
from kd_perception.training.settings.distillation import (
    DistillationSettings,
    LocalisationSettings,
    LogitSettings,
    RegionSettings,
)

PAGE = Path(__file__).parents[2] / 'docs' / 'how-to' / 'attach_detector.md'
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.S)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """The names that the page's code defines, and the folder that it ran in."""
    assert len(BLOCKS) == 3
    folder = tmp_path_factory.mktemp('page')
    torch.manual_seed(0)
    names = {'__name__': 'attach_detector'}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile('\n'.join(BLOCKS), str(PAGE), 'exec'), names)
    return names, folder


def test_the_example_trains_and_exports(page, capsys):
    names, folder = page
    assert set(names['terms']) == {'logits', 'pyramid', 'regions'}
    assert all(torch.isfinite(value) for value in names['terms'].values())
    assert len(list(names['distiller'].parameters())) == 4  # two pairs of other widths
    layers = [m for m in names['student'].modules() if isinstance(m, BinaryConv2d)]
    assert len(layers) == 3 and all(layer.binary for layer in layers)
    path = folder / 'tiny_ssd.onnx'
    assert main(['model', 'verify', str(path)]) == 0
    assert main(['model', 'info', str(path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r'stage8\.conv +Conv +32x16x3x3 +1 ', text)
    assert re.search(r'heads\.m16 +Conv +16x64x3x3 +32 ', text)


def test_the_exported_file_detects_what_torch_does(page):
    names, _ = page
    image = np.random.default_rng(0).integers(0, 256, (64, 192, 3), dtype=np.uint8)
    found = names['detector'].detect(image, 0.01).detections
    assert len(found) > 0 and set(found.class_ids.tolist()) <= {0, 1, 2}


def test_ssd_scores_are_the_softmaxes(page):
    names, _ = page
    torch.manual_seed(1)
    network = names['TinySSD'](3).eval()
    with torch.no_grad():
        named = network.forward_features(torch.randn(1, 3, 64, 192))
        view = names['ssd_reader'](3)(named)
    raw = named['raw_m8'].reshape(2, 8, 8, 24)
    expected = raw[1, :4, 5, 7].softmax(0)[1:]
    place = 8 * 24 + 5 * 24 + 7  # the second anchor, row 5, column 7
    assert torch.allclose(view.logits[0, place].sigmoid(), expected, atol=1e-6)
    # Places: two anchors on 8x24 cells, two on 4x12.
    assert view.boxes.shape == (1, 2 * 192 + 2 * 48, 4)


def test_gradient_reaches_the_student_alone_with_an_ssd_head(page):
    names, _ = page
    torch.manual_seed(2)
    student, teacher = names['TinySSD'](3), names['TinySSD'](3).eval()
    pairs = (('m8', 'm8'), ('m16', 'm16'))
    chosen = DistillationSettings(logits=LogitSettings(1.0, 'kl'),
                                  regions=RegionSettings(1.0, pairs, least_difference=0.001))
    reader = names['ssd_reader'](3)
    channels = feature_channels(student)
    distiller = Distiller(chosen, channels, channels, reader, reader)
    images = torch.randn(2, 3, 64, 192)
    boxes = [torch.tensor([[10.0, 5.0, 60.0, 50.0]]), torch.zeros(0, 4)]
    twin = distiller(teacher.forward_features(images), teacher.forward_features(images), boxes, (64, 192), 0)
    assert all(float(value.detach()) == pytest.approx(0, abs=1e-5) for value in twin.values())
    terms = distiller(student.forward_features(images), teacher.forward_features(images), boxes, (64, 192), 0)
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    chosen = DistillationSettings(localisation=LocalisationSettings(1.0))
    with pytest.raises(TrainingError, match='no box distributions'):
        Distiller(chosen, channels, channels, reader, reader)(
            student.forward_features(images), teacher.forward_features(images), boxes, (64, 192), 0)
