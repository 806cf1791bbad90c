# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
replay_node: plays a recording, a folder or a video as cameras. See docs/reference/replay_node.md.

A plain node, not a lifecycle node: it holds no device and no model, it plays once and ends; what a lifecycle
would give (start when the others are ready) comes from waiting for subscribers.
"""

from __future__ import annotations

if __name__ == '__main__':
    from kd_perception.nodes.shared import signals
    signals.leave_at_once()     # before the imports below, which take a second

from collections.abc import Callable, Iterator
import itertools
import json
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from kd_perception.bags.salvage import Record
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import ImageError, one_line
from kd_perception.messages.typestore import canonical, DETECTION_ARRAY
from kd_perception.nodes.replay.images import image_cdr
from kd_perception.nodes.replay.pacer import Pacer
from kd_perception.nodes.replay.parameters import check_combination, REPLAY_PARAMETERS, ReplaySettings
from kd_perception.nodes.replay.topics import Lockstep, ReplayTopics, wanted_topic
from kd_perception.nodes.shared import parameters
from kd_perception.nodes.shared.runtime import exempt_from_collection, run_node
from kd_perception.nodes.shared.signals import Interruption
from kd_perception.sources.any_source import BagSource, open_source
from kd_perception.sources.frames import Frame

EXIT_OK, EXIT_UNANSWERED, EXIT_BAD_INPUT = 0, 1, 2
# For readers that are still fetching the last images when the replay ends.
LAST_ACK_S = 2.0
_POLL_NS = 50_000_000
# A salvaged recording comes in the order of its file, which is that of the stamps but for this much.
_DISORDER_NS = 10_000_000_000


class ReplayNode(Node):
    """
    The player; `play()` does all the work on the caller's thread and spins while it waits.

    :param clock: steady clock, nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, **kwargs: Any):
        """Declare parameters, open the input, create the publishers."""
        super().__init__('replay', **kwargs)
        self._steady = clock
        self.settings = ReplaySettings.from_values(parameters.declare_parameters(self, REPLAY_PARAMETERS))
        settings = self.settings
        self.source = open_source(
            settings.input, settings.cameras, settings.frame_rate, settings.timestamps_file)
        for problem in self.source.problems:
            self.get_logger().warning(f'{settings.input}: {problem}')
        self._pacer = Pacer(0.0 if settings.lockstep else settings.rate, clock)
        self.topics = ReplayTopics(self, self.source, settings, clock)
        self.lockstep: Lockstep | None = None
        if settings.lockstep:
            cameras = [camera.name for camera in self.source.cameras]
            self.lockstep = Lockstep(self, cameras, settings.lockstep)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)
        self._started_ns = clock()
        self.report = {
            'input': settings.input, 'frames': 0, 'other_messages': 0, 'passes': 0, 'undecodable': {},
            'answers': 0, 'timeouts': 0, 'ended': 'interrupted'}
        parameters.guard_changes(self, REPLAY_PARAMETERS, lambda: False, check_combination, self._apply)
        # Last: `close` finishes what was begun here, and nobody calls it after an error or a signal above.
        self._recording = BagWriter(settings.record) if settings.record else None

    def play(self) -> None:
        """
        Play to the end.

        :raises RosInterfaceError: lockstep, and nobody answers within the wait.
        """
        settings = self.settings
        self.topics.wait_for_peers(self.lockstep, lambda: self._spin_for(_POLL_NS))
        while rclpy.ok():
            before = self.report['frames']
            for item in self._items():
                if not rclpy.ok() or not self._play_item(item):
                    break
            self.report['passes'] += 1
            full = settings.max_frames is not None and self.report['frames'] >= settings.max_frames
            # A pass without a frame would spin for ever.
            if full or not self.settings.loop or self.report['frames'] == before:
                break
            self._pacer.restart()
        if rclpy.ok():
            self.report['ended'] = 'end of input'
            self.topics.wait_for_acks(LAST_ACK_S)

    def final_report(self) -> dict:
        """Return what was done so far: the line that the process prints when it ends."""
        if self.lockstep:
            self.report['answers'], self.report['timeouts'] = self.lockstep.answers, self.lockstep.timeouts
        return {**self.report, 'unpublished': self.topics.unpublished,
                'frames_per_camera': self.topics.frames, 'skipped_topics': self.topics.skipped,
                'lost_in_input': self.source.lost, 'input_problems': self.source.problems,
                'wall_s': round((self._steady() - self._started_ns) / 1e9, 3)}

    def close(self) -> None:
        """Release the input, and finish what is recorded."""
        self._spinner.shutdown(timeout_sec=0.0)
        self.source.close()
        if self._recording:
            self._recording.close()

    def _items(self) -> Iterator[Frame | Record]:
        """Yield the part of the input that is to be played."""
        settings, disorder_ns = self.settings, 0
        if isinstance(self.source, BagSource):
            disorder_ns = _DISORDER_NS
            first_ns = self.source.start_ns + settings.start_offset_ns
            items = self.source.items(
                lambda topic: wanted_topic(topic, settings.other_topics) and topic not in self.topics.skipped,
                first_ns if settings.start_offset_ns else None)
        else:
            frames = iter(self.source)
            head = next(frames, None)
            if head is None:
                return
            first_ns = head.log_ns + settings.start_offset_ns
            items = itertools.dropwhile(lambda item: item.log_ns < first_ns, itertools.chain([head], frames))
        for item in items:
            over_ns = -1 if settings.duration_ns is None else item.log_ns - first_ns - settings.duration_ns
            if over_ns < 0:
                yield item
            elif over_ns >= disorder_ns:
                return

    def _play_item(self, item: Frame | Record) -> bool:
        """Publish one item when it is due; return whether to go on."""
        if isinstance(item, Record):
            self._wait_until_due(item.log_ns)
            self.report['other_messages'] += self.topics.publish_other(item)
            return True
        try:
            # Decoded before the wait, so that decoding does not delay the image.
            stamp_ns = item.stamp_ns
            raw, msgtype = image_cdr(item, self.settings.image_transport, stamp_ns)
        except ImageError as error:
            count = self.report['undecodable']
            count[error.reason] = count.get(error.reason, 0) + 1
            self.get_logger().warning(f'{item.camera}: image {item.name} is left out: {one_line(error)}',
                                      throttle_duration_sec=1.0)
            return True
        self._wait_until_due(item.log_ns)
        if self.settings.restamp:
            raw, stamp_ns = self.topics.stamped_now(raw)
        if self.lockstep:
            self.lockstep.expect(item.camera, stamp_ns)
        self.report['frames'] += self.topics.publish_image(item.camera, raw, msgtype)
        if self.lockstep:
            self._await_answer(item)
        return self.settings.max_frames is None or self.report['frames'] < self.settings.max_frames

    def _await_answer(self, frame: Frame) -> None:
        sent_ns = self._steady()
        limit_ns = sent_ns + round(self.settings.lockstep_timeout_s * 1e9)
        while self.lockstep.waiting and rclpy.ok():
            left_ns = limit_ns - self._steady()
            if left_ns <= 0:
                self.lockstep.give_up()
                self.get_logger().warning(
                    f'{frame.camera}: no answer to image {frame.name} within '
                    f'{self.settings.lockstep_timeout_s:g} s', throttle_duration_sec=1.0)
                return
            self._spin_for(left_ns, once=True)
        if self._recording and not self.lockstep.waiting:
            # Logged as if the image had been sent when it was recorded: the difference is the graph's time.
            self._recording.write_raw(self.lockstep.topic_of(frame.camera), DETECTION_ARRAY,
                                      canonical(self.lockstep.answer, DETECTION_ARRAY),
                                      frame.log_ns + self._steady() - sent_ns)

    def _wait_until_due(self, recorded_ns: int) -> None:
        """Wait, with /clock and parameters served meanwhile; the clock then stands at `recorded_ns`."""
        while rclpy.ok():
            left_ns = self._pacer.due_in_ns(recorded_ns)
            if left_ns <= 0:
                break
            step_ns = min(left_ns, _POLL_NS)
            if self.settings.publish_clock:
                self.topics.publish_clock(min(self._pacer.recorded_now_ns(), recorded_ns))
                step_ns = min(step_ns, self.settings.clock_period_ns)
            self._spin_for(step_ns)
        self._pacer.reached(recorded_ns)
        if self.settings.publish_clock:
            self.topics.publish_clock(recorded_ns)

    def _spin_for(self, duration_ns: int, once: bool = False) -> None:
        """Serve callbacks for a while; `once` returns after the first."""
        end_ns = self._steady() + duration_ns
        while rclpy.ok():
            left_ns = end_ns - self._steady()
            if left_ns <= 0:
                return
            self._spinner.spin_once(timeout_sec=left_ns / 1e9)
            if once:
                return

    def _apply(self, values: dict[str, Any]) -> None:
        """Take over what may change while playing."""
        self.settings = ReplaySettings.from_values(values)
        if not self.settings.lockstep:
            self._pacer.set_rate(self.settings.rate)


def main(args: list[str] | None = None) -> int:
    """
    Play, print the report as one line of JSON, and end.

    :return: 0 done; 1 in lockstep an image stayed without an answer; 2 bad parameters or input.
    """
    nodes: list[ReplayNode] = []

    def create() -> ReplayNode:
        nodes.append(ReplayNode())
        return nodes[0]

    def work(node: ReplayNode, interruption: Interruption) -> None:
        exempt_from_collection()
        interruption.hold()
        node.play()

    code = run_node(create, args, work)
    if code == EXIT_BAD_INPUT:
        return code
    report = nodes[0].final_report() if nodes else {'ended': 'interrupted'}
    print(json.dumps(report), flush=True)
    return EXIT_UNANSWERED if report.get('timeouts') else EXIT_OK


if __name__ == '__main__':
    exit_code = main()
    signals.ignore()
    sys.exit(exit_code)
