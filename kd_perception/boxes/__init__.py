# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Arrays of boxes and detections: overlap, suppression, fusion."""
