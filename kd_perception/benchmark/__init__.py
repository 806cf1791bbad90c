# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What the nodes and the models cost, measured on this computer."""
