# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How soon drift monitors see a change, and how often they cry wolf."""
