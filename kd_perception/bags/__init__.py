# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Recordings: read and written without a ROS installation."""
