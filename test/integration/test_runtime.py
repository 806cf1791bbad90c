# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""run_node, the main loop of every node's process."""

import gc

from installed import require

require('vision_msgs', reason='ROS 2 with vision_msgs is not installed')

import rclpy
from rclpy.node import Node

from kd_perception.nodes.shared.runtime import run_node


def test_a_spinning_node_has_nothing_old_to_collect(domain):
    """What a node is made of is out of the collector's reach before the first message."""
    seen = []

    class Ending(Node):
        def __init__(self):
            super().__init__('ending')
            self.parts = [[] for _ in range(1000)]
            self.create_timer(0.01, self.look)

        def start(self):
            self.parts += [[] for _ in range(1000)]

        def look(self):
            tracked = {id(thing) for thing in gc.get_objects()}
            seen.append(sum(id(part) in tracked for part in self.parts))
            rclpy.shutdown()

    try:
        assert run_node(Ending, []) == 0
    finally:
        gc.unfreeze()
    assert seen == [0]
