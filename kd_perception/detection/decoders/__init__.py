# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Decoders: from the outputs of a family of detectors to candidate boxes, before NMS."""
