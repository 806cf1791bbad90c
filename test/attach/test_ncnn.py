# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A detector in ncnn's files is attached as ONNX, and computes what each layer is documented to."""

import importlib.util
import re

import numpy as np
import pytest

from kd_perception.cli.main import main
from kd_perception.detection.onnx_detector import OnnxDetector, to_tensor

pytest.importorskip('onnx', reason='the graph is written with onnx')

HEIGHT, WIDTH, CLASSES, BINS = 64, 96, 3, 8
RNG = np.random.default_rng(5)


class Net:
    """Writes the two files; `run` computes the layers by themselves, each from its documentation."""

    def __init__(self):
        self.lines, self.weights, self.steps = [], b'', []

    def layer(self, kind, inputs, outputs, step, **values):
        numbered = ' '.join(f'{key.strip("_").replace("minus", "-")}={value}'
                            for key, value in values.items())
        name = f'{kind}_{len(self.lines)}'
        names = ' '.join((*inputs, *outputs))
        self.lines.append(f'{kind} {name} {len(inputs)} {len(outputs)} {names} {numbered}')
        self.steps.append((inputs, outputs, step))

    def conv(self, source, out, filters, depth, size=1, stride=1, groups=1, half=False, kind=0):
        weights = RNG.normal(0, .5, (filters, depth, size, size)).astype('<f2' if half else '<f4')
        bias = RNG.normal(0, .5, filters).astype('<f4')
        mark = np.array([0x01306B47 if half else 0], '<u4').tobytes()
        self.weights += mark + weights.tobytes() + b'\0' * (-weights.nbytes % 4) + bias.tobytes()
        self.layer('ConvolutionDepthWise' if groups > 1 else 'Convolution', [source], [out],
                   lambda x: convolved(x, weights.astype(float), bias, stride, groups, kind),
                   _0=filters, _1=size, _3=stride, _4=size // 2, _5=1, _6=weights.size, _7=groups, _9=kind,
                   **({'minus23310': '1,0.1'} if kind == 2 else {}))

    def save(self, path):
        blobs = {name for inputs, outputs, _ in self.steps for name in (*inputs, *outputs)}
        path.write_text('\n'.join(['7767517', f'{len(self.lines)} {len(blobs)}', *self.lines, '']))
        path.with_suffix('.bin').write_bytes(self.weights)

    def run(self, image):
        values = {'data': image.astype(float)}
        for inputs, outputs, step in self.steps[1:]:
            results = step(*(values[name] for name in inputs))
            values.update(zip(outputs, results if isinstance(results, tuple) else (results,)))
        return values['output']


def windows(x, size, stride, pad_value):
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)), constant_values=pad_value)
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]


def convolved(x, weights, bias, stride, groups, kind):
    parts = [np.einsum('chwij,ocij->ohw', windows(part, weights.shape[2], stride, 0), own)
             for part, own in zip(np.split(x, groups), np.split(weights, groups))]
    y = np.concatenate(parts) + bias[:, None, None]
    return {0: y, 1: np.maximum(y, 0), 2: np.where(y > 0, y, .1 * y)}[kind]


def shuffled(x):
    return np.stack(np.split(x, 2), axis=1).reshape(x.shape)


def doubled(x):
    """Bilinear, the edges of both maps together, as torch without aligned corners."""
    for axis in (1, 2):
        places = (np.arange(2 * x.shape[axis]) + .5) / 2 - .5
        below = np.floor(places).astype(int)
        share = (places - below).reshape([-1 if i == axis else 1 for i in range(3)])
        low, high = (np.take(x, np.clip(below + step, 0, x.shape[axis] - 1), axis) for step in (0, 1))
        x = low * (1 - share) + high * share
    return x


def small_nanodet():
    """Two levels with the layers of NanoDet-Plus: strides 8 and 16, three classes."""
    net, rest = Net(), -233
    net.layer('Input', [], ['data'], None)
    net.conv('data', 'a', 8, 3, 3, 2, half=True, kind=2)
    net.layer('Pooling', ['a'], ['b'], lambda x: windows(x, 3, 2, -np.inf).max((3, 4)),
              _0=0, _1=3, _2=2, _3=1, _5=1)
    net.layer('Split', ['b'], ['b0', 'b1'], lambda x: (x, x))
    net.conv('b0', 'c', 8, 1, 3, 2, groups=8, kind=1)
    net.conv('b1', 'd', 8, 8, 1, 2, kind=2)
    net.layer('Concat', ['c', 'd'], ['e'], lambda x, y: np.concatenate([x, y]))
    net.layer('ShuffleChannel', ['e'], ['f'], shuffled, _0=2)
    net.layer('Split', ['f'], ['f0', 'f1', 'f2'], lambda x: (x, x, x))
    net.layer('Crop', ['f0'], ['g'], lambda x: x[:8], minus23309='1,0', minus23310='1,8', minus23311='1,0')
    net.layer('Crop', ['f1'], ['h'], lambda x: x[8:], minus23309='1,8', minus23310='1,16', minus23311='1,0')
    net.layer('BinaryOp', ['g', 'h'], ['i'], np.add, _0=0)
    net.conv('f2', 'j', 8, 16, 3, 2, half=True, kind=2)
    net.layer('Split', ['j'], ['j0', 'j1'], lambda x: (x, x))
    net.layer('Interp', ['j0'], ['k'], doubled, _0=2, _1='2.0', _2='2.0')
    net.layer('BinaryOp', ['i', 'k'], ['l'], np.add, _0=0)
    values = CLASSES + 4 * BINS
    for source, out in (('l', 'rows8'), ('j1', 'rows16')):
        net.conv(source, f'{out}_raw', values, 8)
        net.layer('Slice', [f'{out}_raw'], [f'{out}_c', f'{out}_d'], lambda x: (x[:CLASSES], x[CLASSES:]),
                  minus23300=f'2,{CLASSES},{rest}')
        net.layer('Sigmoid', [f'{out}_c'], [f'{out}_s'], lambda x: 1 / (1 + np.exp(-x)))
        net.layer('Concat', [f'{out}_s', f'{out}_d'], [f'{out}_all'], lambda x, y: np.concatenate([x, y]))
        net.layer('Reshape', [f'{out}_all'], [out], lambda x: x.reshape(values, -1), _0=-1, _1=values)
    net.layer('Concat', ['rows8', 'rows16'], ['table'], lambda x, y: np.concatenate([x, y], 1), _0=1)
    net.layer('Permute', ['table'], ['output'], np.transpose, _0=1)
    return net


@pytest.fixture
def files(tmp_path):
    net, path = small_nanodet(), tmp_path / 'nanodet.param'
    net.save(path)
    (tmp_path / 'names.txt').write_text('car\nperson\ntram\n')
    return net, path, ['model', 'attach', str(path), '--out', str(tmp_path / 'out.onnx'), '--size',
                       f'{WIDTH}x{HEIGHT}', '--names', str(tmp_path / 'names.txt')]


def test_each_layer_computes_what_it_is_documented_to(files, tmp_path, capsys):
    net, path, command = files
    assert main(command) == 0, capsys.readouterr().err
    detector = OnnxDetector.load(tmp_path / 'out.onnx')
    assert (detector.spec.decoder.type, detector.spec.decoder.strides) == ('gfl', (8, 16))
    image = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    tensor = to_tensor(image, detector.spec.input)[0]
    (output,) = detector.outputs(image)
    assert output.shape == (1, 96 + 24, CLASSES + 4 * BINS)
    np.testing.assert_allclose(output[0], net.run(tensor), atol=1e-4)
    if importlib.util.find_spec('ncnn'):     # the runtime itself, where somebody has it
        import ncnn
        runtime = ncnn.Net()
        runtime.opt.use_fp16_storage = runtime.opt.use_fp16_packed = runtime.opt.use_fp16_arithmetic = False
        assert not runtime.load_param(str(path)) and not runtime.load_model(str(path.with_suffix('.bin')))
        extractor = runtime.create_extractor()
        extractor.input('data', ncnn.Mat(np.ascontiguousarray(tensor)))
        np.testing.assert_allclose(output[0], np.array(extractor.extract('output')[1]), atol=1e-4)


@pytest.mark.parametrize('change, message', [
    (lambda p, b: (p.replace('Sigmoid Sig', 'Swish Sig'), b), r'nanodet.param: layer Sigmoid_\d+ is of '
     r'type Swish, which is not converted; attach an ONNX file'),
    (lambda p, b: (p, b[:-8]), r'nanodet.bin: ends within layer Convolution_'),
    (lambda p, b: (p, b + b'0123'), r'nanodet.bin: 4 bytes are left'),
    (lambda p, b: (p, b'\x38\x4b\x0d\0' + b[4:]), 'weights of kind 0xd4b38, expected float32 or float16'),
    (lambda p, b: (p.replace('7767517', '7767518'), b), 'its first line is not 7767517'),
    (lambda p, b: (p.replace('Pooling_2 1 1', 'Pooling_2 9 9'), b), 'line 5: is no layer of ncnn'),
    (lambda p, b: (p.replace('Concat_6 2 1 c', 'Concat_6 2 1 nobody'), b), 'its input nobody is of no layer'),
])
def test_what_cannot_be_converted_is_named(change, message, files, tmp_path, capsys):
    _, path, command = files
    weights = path.with_suffix('.bin')
    param, content = change(path.read_text(), weights.read_bytes())
    path.write_text(param)
    weights.write_bytes(content)
    assert main(command) == 2 and not (tmp_path / 'out.onnx').exists()
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1

    assert re.search(message, error), error


def test_the_weights_must_lie_beside_the_layers(files, capsys):
    _, path, command = files
    path.with_suffix('.bin').unlink()
    assert main(command) == 2
    assert 'nanodet.bin: no such model file' in capsys.readouterr().err
