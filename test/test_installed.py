# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What is absent is skipped; what is installed and broken fails."""

import pytest

from installed import require


def test_only_what_is_absent_is_skipped(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'a_broken_launch.py').write_text('import what_it_needs_and_lacks\n')
    require('json', reason='is part of Python')
    with pytest.raises(pytest.skip.Exception, match='no_such_package: not on PyPI'):
        require('json', 'no_such_package', reason='not on PyPI')
    with pytest.raises(ModuleNotFoundError, match='what_it_needs_and_lacks'):
        require('a_broken_launch', reason='not on PyPI')
