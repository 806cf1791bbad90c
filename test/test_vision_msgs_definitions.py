# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The .msg files that the vision_msgs wheel is built from, judged by rosbags' own implementation of REP-2016.

Two peers of one topic understand each other only if they agree on the type hash, so a field that differs in
name, type or order from the released package would cut us off from every other install.
"""

from pathlib import Path

import pytest
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

from kd_perception.messages.typestore import typestore, VISION_MSGS_DEFINITIONS

MESSAGES = Path(__file__).resolve().parents[1] / 'tools' / 'vision_msgs' / 'msg'
# Of a stock install of ROS 2 Jazzy.
DETECTION_2D_ARRAY = 'RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968'


@pytest.fixture(scope='module')
def store():
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for path in MESSAGES.glob('*.msg'):
        types.update(get_types_from_msg(path.read_text(), f'vision_msgs/msg/{path.stem}'))
    store.register(types)
    return store


def test_hash_is_that_of_a_stock_install(store):
    assert store.hash_rihs01('vision_msgs/msg/Detection2DArray') == DETECTION_2D_ARRAY


@pytest.mark.parametrize('name', VISION_MSGS_DEFINITIONS)
def test_recordings_use_the_same_layout(store, name):
    assert typestore().hash_rihs01(name) == store.hash_rihs01(name)


def test_every_file_states_origin_and_licence():
    files = sorted(MESSAGES.glob('*.msg'))
    assert len(files) == 16
    for path in files:
        first = path.read_text().splitlines()[0]
        assert 'vision_msgs 4.1.1, Apache-2.0' in first and 'ros-perception/vision_msgs' in first
