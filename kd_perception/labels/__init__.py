# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Labels and detections as files: KITTI text, data sets, checks, merging."""
