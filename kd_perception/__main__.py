# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`python -m kd_perception COMMAND`."""

import sys

from kd_perception.processes.interrupts import end_at_once

if __name__ == '__main__':
    end_at_once()
    from kd_perception.cli.main import process_main
    sys.exit(process_main())
