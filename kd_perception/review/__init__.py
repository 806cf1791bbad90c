# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Hard frames at the desk: a page, an editor of labels, training data."""
