# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Free of ROS: which frames are ambiguous, who answers them, and by when."""
