# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The parts of fallback_node."""
