# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What every node of this package shares: a process that starts, spins and ends cleanly."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import functools
import gc
import os
import re
import sys
from typing import Any

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from kd_perception.errors import KdPerceptionError, one_line, RosInterfaceError
from kd_perception.nodes.shared.signals import interruptible, Interruption

# Not exported by rclpy.exceptions in every release.
RCLError = rclpy_implementation.RCLError
InvalidHandle = rclpy_implementation.InvalidHandle
EXIT_OK = 0
EXIT_BAD_INPUT = 2
# A middleware that fails this often in a row does not recover.
MAX_FAILURES_IN_A_ROW = 100
# Beyond it the ports of DDS are no ports any more (DDSI-RTPS 2.5, 9.6.1).
MAX_DOMAIN_ID = 232


def logs_errors(transition: Callable) -> Callable:
    """
    Log what a transition callback lets out, on one line.

    rclpy turns any exception there into the ERROR return code without a word.
    """
    @functools.wraps(transition)
    def wrapped(self: Any, state: Any) -> Any:
        try:
            return transition(self, state)
        except Exception as error:
            self.get_logger().error(f'{transition.__name__}: {type(error).__name__}: {one_line(error)}')
            raise
    return wrapped


class RobustLifecycleNode(LifecycleNode):
    """
    A lifecycle node that a wrong request cannot end.

    rclpy lets an invalid transition (activate while unconfigured) escape from the service's callback as
    RCLError, out of the executor and the process; here the answer is `success: false`.
    """

    def __init__(self, name: str, **kwargs: Any):
        """Create the node and guard its change_state service."""
        super().__init__(name, **kwargs)
        service = self._service_change_state
        change_state = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RCLError as error:
                self.get_logger().warning(
                    f'transition {request.transition.label or request.transition.id} is not possible '
                    f'in state {self.state}: {one_line(error)}')
                response.success = False
                return response

        service.callback = guarded

    @logs_errors
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back what configure has taken."""
        result = super().on_cleanup(state)
        self._release()
        return result

    @logs_errors
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End from any state."""
        self._stop()
        result = super().on_shutdown(state)
        self._release()
        return result

    def _stop(self) -> Any:
        """End what activate has started; harmless where nothing runs."""
        raise NotImplementedError

    def _release(self) -> None:
        """Give back what configure has taken; harmless where there is nothing."""
        raise NotImplementedError

    @property
    def state(self) -> str:
        """Return the label of the lifecycle state, for example `active`."""
        return self._state_machine.current_state[1]

    def publish_safely(self, publisher: Any, message: Any) -> bool:
        """Publish; return whether it went out: a refusal of the middleware is logged, not raised."""
        try:
            publisher.publish(message)
            return True
        except RCLError as error:
            if self.context.ok():
                self.get_logger().warning(f'{publisher.topic_name}: not published: {one_line(error)}',
                                          throttle_duration_sec=1.0)
            return False


def run_node(create: Callable[[], Node], args: list[str] | None = None,
             work: Callable[[Any, Interruption], None] | None = None) -> int:
    """
    Create a node, let it work until SIGINT, SIGTERM or a shutdown of the context, and end it.

    A node may have `start()`, called before the first spin, and `close()`, called before it is destroyed.

    :param work: what the node does, given the node and what a signal does meanwhile; None: it is spun.
    :return: 0 after an orderly end, 2 when ROS or the node refused its arguments (one line on stderr).
    """
    with interruptible() as interruption:
        try:
            _run(create, args, work or _start_and_spin, interruption)
        except KeyboardInterrupt:
            pass
        except KdPerceptionError as error:
            print(f'kd_perception: error: {one_line(error)}', file=sys.stderr)
            return EXIT_BAD_INPUT
    return EXIT_OK


def _run(create: Callable[[], Node], args: list[str] | None, work: Callable[..., None],
         interruption: Interruption) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(rclpy.try_shutdown)
        try:
            _init(args)
            node = _create(create)
            stack.callback(_quietly, node.destroy_node)
            if hasattr(node, 'close'):
                stack.callback(_quietly, node.close)
            work(node, interruption)
        except ExternalShutdownException:
            pass
        except KdPerceptionError:
            raise
        except Exception:
            # A signal that arrives between two calls makes the next one fail on an invalid context.
            if rclpy.ok():
                raise
        finally:
            interruption.hold()


def _init(args: list[str] | None) -> None:
    """
    Start ROS.

    :raises RosInterfaceError: an argument, a params file or a variable is not what ROS expects.
    """
    domain = os.environ.get('ROS_DOMAIN_ID', '')
    if domain.isdigit() and int(domain) > MAX_DOMAIN_ID:       # the middleware would end the process
        raise RosInterfaceError(f'ROS_DOMAIN_ID={domain:.20}: expected 0 to {MAX_DOMAIN_ID}')
    try:
        rclpy.init(args=args)
    except Exception as error:
        raise RosInterfaceError(f'ROS does not start: {ros_reason(error)}') from error


def _create(create: Callable[[], Node]) -> Node:
    try:
        return create()
    except (NameValidationException, RCLError) as error:
        if not rclpy.ok():
            raise
        raise RosInterfaceError(f'the node cannot be created: {ros_reason(error)}') from error


def ros_reason(error: Exception) -> str:
    """Return why ROS refused something, on one line, without the places in its source."""
    if isinstance(error, rclpy_implementation.UnknownROSArgsError):
        return f'unknown ROS arguments {one_line(error)}'
    text = re.sub(r',? at (/\S+?):\d+', '', one_line(error)).removeprefix('failed to initialize rcl: ')
    if '__node:=' in text or '__ns:=' in text:
        text += ' (a name consists of letters, digits and _, and a namespace of such names after a /)'
    return text


def _quietly(end: Callable[[], Any]) -> None:
    try:
        end()
    except RCLError:     # handles that a signal has taken away
        pass


def exempt_from_collection() -> None:
    """
    Take all objects of now out of garbage collection, once a process is ready.

    They live as long as the process. A full collection of them holds every thread up for 40 to 100 ms, longer
    than a deadline may be missed by; of the few objects that come later it takes less than a millisecond.
    """
    gc.collect()
    gc.freeze()


def _start_and_spin(node: Any, interruption: Interruption) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if hasattr(node, 'start'):
            node.start()
        exempt_from_collection()
        interruption.hold()
        _spin(executor, node)
    finally:
        interruption.hold()
        _quietly(lambda: executor.shutdown(timeout_sec=1.0))


def _spin(executor: SingleThreadedExecutor, node: Node) -> None:
    """Spin; a message that the middleware cannot deserialise is logged and skipped."""
    failures = 0
    while rclpy.ok():
        try:
            executor.spin_once()
            failures = 0
        except RCLError as error:
            failures += 1
            if not rclpy.ok() or failures >= MAX_FAILURES_IN_A_ROW:
                raise
            node.get_logger().error(f'the middleware failed: {one_line(error)}', throttle_duration_sec=1.0)
