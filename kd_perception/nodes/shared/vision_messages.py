# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The one door to `vision_msgs`: where it is missing or older than 4, a node ends with one line and code 2.

Version 4 (ROS 2 Humble and later) brought LabelInfo, and ``bbox.center.position.x`` for ``bbox.center.x``.
"""

from __future__ import annotations

import os
import sys

__all__ = ('Detection2D', 'Detection2DArray', 'LabelInfo', 'ObjectHypothesisWithPose', 'VisionClass')


def _refuse(reason: str) -> None:
    place = sys.modules.get('vision_msgs')
    folder = os.path.dirname(getattr(place, '__file__', None) or '')
    print(f'kd_perception: error: vision_msgs {f"in {folder} " if folder else ""}{reason}; the nodes need '
          'version 4 or later', file=sys.stderr)
    sys.exit(2)


try:
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        LabelInfo,
        ObjectHypothesisWithPose,
        VisionClass,
    )
except ModuleNotFoundError as error:
    if (error.name or '').partition('.')[0] != 'vision_msgs':
        raise
    _refuse('is not installed')
except ImportError as error:
    if error.name != 'vision_msgs.msg':
        raise
    _refuse(f'is older than 4 ({error.msg.partition(" (")[0]})')
else:
    if not hasattr(Detection2D().bbox.center, 'position'):
        _refuse('is older than 4 (bbox.center.x in place of bbox.center.position.x)')
