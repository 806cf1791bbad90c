# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Networks; each exposes its feature maps by name through ``forward_features``."""
