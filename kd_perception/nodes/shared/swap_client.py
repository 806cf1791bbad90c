# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Ask running nodes to take another model over, and wait until their diagnostics say what came of it."""

from __future__ import annotations

from collections.abc import Callable
import os
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameterTypes, SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from kd_perception.errors import RosInterfaceError
from kd_perception.nodes.shared import qos
from kd_perception.nodes.shared.model_swap import DONE, FAILED, LOADING

# The parameter that names the model, and the key of its digest in the diagnostics.
STUDENT_MODEL = 'student_model'
SHA256_KEYS = {'model': 'sha256', STUDENT_MODEL: 'student_sha256'}
# rmw waits 100 ms for a client's reader of answers, then drops the answer: the request is then sent again.
REPEAT_S = 2.0
TURN_S = 0.05


class SwapFailed(RosInterfaceError):
    """A node did not take the model over; the message says why."""


class SwapClient:
    """A node of its own, for as long as it is entered."""

    def __enter__(self) -> SwapClient:
        """Join the graph."""
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = Node(f'model_swap_{os.getpid()}', context=self._context, enable_rosout=False,
                          start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._values: dict[str, dict[str, str]] = {}        # of each node that tells of swaps
        self._node.create_subscription(
            DiagnosticArray, '/diagnostics', self._on_diagnostics, qos.DIAGNOSTICS)
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave it."""
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def swap(self, node: str, model: str, sha256: str = '', timeout_s: float = 60.0,
             follows_student: bool = True) -> str:
        """
        Have a node take a model over; return the sha256 that it runs then.

        :param node: fully qualified name. :param model: value of the node's parameter.
        :param sha256: digest that must run in the end; empty: whichever the node loads.
        :param follows_student: False: `model` is a teacher's, which no fallback node reads.
        :raises SwapFailed: no such node, refused, failed, or not done in time.
        """
        end = time.monotonic() + timeout_s
        node = '/' + node.strip('/')
        parameter = self._parameter_of(node, end)
        if parameter == STUDENT_MODEL and not follows_student:
            raise SwapFailed('is a fallback node, which reads the student, not the teacher')
        before = self._wait(lambda: self._values.get(node), end, 'no word of it in /diagnostics')
        if before['lifecycle'] == 'unconfigured':
            raise SwapFailed('is unconfigured: set its parameter and configure it')
        self._set(node, parameter, model, end)

        def outcome() -> dict[str, str] | None:
            values = self._values[node]
            newer = int(values['swap.requests']) > int(before['swap.requests'])
            return values if newer and values['swap'] != LOADING else None
        values = self._wait(outcome, end, 'has not taken it over in time')
        if values['swap'] != DONE:
            raise SwapFailed(values['swap'].removeprefix(f'{FAILED}: '))
        found = values[SHA256_KEYS[parameter]]
        if sha256 and found != sha256:
            raise SwapFailed(f'runs sha256 {found[:12]}, expected {sha256[:12]}')
        return found

    def _parameter_of(self, node: str, end: float) -> str:
        # One by one: rclpy answers with nothing at all where one of several names is not declared.
        for name in SHA256_KEYS:
            answer = self._call(GetParameterTypes, f'{node}/get_parameter_types',
                                GetParameterTypes.Request(names=[name]), end)
            if list(answer.types) == [ParameterType.PARAMETER_STRING]:
                return name
        raise SwapFailed(f'has none of the parameters {", ".join(SHA256_KEYS)}')

    def _set(self, node: str, parameter: str, model: str, end: float) -> None:
        value = Parameter(parameter, value=model).get_parameter_value()
        request = SetParameters.Request(parameters=[ParameterMessage(name=parameter, value=value)])
        result, = self._call(SetParameters, f'{node}/set_parameters', request, end).results
        if not result.successful:
            raise SwapFailed(f'refused: {result.reason}')

    def _call(self, kind: Any, name: str, request: Any, end: float) -> Any:
        """Call a service whose requests may be sent again."""
        client = self._node.create_client(kind, name)
        futures, next_s = [], 0.0
        try:
            self._wait(client.service_is_ready, end, f'service {name} is not there')

            def answered() -> Any:
                nonlocal next_s
                if time.monotonic() >= next_s:
                    futures.append(client.call_async(request))
                    next_s = time.monotonic() + REPEAT_S
                return next((future.result() for future in futures if future.done()), None)
            return self._wait(answered, end, f'service {name} does not answer')
        finally:
            self._node.destroy_client(client)

    def _wait(self, condition: Callable[[], Any], end: float, what: str) -> Any:
        while not (value := condition()):
            if time.monotonic() > end:
                raise SwapFailed(what)
            self._executor.spin_once(timeout_sec=TURN_S)
        return value

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if 'swap.requests' in values:
                self._values['/' + status.name.rpartition(': ')[0]] = values
