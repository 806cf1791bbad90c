# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""One thread a test: the networks here are so small that more threads only wait for one another."""

import pytest

try:
    import torch
except ImportError:  # the tests skip
    torch = None


@pytest.fixture(autouse=True)
def one_thread():
    """Undo what a configuration that was trained before has set for the whole process."""
    if torch is not None:
        torch.set_num_threads(1)


if torch is not None:
    # While modules are imported, and for fixtures of a wider scope.
    torch.set_num_threads(1)
