# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Progress bars, silent unless stderr is a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def progress(items: Iterable | None = None, *, total: int | None = None, unit: str, quiet: bool = False,
             description: str | None = None) -> Any:
    """
    Return a bar (tqdm): iterate over it where there are `items`, else use `update()` in a `with`.

    :param total: of the items, where it is known and they do not tell it.
    """
    # Here, not at the top: `--help` shows no bar.
    from tqdm import tqdm
    return tqdm(items, total=total, unit=unit, desc=description, disable=True if quiet else None)
