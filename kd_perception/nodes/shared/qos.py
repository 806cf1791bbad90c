# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Quality of service of every topic in the package."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

# Results are small and must not be lost; a reader that is late for ten of them is lost anyway.
RESULTS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)

# Each result is answered, also those that arrive while the system holds the fallback up: at 30 Hz these are
# three seconds' worth.
VERIFIED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)

# Whoever joins late still gets the class map.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Reliable matches both kinds of viewers; depth 1 keeps a slow one from holding images back.
DEBUG_IMAGE = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)

DIAGNOSTICS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)

# All nodes of a system report at about the same moment, once a second.
DIAGNOSTICS_INPUT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)


def image_input(reliable: bool = False, depth: int = 1) -> QoSProfile:
    """
    Subscription to a camera: best effort matches every camera driver, depth 1 never queues.

    :param reliable: match only reliable publishers; a lost image is sent again.
    :param depth: images that DDS keeps while the node is busy; each adds its period to the age.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE)
