# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
NanoDet-Plus, a public detector, as a peer in `benchmark models`: its published ncnn files, run by ncnn.

Head and pre-processing are those of the published C++ program (RangiLyu/nanodet, demo_ncnn): channels BGR,
class scores that went through a sigmoid already, distances from the cell's corner at (column, row) * stride.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from kd_perception.detection.onnx_detector import OnnxDetector
from kd_perception.errors import ModelError
from kd_perception.models.spec import DecoderSpec, InputSpec, ModelSpec, ThresholdSpec
from kd_perception.processes.cores import thread_count

_MEAN = (103.53, 116.28, 123.675)
_SCALE = (0.017429, 0.017507, 0.017125)
_STRIDES, _REG_MAX, _CLASSES = (8, 16, 32, 64), 7, 80
# COCO's car, person and bicycle: no rider class, so that the last is a stand-in only.
LABEL_ROWS = {'Car': 2, 'Pedestrian': 0, 'Cyclist': 1}


class NanoDetSession:
    """
    The network in ncnn, with outputs of the decoder `boxes_scores`.

    :param param: path of the .param file, beside which lies the .bin file.
    :raises ModelError: ncnn is not installed, or the files are not that network.
    """

    def __init__(self, param: Path, input_hw: tuple[int, int], threads: int):
        try:
            import ncnn
        except ImportError as error:
            raise ModelError(f'{param}: is run by ncnn, which is not installed: pip install ncnn') from error
        self._ncnn, self._input_hw = ncnn, input_hw
        self._net = ncnn.Net()
        self._net.opt.num_threads = thread_count(threads)
        self._net.opt.use_vulkan_compute = False
        if self._net.load_param(str(param)) or self._net.load_model(str(param.with_suffix('.bin'))):
            raise ModelError(f'{param}: ncnn cannot load it with the .bin file beside it')
        self._corners, self._cells = [], []
        for stride in _STRIDES:
            rows, columns = (-(-side // stride) for side in input_hw)
            y, x = np.mgrid[:rows, :columns]
            self._corners.append(np.stack([x.ravel(), y.ravel()], axis=1) * stride)
            self._cells.append(np.full(rows * columns, stride))
        self._corner, self._stride = np.concatenate(self._corners), np.concatenate(self._cells)

    def run(self, output_names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return boxes (1, N, 4) px and scores (1, N, 3) of the one input (1, H, W, 3) uint8 BGR."""
        del output_names
        (images,) = feeds.values()
        height, width = self._input_hw
        pixels = self._ncnn.Mat.from_pixels(
            np.ascontiguousarray(images[0]), self._ncnn.Mat.PixelType.PIXEL_BGR, width, height)
        pixels.substract_mean_normalize(_MEAN, _SCALE)
        extractor = self._net.create_extractor()
        extractor.input('data', pixels)
        code, output = extractor.extract('output')
        raw = np.array(output)
        if code or raw.shape != (len(self._corner), _CLASSES + 4 * (_REG_MAX + 1)):
            raise ModelError(f'the NanoDet-Plus network gave {raw.shape} instead of one row for each of '
                             f'{len(self._corner)} cells')
        logits = raw[:, _CLASSES:].reshape(-1, 4, _REG_MAX + 1)
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        distances = (weights @ np.arange(_REG_MAX + 1)) / weights.sum(axis=2) * self._stride[:, None]
        boxes = np.concatenate([self._corner - distances[:, :2], self._corner + distances[:, 2:]], axis=1)
        return [boxes[None].astype(np.float32), raw[None][:, :, list(LABEL_ROWS.values())]]


def nanodet(param: Path, input_hw: tuple[int, int], threads: int = 1) -> OnnxDetector:
    """
    Return the peer as a detector.

    :raises ModelError: as `NanoDetSession`, or a file is missing.
    """
    files = [param, param.with_suffix('.bin')]
    for file in files:
        if not file.is_file():
            raise ModelError(f'{file}: no such file; NanoDet-Plus is a .param and a .bin file')
    digest = hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()
    spec = ModelSpec(param.stem, tuple(LABEL_ROWS), InputSpec(*input_hw), DecoderSpec('boxes_scores'),
                     ThresholdSpec(0.4, 0.05, 0.6, 100))
    return OnnxDetector(NanoDetSession(param, input_hw, threads), spec, 'data', digest, param, 'ncnn')
