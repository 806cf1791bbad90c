# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What a command that runs ROS processes needs before and around them."""
