# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The HTTP endpoint that Prometheus scrapes: the one door to prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import socket
import threading
from typing import Any
from wsgiref.simple_server import make_server, WSGIRequestHandler

from kd_perception.errors import RosInterfaceError
from kd_perception.monitoring.metrics import Family

# Who opens a connection and says nothing does not hold it for ever.
REQUEST_TIMEOUT_S = 10.0
# How soon the thread sees that it should end.
CLOSE_POLL_S = 0.1


class _Handler(WSGIRequestHandler):
    """Says nothing of each request, and waits for none without end."""

    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class MetricsEndpoint:
    """
    Serves `http://ADDRESS:PORT/metrics` from threads of its own.

    :param families: returns the metrics of this moment; called in those threads.
    :ivar port: the port it listens on, also where 0 was asked for.
    :raises RosInterfaceError: prometheus-client is not installed, or the address cannot be listened on.
    """

    def __init__(self, address: str, port: int, families: Callable[[], Iterable[Family]]):
        """Start to listen."""
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app
            from prometheus_client.exposition import ThreadingWSGIServer
        except ImportError as error:
            raise RosInterfaceError(
                f'metrics_node needs the Python package prometheus-client ({error}); install it with '
                '`pip install prometheus-client`') from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(families))
        server_class = type('Server', (ThreadingWSGIServer,), {
            'address_family': socket.AF_INET6 if ':' in address else socket.AF_INET})
        try:
            self._server = make_server(address, port, make_wsgi_app(registry), server_class, _Handler)
        except OSError as error:
            raise RosInterfaceError(
                f'parameters address, port: cannot listen on {address}:{port} '
                f'({error.strerror or error})') from None
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(CLOSE_POLL_S,), name='metrics', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    """What prometheus-client asks at each scrape."""

    def __init__(self, families: Callable[[], Iterable[Family]]):
        self._families = families

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        for family in self._families():
            kind = CounterMetricFamily if family.type == 'counter' else GaugeMetricFamily
            metric = kind(family.name, family.description)
            for sample in family.samples:
                metric.add_sample(family.name, dict(sample.labels), sample.value)
            yield metric
