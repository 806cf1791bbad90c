# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Skip what needs a package that is absent; a package that is there and broken is a failure, no skip."""

import importlib
import importlib.util

import pytest


def require(*packages, reason):
    """
    Skip the calling test file unless all packages are installed.

    :raises ImportError: one is installed and does not import. `pytest.importorskip` would skip then, too.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package}: {reason}', allow_module_level=True)
        importlib.import_module(package)
