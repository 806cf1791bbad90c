# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Why no image comes, in words."""

import pytest

from kd_perception.health.silent_topic import COMPRESSED, explain_silence, Publisher, RAW

TOPIC = '/front/image_raw'
OTHERS = {'/driver/front/image_raw': [RAW], '/rear/image_raw': [RAW], '/left/image_raw': [RAW],
          '/right/debug_image': [RAW], '/front/teacher/image_raw': [RAW], '/lidar/points': ['x/msg/Y'],
          '/zzz': [RAW]}


@pytest.mark.parametrize('publishers,topics,told', [
    ([], {}, f'nobody publishes {TOPIC}, and no images on any topic'),
    ([], {f'{TOPIC}/compressed': [COMPRESSED], **OTHERS},
     f'nobody publishes {TOPIC}, but {TOPIC}/compressed: set image_transport: compressed'),
    ([], OTHERS, f'nobody publishes {TOPIC}; images are on /driver/front/image_raw, /left/image_raw, '
                 '/rear/image_raw and 1 more'),
    ([Publisher('/cam', COMPRESSED, True)], OTHERS, f'{TOPIC} is published as {COMPRESSED}, expected {RAW}'),
    ([Publisher('/cam', RAW, False)], OTHERS,
     f'/cam publishes {TOPIC} best effort: set image_reliability: best_effort'),
    ([Publisher('/cam', RAW, True, 10)], OTHERS,
     f'{TOPIC} is published by /cam (reliable, depth 10), nothing has come'),
])
def test_a_reliable_reader_of_raw_images(publishers, topics, told):
    assert explain_silence(TOPIC, RAW, True, publishers, topics) == told


def test_a_best_effort_reader():
    told = explain_silence(TOPIC, RAW, False, [Publisher('/cam', RAW, False)], {}, lost=7)
    assert told.startswith(f'{TOPIC} is published by /cam (best effort), 7 lost on the way: see Transports')
    told = explain_silence(f'{TOPIC}/compressed', COMPRESSED, False, [], {TOPIC: [RAW]})
    assert told == f'nobody publishes {TOPIC}/compressed, but {TOPIC}: set image_transport: raw'
