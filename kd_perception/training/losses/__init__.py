# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Losses of detectors, and the assignment of labels to cells."""
