# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Recordings: read and written without a ROS installation.

`messages` builds the messages of a recording, `typestore` knows their types: what a script needs that
writes a bag with rosbags.
"""

from kd_perception.messages import build as messages
from kd_perception.messages import typestore

__all__ = ['messages', 'typestore']
