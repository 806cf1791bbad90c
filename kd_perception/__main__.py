# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""`python -m kd_perception COMMAND`."""

import sys

from kd_perception.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
