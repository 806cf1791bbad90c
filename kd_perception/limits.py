# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Bounds on sizes that files and messages claim."""

# Enough for any camera in use (8192 x 8192); a larger claim is a corrupt or hostile message.
MAX_IMAGE_PIXELS = 1 << 26
# A compressed image that is larger than its raw form is not an image.
MAX_COMPRESSED_BYTES = MAX_IMAGE_PIXELS * 3
