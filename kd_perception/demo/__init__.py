# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The hybrid on real footage, as real processes, and what it leaves."""
