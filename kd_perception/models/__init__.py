# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The model file: its facts, the manifest that pins it, a store of versions."""
