# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What all tests share: how they are collected, and how Hypothesis searches."""

import os
from pathlib import Path

import pytest

try:
    from hypothesis import settings
except ImportError:  # its tests skip
    settings = None

if settings is not None:
    # No deadline: a busy machine is not a bug. In CI the examples are the same in every run, so that a change
    # is judged by its own merits; elsewhere each run looks further.
    settings.register_profile('developer', deadline=None)
    settings.register_profile('ci', deadline=None, derandomize=True, print_blob=True)
    settings.load_profile('ci' if os.environ.get('CI') else 'developer')

LAUNCH_TESTS = Path(__file__).resolve().parent / 'launch'


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    """
    Keep launch_testing's plugin away from tests that are none of its own.

    It imports every test file to see whether it is a launch test, at a moment when a file that skips itself
    (`pytest.importorskip`) ends the collection of all files: pytest then runs nothing, and reports success.
    """
    if LAUNCH_TESTS in module_path.parents:
        return None
    return pytest.Module.from_parent(parent, path=module_path)


class SkippedLaunchTests:
    """A launch test that skips itself is collected as an ordinary file instead, which reports the skip."""

    @pytest.hookimpl(hookwrapper=True)
    def pytest_pycollect_makemodule(self, module_path, parent):
        outcome = yield
        if outcome.excinfo is not None and issubclass(outcome.excinfo[0], pytest.skip.Exception):
            outcome.force_result(pytest.Module.from_parent(parent, path=module_path))


def pytest_configure(config):
    config.pluginmanager.register(SkippedLaunchTests(), 'kd_perception_skipped_launch_tests')
