# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The manifest pins files, and cannot be made to point elsewhere."""

import hashlib

import pytest

from kd_perception.errors import ConfigError, ModelError
from kd_perception.models.manifest import load_manifest, pinned_sha256, resolve_model, write_entry
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec

SPEC = ModelSpec('m', ('Car',), InputSpec(32, 64), DecoderSpec('boxes_scores'), licence='X',
                 documents={'metrics': {'car': 1.5}})


def test_write_then_read(tmp_path):
    (tmp_path / 'a.onnx').write_bytes(b'one')
    (tmp_path / 'b.onnx').write_bytes(b'two')
    write_entry(tmp_path, 'teacher', 'a.onnx', SPEC)
    write_entry(tmp_path, 'student', 'b.onnx', SPEC)
    manifest = load_manifest(tmp_path)
    assert list(manifest.models) == ['teacher', 'student']
    assert manifest.models['teacher'].input_hw == (32, 64)
    assert manifest.models['teacher'].metrics == {'car': 1.5}
    assert pinned_sha256(tmp_path / 'b.onnx') == hashlib.sha256(b'two').hexdigest()
    assert pinned_sha256(tmp_path / 'c.onnx') is None
    assert resolve_model('student', tmp_path) == tmp_path / 'b.onnx'
    assert not list(tmp_path.glob('*.tmp'))


def test_no_manifest_pins_nothing(tmp_path):
    assert pinned_sha256(tmp_path / 'a.onnx') is None


@pytest.mark.parametrize('entry,message', [
    ('{file: ../a.onnx, sha256: %s, size_bytes: 1}' % ('a' * 64), 'plain file name'),
    ('{file: /a.onnx, sha256: %s, size_bytes: 1}' % ('a' * 64), 'plain file name'),
    ('{file: a.onnx, sha256: abc, size_bytes: 1}', '64 lower-case'),
    ('{file: a.onnx, size_bytes: 1}', 'models.t.sha256: is missing'),
])
def test_bad_entry(tmp_path, entry, message):
    (tmp_path / 'manifest.yaml').write_text(f'format_version: 1\nmodels:\n  t: {entry}\n')
    with pytest.raises(ConfigError, match=message):
        load_manifest(tmp_path)
    # A manifest that cannot be read must not turn the check off.
    with pytest.raises(ModelError):
        pinned_sha256(tmp_path / 'a.onnx')


def test_resolve(tmp_path):
    (tmp_path / 'manifest.yaml').write_text('models: {}\n')
    assert str(resolve_model('x/y', tmp_path)) == 'x/y'
    assert str(resolve_model('y.onnx', tmp_path)) == 'y.onnx'
    with pytest.raises(ModelError, match="'nobody' is no model of .*known: none"):
        resolve_model('nobody', tmp_path)
    with pytest.raises(ModelError, match='no model given'):
        resolve_model('', tmp_path)
