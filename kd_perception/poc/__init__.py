# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Before and after on the own labelled images of a user, in one page."""
