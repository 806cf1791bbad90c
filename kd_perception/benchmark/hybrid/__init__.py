# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Whether the fallback keeps its promises, under load and under faults."""
