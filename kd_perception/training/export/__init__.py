# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Networks into model files and back: packed weights, integer graphs."""
