# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Binary-weight object detection for ROS 2, with a full-precision teacher as fallback."""

__version__ = '0.1.0'
