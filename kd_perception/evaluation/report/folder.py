# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The folder of an evaluation's report: what one run leaves there is never mixed with another's."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path

from kd_perception.errors import ConfigError, KdPerceptionError
from kd_perception.files import read_text, write_whole
from kd_perception.output_folder import OutputFolder

REPORT_JSON, REPORT_HTML = 'report.json', 'report.html'
# All that evaluate, evaluate hybrid and evaluate drift write: they share names, so each replaces the others'.
_FILES = (REPORT_JSON, REPORT_HTML, 'report.md', 'ap_share.png', 'ap_share_in_time.png', 'risk_coverage.png',
          'delays.png')


def report_folder(out: Path) -> OutputFolder:
    """Return the folder of a report, to be entered before the work begins."""
    return OutputFolder(out, 'kd_perception evaluate', lambda: _earlier_files(out))


def write_report(folder: OutputFolder, files: Mapping[str, str | bytes]) -> None:
    """
    Replace the report of an earlier run; each file is whole or not there.

    :param files: content by name, report.json last, as whoever finds it takes the rest for granted.
    :raises ConfigError: there is a file of another origin. :raises OSError: it cannot be written.
    :raises ValueError: a name that the next run would not know for its own.
    """
    if not set(files) <= set(_FILES):
        raise ValueError(f'expected names out of {_FILES}, got {sorted(files)}')
    folder.make_room(overwrite=True, alone=False)
    for name, content in files.items():
        write_whole(folder.new(name), content)


def _earlier_files(out: Path) -> list[str] | None:
    path = out / REPORT_JSON
    if not path.exists():
        return None
    try:
        ours = json.loads(read_text(path))['command'][0] == 'kd_perception'
    except (KdPerceptionError, ValueError, LookupError, TypeError):
        ours = False
    if not ours:
        raise ConfigError(f'{path}: is no report of an evaluation; choose another --out')
    return [name for name in _FILES if (out / name).exists()]
