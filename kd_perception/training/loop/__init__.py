# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The training loop: what a run needs, its steps, checkpoints and validation."""
