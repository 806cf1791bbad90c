# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Why no image comes: what the graph says of a topic, in one clause for the operator. Free of ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import difflib

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
# More names than this help nobody.
MAX_NAMES = 3


@dataclasses.dataclass(frozen=True)
class Publisher:
    """
    One publisher of the topic.

    :param reliable, depth: its QoS; depth 0: unknown.
    """

    node: str
    msgtype: str
    reliable: bool
    depth: int = 0


def explain_silence(topic: str, msgtype: str, reliable: bool, publishers: Sequence[Publisher],
                    topics: Mapping[str, Sequence[str]], lost: int = 0) -> str:
    """
    Say why nothing comes on an image topic.

    :param topic: full name. :param msgtype, reliable: as it is subscribed.
    :param topics: {full name: message types} of all topics that somebody publishes.
    :param lost: messages that the middleware knows to have been lost.
    """
    fitting = [publisher for publisher in publishers if publisher.msgtype == msgtype]
    if not publishers:
        return f'nobody publishes {topic}{_instead(topic, msgtype, topics)}'
    if not fitting:
        return f'{topic} is published as {publishers[0].msgtype}, expected {msgtype}'
    matching = [publisher for publisher in fitting if publisher.reliable or not reliable]
    if not matching:
        return f'{fitting[0].node} publishes {topic} best effort: set image_reliability: best_effort'
    who = ', '.join(_described(publisher) for publisher in matching[:MAX_NAMES])
    why = (f'{lost} lost on the way: see Transports in docs/reference/detector_node.md' if lost
           else 'nothing has come')
    return f'{topic} is published by {who}, {why}'


def reception_values(publishers: int, lost: int, mismatches: int) -> tuple[tuple[str, str], ...]:
    """Return the values of a camera's report that say what the graph and the middleware know."""
    return ('publishers', str(publishers)), ('lost', str(lost)), ('qos_mismatches', str(mismatches))


def _described(publisher: Publisher) -> str:
    depth = f', depth {publisher.depth}' if publisher.depth else ''
    return f'{publisher.node} ({"reliable" if publisher.reliable else "best effort"}{depth})'


def _instead(topic: str, msgtype: str, topics: Mapping[str, Sequence[str]]) -> str:
    """Return what there is in its place."""
    compressed, raw = f'{topic}/compressed', topic.removesuffix('/compressed')
    if msgtype == RAW and COMPRESSED in topics.get(compressed, ()):
        return f', but {compressed}: set image_transport: compressed'
    if msgtype == COMPRESSED and raw != topic and RAW in topics.get(raw, ()):
        return f', but {raw}: set image_transport: raw'
    images = [name for name, types in topics.items() if name != topic and {RAW, COMPRESSED} & set(types)
              and not name.endswith('/debug_image') and '/teacher/' not in name]       # the package's own
    if not images:
        return ', and no images on any topic'
    parts = set(topic.split('/')) - {'', 'image_raw', 'compressed'}
    images.sort(key=lambda name: (-len(parts & set(name.split('/'))),
                                  -difflib.SequenceMatcher(None, topic, name).ratio(), name))
    more = f' and {len(images) - MAX_NAMES} more' if len(images) > MAX_NAMES else ''
    return f'; images are on {", ".join(images[:MAX_NAMES])}{more}'
