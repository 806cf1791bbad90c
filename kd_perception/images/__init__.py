# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Images: from a message or file to pixels, and what the pixels say about the scene."""
