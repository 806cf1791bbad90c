# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Framework-free detection core: image, letterbox, model, decode, NMS."""
