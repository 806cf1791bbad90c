# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Knowledge transfer from a teacher: outputs, regions, feature maps."""
