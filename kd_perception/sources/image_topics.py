# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Which topics of a recording show what a camera sees: depth, masks and drawn images are named instead."""

from __future__ import annotations

import re

from kd_perception.bags.reader import BagReader, BagTopic
from kd_perception.errors import BagError
from kd_perception.messages.typestore import COMPRESSED_IMAGE, IMAGE
from kd_perception.messages.wire import SerializedImage

# REP 118 has depth in 16UC1 (mm) and 32FC1 (m); signed and two-channel ones are disparity or flow.
_DEPTH_ENCODINGS = re.compile(r'(16UC1|16SC1|32SC1|32FC1|64FC1|(8|16|32|64)(U|S|F)C2)$')
# One channel may be depth where the name says so; a depth camera's colour topic is a camera's.
_GREY_ENCODINGS = ('mono8', 'mono16', '8uc1')
_DEPTH_WORDS = {'depth', 'disparity'}
_LABEL_WORDS = {'mask', 'masks', 'segmentation', 'semantic', 'semseg', 'instance', 'instances', 'labels',
                'confidence', 'heatmap', 'normals', 'costmap'}
_DRAWN_WORDS = {'annotated', 'overlay'}
# Types that hold what cameras see in a form that is not read here.
_OTHER_FORMS = {
    'CompressedVideo': 'compressed video', 'FFMPEGPacket': 'compressed video',
    'RawImage': 'an image of Foxglove', 'DisparityImage': 'disparity'}


def not_a_camera(topic: BagTopic, encoding: str) -> str:
    """
    Return why an image topic is no camera, '' if it is one.

    :param encoding: of its first message, or the format of a compressed one (`16UC1; compressedDepth png`).
    """
    name = topic.name.removesuffix('/compressed')
    if name.endswith('/debug_image') or '/teacher/' in name:
        return 'drawn or copied by a detector'
    pixels = encoding.split(';')[0].strip()
    if name.endswith('/compressedDepth') or 'compresseddepth' in encoding.lower() or (
            _DEPTH_ENCODINGS.match(pixels)):
        return f'depth or the like, {pixels or "compressed"}'
    words = set(re.split('[^a-z]+', name.lower()))
    if words & _DEPTH_WORDS and pixels.lower() in _GREY_ENCODINGS:
        return f'named {min(words & _DEPTH_WORDS)}, {pixels}'
    named = words & (_LABEL_WORDS | _DRAWN_WORDS)
    return f'named {min(named)}' if named else ''


def split_topics(bag: BagReader) -> tuple[list[BagTopic], dict[str, str]]:
    """
    Look at the image topics that have messages.

    :return: (the cameras', {topic: why it is none} of the others).
    """
    cameras, others = [], {}
    for topic in bag.topics.values():
        if topic.msgtype in (IMAGE, COMPRESSED_IMAGE):
            if topic.count:
                reason = not_a_camera(topic, _first_encoding(bag, topic))
                if reason:
                    others[topic.name] = reason
                else:
                    cameras.append(topic)
        elif topic.msgtype.rsplit('/', 1)[-1] in _OTHER_FORMS:
            others[topic.name] = f'{_OTHER_FORMS[topic.msgtype.rsplit("/", 1)[-1]]}, {topic.msgtype}'
    return cameras, others


def left_out_line(others: dict[str, str]) -> str:
    """Return the line that names the topics left out."""
    return 'no camera, left out: ' + ', '.join(
        f'{name} ({reason})' for name, reason in sorted(others.items()))


def _first_encoding(bag: BagReader, topic: BagTopic) -> str:
    for record in bag.messages([topic.name]):
        try:
            return SerializedImage.read(record.raw, topic.msgtype == COMPRESSED_IMAGE).encoding
        except BagError:
            continue
    return ''
