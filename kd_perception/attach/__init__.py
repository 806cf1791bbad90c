# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""A foreign detector becomes a model of this package: recognise it, describe it, check the description."""
