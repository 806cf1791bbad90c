# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Camera frames out of folders of images, videos and recordings."""
