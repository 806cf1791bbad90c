# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Metadata of ONNX files against the onnx package, and of OpenVINO IR, which runs with OpenVINO."""

from pathlib import Path
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ModelError
from kd_perception.models.file_metadata import ir_metadata, ir_root, onnx_metadata, with_ir_metadata

NET = b"""<?xml version="1.0"?>
<net name="n" version="11"><layers><layer id="0" name="x" type="Parameter"/></layers><edges/>
<rt_info><conversion_parameters><model_name value="made"/></conversion_parameters></rt_info></net>"""
BOXES = np.array([[10, 10, 40, 50, .9], [60, 20, 80, 60, .8], [0, 0, 0, 0, 0]], np.float32)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=300), max_size=5))
def test_onnx_metadata_agree_with_the_package(entries):
    onnx = pytest.importorskip('onnx')
    model = onnx.ModelProto(ir_version=9, producer_name='p', model_version=2 ** 40)
    onnx.helper.set_model_props(model, entries)
    assert onnx_metadata(model.SerializeToString()) == entries


@given(st.binary(max_size=200))
def test_other_bytes_hold_none(content):
    assert isinstance(onnx_metadata(content), dict)


@given(st.dictionaries(st.sampled_from(['kd_perception.spec', 'kd_perception.metrics']),
                       st.text(st.characters(min_codepoint=32, exclude_categories=['Cs', 'Cc'])), max_size=2))
def test_metadata_of_an_ir_come_back(entries):
    xml = with_ir_metadata(ir_root(NET, Path('n.xml')), entries)
    again = with_ir_metadata(ir_root(xml, Path('n.xml')), entries)
    assert ir_metadata(ir_root(again, Path('n.xml'))) == {
        'conversion_parameters/model_name': 'made', **entries}


@pytest.mark.parametrize('xml, message', [
    (b'<html></html>', 'expected <net>'), (b'<net', 'is not an OpenVINO IR'),
    (b'<!DOCTYPE net [<!ENTITY a "aaaa">]><net><layers/></net>', 'declares XML entities')])
def test_other_xml_is_refused(xml, message):
    with pytest.raises(ModelError, match=f'n.xml: .*{message}'):
        ir_root(xml, Path('n.xml'))


@pytest.fixture
def ir(tmp_path):
    """An IR with the outputs of Intel's person-vehicle-bike detectors, whatever it sees."""
    openvino = pytest.importorskip('openvino', reason='OpenVINO is not installed (the extra openvino)')
    from openvino import opset8 as ops
    image = ops.parameter([1, 3, 64, 96], np.float32, name='image')
    nothing = ops.multiply(ops.reduce_mean(image, [0, 1, 2, 3]), np.float32(0))
    boxes = ops.add(ops.constant(BOXES), nothing)
    labels = ops.add(ops.constant(np.array([0, 1, 0])), ops.convert(nothing, 'i64'))
    boxes.output(0).get_tensor().set_names({'boxes'})
    labels.output(0).get_tensor().set_names({'labels'})
    model = openvino.Model([boxes, labels], [image], 'made')
    path = tmp_path / 'person-vehicle-bike-detection-2003.xml'
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


def test_an_ir_is_attached_verified_and_run_at_another_size(ir, tmp_path, capsys):
    out = tmp_path / 'out' / 'described.xml'
    assert main(['model', 'attach', str(ir), '--out', str(out), '--size', '192x64']) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ['described.bin', 'described.xml']
    assert main(['model', 'verify', str(out)]) == 0
    detector = OnnxDetector.named(str(out))
    assert detector.provider == 'OpenVINO' and detector.spec.input.hw == (64, 192)
    found = detector.detect(np.zeros((64, 384, 3), np.uint8)).detections
    assert [detector.spec.labels[i] for i in found.class_ids] == ['Car', 'Pedestrian']
    assert np.allclose(found.boxes_xyxy, BOXES[:2, :4] * [2, 1, 2, 1])      # pressed to half its width


def test_weights_of_an_ir_are_pinned(ir, tmp_path):
    out = tmp_path / 'described.xml'
    assert main(['model', 'attach', str(ir), '--out', str(out)]) == 0
    weights = bytearray(out.with_suffix('.bin').read_bytes())
    weights[0] ^= 1
    out.with_suffix('.bin').write_bytes(weights)
    with pytest.raises(ModelError, match='described.bin: sha256 is'):
        OnnxDetector.load(out)
    out.with_suffix('.bin').unlink()
    with pytest.raises(ModelError, match='described.bin: no such model file'):
        OnnxDetector.load(out)


def test_openvino_reports_to_nobody(ir):
    script = ('import sys; from pathlib import Path; from kd_perception.cli.main import main; '
              f'main(["model", "attach", {str(ir)!r}, "--out", {str(ir.parent / "d.xml")!r}]); '
              'print(sys.modules["openvino_telemetry"])')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == 'None', done.stderr


def test_an_ir_without_metadata_says_what_to_do(ir):
    with pytest.raises(ModelError, match='holds no metadata'):
        OnnxDetector.load(ir)
