# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""ROS messages without ROS: their types, how they are built, their serialised form."""
