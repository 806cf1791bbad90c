# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""How a process of this package ends: what its exit code says."""

EXIT_OK = 0
EXIT_CHECK_FAILED = 1       # a check that the command makes has failed
EXIT_BAD_INPUT = 2          # wrong usage or input, explained by one line on stderr
