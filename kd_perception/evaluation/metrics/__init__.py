# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What is measured: KITTI and COCO average precision, miss rate, calibration, intervals."""
