# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One thread a test: the networks here are so small that more threads only wait for one another."""

try:
    import torch
except ImportError:  # the tests skip
    torch = None

if torch is not None:
    torch.set_num_threads(1)
