# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What is told of a measurement: report.json, pages, plots, comparisons, verdicts."""
