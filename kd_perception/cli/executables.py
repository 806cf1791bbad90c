# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
The commands as executables: `executables:check_labels` runs `check-labels`.

Loading this module loads no command, so that Ctrl-C while its packages are imported is one line too.
"""

from collections.abc import Callable
import functools

from kd_perception.processes.interrupts import end_at_once

end_at_once()

from kd_perception.cli.main import COMMANDS, module_name, process_main  # noqa: E402


def __getattr__(name: str) -> Callable[[], int]:
    for command in COMMANDS:
        if module_name(command) == name:
            return functools.partial(process_main, command)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
