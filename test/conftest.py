# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What all tests share: how Hypothesis searches."""

import os

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
