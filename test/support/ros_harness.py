# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Real processes over DDS, for tests: child processes, a probe node, and waiting with hard limits.

Free of pytest, so that launch_testing tests use it too. Nothing here sleeps for luck: every wait has a
condition, and a limit after which it fails with what was seen.
"""

import contextlib
import fcntl
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

REPOSITORY = Path(__file__).resolve().parents[2]
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Discovery takes up to a few seconds on a loaded machine; a wait ends as soon as it can.
TIMEOUT_S = 20.0


class WaitTimeout(AssertionError):
    """A condition did not come true in time."""


@contextlib.contextmanager
def own_domain():
    """
    Take a ROS domain that no other test process on this machine uses now; yields its id.

    The environment of this process and of its children points to it, and stays on this machine.
    """
    folder = Path(tempfile.gettempdir()) / 'kd_perception_test_domains'
    folder.mkdir(mode=0o777, exist_ok=True)
    # 1 to 101 keeps the ports of DDS below Linux's ephemeral ones. In random order: whoever else picks a
    # domain without this lock is then unlikely to pick the same.
    for domain in random.SystemRandom().sample(range(1, 102), 101):
        with open(folder / str(domain), 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _in_use(domain):
                continue
            changed = {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
            before = {key: os.environ.get(key) for key in changed}
            os.environ.update(changed)
            try:
                yield domain
            finally:
                for key, value in before.items():
                    os.environ.pop(key) if value is None else os.environ.update({key: value})
            return
    raise RuntimeError('every ROS domain of this machine is taken')


def _in_use(domain):
    """Whether a process holds a port of the domain (DDSI-RTPS 2.5, 9.6.1: 7400 + 250 domain + 10 + 2 i)."""
    for port in range(7410 + 250 * domain, 7430 + 250 * domain):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', port))
            except OSError:
                return True
    return False


def no_traceback(proc_output):
    """Assert that no process of a launch test printed a traceback (launch_testing's `proc_output`)."""
    for process in proc_output.processes():
        text = ''.join(line.text.decode() for line in proc_output[process])
        assert 'Traceback' not in text, text


class ChildProcess:
    """
    `python -m MODULE ...` in a process of its own; its output goes to a file.

    :param arguments: the command line behind the module.
    :param environment: variables on top of this process's.
    """

    def __init__(self, module, *arguments, folder, environment=None):
        self.log_path = Path(tempfile.mkstemp(suffix='.log', prefix=f'{module}.', dir=folder)[1])
        environment = {**os.environ, 'PYTHONUNBUFFERED': '1', 'RCUTILS_LOGGING_BUFFERED_STREAM': '0',
                       'RCUTILS_COLORIZED_OUTPUT': '0', 'ROS_LOG_DIR': str(folder), **(environment or {})}
        paths = [str(REPOSITORY), environment.get('PYTHONPATH', '')]
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
        with open(self.log_path, 'wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', module, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True)

    @property
    def log(self):
        """What the process has printed so far."""
        return self.log_path.read_text(errors='replace')

    @property
    def alive(self):
        """Whether the process still runs."""
        return self.process.poll() is None

    def wait(self, timeout_s=TIMEOUT_S):
        """Wait for the process to end by itself; returns the exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise WaitTimeout(f'the process has not ended in {timeout_s} s:\n{self.log}') from None

    def stop(self, by=signal.SIGINT, timeout_s=TIMEOUT_S):
        """Send a signal and return the exit code."""
        if self.alive:
            self.process.send_signal(by)
        return self.wait(timeout_s)

    def kill(self):
        """End the process and its children, whatever state they are in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


class Probe:
    """A node of the test's own, spun only while the test waits: single-threaded, so nothing races."""

    def __init__(self, domain, name='probe', **kwargs):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node(name, context=self.context, **kwargs)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def close(self):
        """Give everything back."""
        self.executor.shutdown(timeout_sec=2)
        self.node.destroy_node()
        self.context.try_shutdown()

    def spin(self, seconds):
        """Receive for a while, to see that something does NOT happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=max(0.0, end - time.monotonic()))

    def wait_for(self, condition, what, timeout_s=TIMEOUT_S, every=None, period_s=0.3):
        """
        Receive until `condition()` is true; return its value.

        :param every: called now and then every `period_s`, for example to publish again.
        """
        end, next_call = time.monotonic() + timeout_s, time.monotonic()
        while True:
            value = condition()
            if value:
                return value
            now = time.monotonic()
            if now > end:
                raise WaitTimeout(f'waited {timeout_s} s for {what() if callable(what) else what}')
            if every is not None and now >= next_call:
                every()
                next_call = now + period_s
            self.executor.spin_once(timeout_sec=0.02)

    def collect(self, message_type, topic, qos=RELIABLE):
        """Subscribe; return the list that fills with messages."""
        received = []
        self.node.create_subscription(message_type, topic, received.append, qos)
        return received

    def publisher(self, message_type, topic, qos=RELIABLE):
        """Return a publisher."""
        return self.node.create_publisher(message_type, topic, qos)

    def wait_matched(self, publisher, count=1, timeout_s=TIMEOUT_S):
        """Wait until `count` subscriptions have matched a publisher."""
        self.wait_for(lambda: publisher.get_subscription_count() >= count,
                      f'{count} subscriptions of {publisher.topic_name}', timeout_s)

    def call(self, service_type, name, request, timeout_s=TIMEOUT_S, repeat_s=3.0):
        """
        Call a service and return the response.

        A client sees the service before the service sees the client's reader of answers. rmw waits 100 ms for
        that and then drops the answer, which a busy machine makes happen: so the request is sent again.

        :param repeat_s: seconds after which an unanswered request is sent again; None: it is sent once.
        """
        client = self.node.create_client(service_type, name)
        futures = []
        try:
            self.wait_for(client.service_is_ready, f'service {name}', timeout_s)
            self.wait_for(lambda: any(future.done() for future in futures), f'the answer of {name}',
                          timeout_s, every=lambda: futures.append(client.call_async(request)),
                          period_s=repeat_s or 2 * timeout_s)
            return next(future for future in futures if future.done()).result()
        finally:
            self.node.destroy_client(client)
