# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""From an image to detections: letterbox, model, decoders, committee."""
