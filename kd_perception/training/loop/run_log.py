# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The CSV files of a training run: a row for each of some steps, each step once."""

from __future__ import annotations

from collections.abc import Mapping
import csv
import io
from pathlib import Path

from kd_perception.files import write_whole


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row, under a header if the file is new."""
    new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def forget_later_steps(path: Path, step: int) -> None:
    """
    Remove the rows of a CSV file that an interrupted run wrote after its last checkpoint, at `step`.

    They are written again; in front of a run's first step all rows are another run's. A file that is left
    empty goes.
    """
    if not path.is_file():
        return
    with path.open(newline='', encoding='utf-8') as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if (row.get('step') or '').isdigit() and int(row['step']) <= step]
    if not rows:
        path.unlink()
        return
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, reader.fieldnames, extrasaction='ignore')
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())
