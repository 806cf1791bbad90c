# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The frames that the system was unsure about: recorded within bounds, and read back for review."""
