# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Few bits: binary weights and integer activations while a network trains."""
