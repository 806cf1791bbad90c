# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""ROS 2 nodes: the thin shell around the pure core."""
