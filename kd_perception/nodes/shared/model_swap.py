# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Another model while the node works: loaded on a thread of its own, switched by the executor between frames.

A change of the parameter is a request, and accepting it says no more than that: loading takes longer than a
parameter's callback may. What comes of it is said in /diagnostics and in the log. Requests may be sent again:
one for the model that runs already changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import threading
from typing import Any, NamedTuple

from rclpy.parameter import Parameter

from kd_perception.errors import KdPerceptionError, ModelError, one_line
from kd_perception.levels import Level, Report
from kd_perception.nodes.shared.runtime import InvalidHandle

IDLE, LOADING, DONE, FAILED = 'idle', 'loading', 'done', 'failed'
# A load that takes longer is taken for hung; a process that ends in the middle of one would abort.
STOP_TIMEOUT_S = 10.0


class Loaded(NamedTuple):
    """A model that is ready to take over. `detector` has run; `extra` is the node's own, made from it."""

    detector: Any
    extra: Any = None


class ModelSwap:
    """
    The requests of one node for another model. All but the loading happens on the executor's thread.

    :param node: a lifecycle node. :param parameter: the name of the one that holds the model.
    :param load: takes the parameter's value, returns `Loaded`; called on another thread, may raise anything.
    :param running: returns the detector or the facts (`sha256`, `spec`) in use, None: not configured, so that
        the next configure takes the parameter as it is.
    :param switch: puts what was loaded in the place of what runs.
    :param counts: totals of the node's frames; how many passed while the model was loaded is reported.
    :param announce: publishes the diagnostics now.
    """

    def __init__(self, node: Any, parameter: str, load: Callable[[str], Loaded],
                 running: Callable[[], Any], switch: Callable[[Loaded], None],
                 counts: Callable[[], Mapping[str, int]], announce: Callable[[], None]):
        """Watch the parameter."""
        self._node, self._parameter = node, parameter
        self._load, self._running, self._switch = load, running, switch
        self._counts, self._announce = counts, announce
        self._before: Mapping[str, int] = {}
        self._passed: dict[str, int] = {}       # while the last model was loaded
        self._lock = threading.Lock()
        self._outcome: tuple[int, Loaded | str] | None = None       # of the loader, for the executor
        self._thread: threading.Thread | None = None
        self._serial = 0            # of the newest request; an older one's outcome is dropped
        self._wanted = self._in_use = node.get_parameter(parameter).value
        self._state, self._reason, self._requests = IDLE, '', 0
        self._putting_back = False
        self._wake = node.create_guard_condition(self._finish)
        node.add_post_set_parameters_callback(self._on_set)

    def configured(self) -> None:
        """Say that configure has loaded the parameter's model."""
        self._in_use = self._node.get_parameter(self._parameter).value

    def cancel(self) -> None:
        """Forget what is being loaded: the node gives its model up."""
        self._serial += 1
        if self._state == LOADING:
            self._state, self._reason = FAILED, 'the node was cleaned up meanwhile'

    def close(self) -> None:
        """Wait for what is being loaded, and forget it: the process is about to end."""
        self.cancel()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(STOP_TIMEOUT_S)

    def annotate(self, report: Report) -> Report:
        """Return a report with the state of the last request; WARN while one that failed is the last word."""
        values = [('swap', f'{self._state}: {self._reason}' if self._reason else self._state),
                  ('swap.requests', str(self._requests)), ('swap.model', self._wanted),
                  *((f'swap.{name}', str(count)) for name, count in self._passed.items())]
        report = Report(report.name, report.level, report.message, report.hardware_id,
                        (*report.values, *values))
        if self._state != FAILED or report.level > Level.WARN:
            return report
        return Report(report.name, Level.WARN, f'{report.message}; swap failed: {self._reason}',
                      report.hardware_id, report.values)

    def _on_set(self, changed: list[Parameter]) -> None:
        if self._putting_back or self._running() is None:
            return
        for parameter in changed:
            if parameter.name == self._parameter:
                self._request(parameter.value)

    def _request(self, wanted: str) -> None:
        # Sent again while it is being loaded: it is the same request, unless a store's current has moved on.
        if self._state != LOADING:
            self._before = self._counts()
        self._requests += 1
        self._serial += 1
        self._wanted, self._state, self._reason = wanted, LOADING, ''
        self._node.get_logger().info(f'loading model {wanted} while the present one goes on')
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def _start(self) -> None:
        # A daemon: a load that hangs must not keep a process alive that was told to end.
        self._thread = threading.Thread(
            target=self._run, args=(self._serial, self._wanted), name='kd_perception_model_swap', daemon=True)
        self._thread.start()

    def _run(self, serial: int, wanted: str) -> None:
        try:
            outcome = self._load(wanted)
        except Exception as error:  # what a runtime or driver raises must not end the old model's work
            known = isinstance(error, KdPerceptionError)
            outcome = one_line(error if known else f'{type(error).__name__}: {error}')
        with self._lock:
            self._outcome = serial, outcome
        with contextlib.suppress(InvalidHandle):    # the node has ended meanwhile
            self._wake.trigger()

    def _finish(self) -> None:
        with self._lock:
            outcome, self._outcome = self._outcome, None
        if outcome is None:
            return
        serial, loaded = outcome
        self._thread = None
        running = self._running()
        if serial != self._serial:
            if self._state == LOADING and running is not None:
                self._start()       # the newest request, which came while an older one was being loaded
            return
        if running is None:
            return
        if isinstance(loaded, str):
            self._fail(loaded)
            return
        try:
            reason = _misfit(loaded.detector.spec, running.spec)
            if reason:
                raise ModelError(f'{self._wanted}: {reason}')
            if loaded.detector.sha256 != running.sha256:
                self._switch(loaded)
        except Exception as error:
            known = isinstance(error, KdPerceptionError)
            self._fail(one_line(error if known else f'{type(error).__name__}: {error}'))
            return
        self._state, self._in_use = DONE, self._wanted
        self._count()
        passed = ', '.join(f'{count} {name}' for name, count in self._passed.items())
        self._node.get_logger().info(
            f'model {loaded.detector.spec.name} has taken over: sha256 {loaded.detector.sha256[:12]}; '
            f'meanwhile {passed}')
        self._announce()

    def _fail(self, reason: str) -> None:
        self._state, self._reason = FAILED, reason
        self._count()
        self._node.get_logger().error(f'swap failed, the present model goes on: {reason}')
        # The parameter says what runs: the next configure must not fail on what was refused here.
        self._putting_back = True
        try:
            self._node.set_parameters([Parameter(self._parameter, value=self._in_use)])
        finally:
            self._putting_back = False
        self._announce()

    def _count(self) -> None:
        self._passed = {name: count - self._before.get(name, 0) for name, count in self._counts().items()}


def _misfit(new: Any, old: Any) -> str:
    """Return why a model cannot take another's place while consumers listen; empty: it can."""
    if new.labels != old.labels:
        return (f'labels are {", ".join(new.labels)}, the running model has {", ".join(old.labels)}; '
                'to change them, clean up and configure')
    return ''
