# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Labelled images, what a loss is told about them, and where they come from."""
