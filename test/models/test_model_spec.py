# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""ModelSpec: round trip through metadata, and refusals that name the key."""

import base64
import dataclasses
import json
import zlib

import pytest

from kd_perception.errors import ModelError
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, SPEC_KEY, ThresholdSpec


def compressed(content):
    return 'zlib+base85:' + base64.b85encode(content).decode()


BOMB = compressed(zlib.compress(b' ' * ((4 << 20) + 1)))
CUT = compressed(zlib.compress(b'{"a": 1}')[:-6])
SPEC = ModelSpec(
    name='tiny', labels=('Car', 'Pedestrian'), input=InputSpec(64, 128),
    decoder=DecoderSpec('gfl', (8, 16), 7),
    thresholds=ThresholdSpec(0.5, 0.1, 0.6, 50), licence='Apache-2.0',
    documents={'metrics': {'ap': 12.5, 'count': 3}, 'provenance': {'seed': 1}, 'gate': {'bias': 0.5}})


def test_round_trip():
    metadata = SPEC.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert ModelSpec.from_metadata(metadata, 'm.onnx') == SPEC


def test_float_input_round_trip():
    spec = dataclasses.replace(SPEC, input=InputSpec(
        64, 128, 'NCHW', 'float32', 'rgb', (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), pad_value=0))
    assert ModelSpec.from_metadata(spec.to_metadata(), 'm.onnx') == spec
    assert spec.input.shape == (1, 3, 64, 128)


def test_anchors_round_trip():
    decoder = DecoderSpec('yolov2', (32,), anchors_px=((10.5, 20.0), (30.0, 5.25)))
    spec = dataclasses.replace(SPEC, decoder=decoder)
    assert ModelSpec.from_metadata(spec.to_metadata(), 'm.onnx') == spec


def change(**changes):
    fields = json.loads(SPEC.to_metadata()[SPEC_KEY])
    for name, value in changes.items():
        head, _, tail = name.partition('__')
        if tail:
            fields[head][tail] = value
        else:
            fields[head] = value
    return {SPEC_KEY: json.dumps(fields)}


@pytest.mark.parametrize('metadata,message', [
    ({}, 'm.onnx: holds no metadata'),
    ({SPEC_KEY: '{'}, 'is not valid JSON'),
    ({SPEC_KEY: '[' * 100000}, 'is not valid JSON'),
    ({SPEC_KEY: '{"a": NaN}'}, 'NaN is not JSON'),
    ({SPEC_KEY: '[]'}, 'expected a mapping'),
    (change(labels=[]), 'labels'),
    (change(labels=['a', 'a']), 'labels must differ'),
    (change(labels=['a', ' ']), 'labels must not be empty'),
    (change(spec_version=2), 'spec_version is 2'),
    (change(colour='bgr'), 'unknown key colour'),
    (change(input__height=0), r'spec.input: height and width'),
    (change(input__height=10**9), r'spec.input: height and width'),
    (change(input__mean=[0, 0, 0]), 'mean and std belong together'),
    (change(input__layout='NCWH'), 'spec.input.layout: expected one of NHWC, NCHW'),
    (change(decoder__type='yolov0'), 'spec.decoder.type: expected one of'),
    (change(decoder__strides=[]), 'strides are given with gfl'),
    (change(decoder__anchors_px=[[8, 8]]), 'anchors_px are given with yolov2'),
    (change(decoder={'type': 'yolov2', 'strides': [32]}), 'anchors_px are given with yolov2'),
    (change(decoder={'type': 'yolov2', 'strides': [16, 32], 'anchors_px': [[8, 8]]}), 'one stride'),
    (change(decoder={'type': 'yolov2', 'strides': [32], 'anchors_px': [[8, 0]]}), 'must be positive'),
    (change(decoder={'type': 'yolov2', 'strides': [32], 'anchors_px': [[8, 8, 8]]}), 'expected 2 items'),
    (change(decoder={'type': 'yolov2', 'strides': [32], 'anchors_px': [[8, 8]] * 101}), 'at most 100'),
    (change(decoder={'type': 'boxes_scores', 'strides': [8]}), 'strides are given only'),
    (change(thresholds__score=1.5), 'score'),
    (change(thresholds__score_low=0.9), 'score_low <= score'),
    (change(documents={}), 'documents have keys of their own'),
    ({**SPEC.to_metadata(), 'kd_perception.metrics': 'x'}, 'kd_perception.metrics: is not valid JSON'),
    ({**SPEC.to_metadata(), 'kd_perception.metrics': 'zlib+base85:\x00'}, 'metrics: cannot be decompressed'),
    ({**SPEC.to_metadata(), 'kd_perception.metrics': 'zlib+base85:c%17D'}, 'metrics: cannot be decompressed'),
    ({**SPEC.to_metadata(), 'kd_perception.metrics': BOMB}, 'metrics: cannot be decompressed .*over 4194304'),
    ({**SPEC.to_metadata(), 'kd_perception.metrics': CUT}, 'metrics: cannot be decompressed .incomplete'),
])
def test_bad_metadata(metadata, message):
    with pytest.raises(ModelError, match=message) as error:
        ModelSpec.from_metadata(metadata, 'm.onnx')
    assert str(error.value).startswith('m.onnx') and '\n' not in str(error.value)


def test_long_documents_are_compressed_and_come_back():
    long = {'list': [{'name': f'layer {i}', 'bits': 1} for i in range(100)], 'text': 'ä'}
    spec = dataclasses.replace(SPEC, documents={'precision': long, 'metrics': {'a': 1}})
    metadata = spec.to_metadata()
    assert metadata['kd_perception.precision'].startswith('zlib+base85:')
    assert len(metadata['kd_perception.precision']) < len(json.dumps(long)) / 3
    assert metadata['kd_perception.metrics'] == '{"a":1}'  # nothing to gain
    assert json.loads(metadata['kd_perception.spec'])['name'] == SPEC.name  # any tool can read it
    assert ModelSpec.from_metadata(metadata, 'm.onnx') == spec
    plain = {**metadata, 'kd_perception.precision': json.dumps(long)}
    assert ModelSpec.from_metadata(plain, 'm.onnx') == spec


def test_unknown_document_is_refused():
    with pytest.raises(ValueError, match='unknown documents'):
        dataclasses.replace(SPEC, documents={'other': {}})
