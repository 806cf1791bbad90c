# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Where a benchmark's report goes: printed, and kept as STEM.json, STEM.md and STEM.png."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import json
from pathlib import Path
from typing import Any

from kd_perception.files import write_whole
from kd_perception.output_folder import OutputFolder


def report_place(out: Path | None, stem: str) -> contextlib.AbstractContextManager[OutputFolder | None]:
    """Return the folder of a benchmark's report, to be entered before it begins; of None, nothing."""
    if out is None:
        return contextlib.nullcontext()
    names = [f'{stem}.{suffix}' for suffix in ('json', 'md', 'png')]
    return OutputFolder(out, 'kd_perception benchmark',
                        lambda: [name for name in names if (out / name).exists()])


def publish_report(report: dict[str, Any], text: str, out: OutputFolder | None, stem: str,
                   draw: Callable[[Path], None] | None = None) -> None:
    """
    Print a benchmark's text and, where there is a folder, replace STEM.md, STEM.png and STEM.json there.

    :param draw: writes the picture; None: there is none.
    """
    print(text, end='')
    if out is not None:
        out.make_room(overwrite=True, alone=False)
        write_whole(out.new(f'{stem}.md'), text)
        if draw is not None:
            draw(out.new(f'{stem}.png'))
        write_whole(out.new(f'{stem}.json'), json.dumps(report, indent=2) + '\n')
