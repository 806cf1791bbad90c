# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Drift: do frames and detections still look like those of the reference?"""
