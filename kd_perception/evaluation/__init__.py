# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Evaluation protocols and reports; knows neither ROS nor torch."""
