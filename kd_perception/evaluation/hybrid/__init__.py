# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the teacher buys: gates against one another on frames that both models have seen."""
