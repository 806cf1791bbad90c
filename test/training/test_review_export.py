# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What `review` exports of recorded hard frames is a set that training reads."""


import pytest

pytest.importorskip('torch', reason='needs torch')

from hard_frames import hard_frame
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import main
from kd_perception.training.data.datasets import load_dataset
from kd_perception.training.settings.run import DatasetSettings


def test_training_reads_the_export(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        for i in range(3):
            frame = hard_frame(i, 'front', teacher=[(1, .9, (45, 10, 70, 50))])
            for topic, kind, raw in frame.messages():
                bag.write_raw(topic, kind, raw, frame.stamp_ns)
    assert main(['review', '--input', str(tmp_path / 'bag'), '--out', str(tmp_path / 'out'), '--quiet',
                 '--export-kitti', str(tmp_path / 'data' / 'site')]) == 0
    training, _ = load_dataset(tmp_path / 'data', DatasetSettings(
        folder='site', labelled=('Car', 'Pedestrian'), width_px=(80, 80)))
    assert len(training) == 3 and training[0].read().shape == (60, 80, 3)
