"""Prometheus metrics of a server's calls, and the loopback page that serves them.

A service adds its own to `registry`. No metric carries what a call is about.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from yuan_rpc.addresses import check_port

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass
class CallOutcome:
    """How a call ended, set by whoever handles it."""

    code: grpc.StatusCode = grpc.StatusCode.OK


class CallMetrics:
    """Counts calls by service, method and status code, and measures how long they take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("grpc_service", "grpc_method")
        self._handled = Counter(
            "yuan_rpc_handled_total", "Calls that ended, by status code.", (*labels, "grpc_code"), registry=registry
        )
        self._seconds = Histogram(
            "yuan_rpc_handling_seconds",
            "How long calls took, a stream until its end.",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = Gauge("yuan_rpc_running", "Calls in progress.", labels, registry=registry)

    @contextmanager
    def measure(self, method: str) -> Generator[CallOutcome]:
        """Measures one call.

        Args:
            method: full name, `/yuan.jobs.v1.JobService/Get`.
        """
        _, service, name = method.split("/")
        outcome = CallOutcome()
        start = time.monotonic()
        with self._running.labels(service, name).track_inprogress():
            try:
                yield outcome
            finally:
                self._handled.labels(service, name, outcome.code.name).inc()
                self._seconds.labels(service, name).observe(time.monotonic() - start)


class MetricsPage:
    """`http://127.0.0.1:PORT/metrics`, served by a thread of its own."""

    def __init__(self, registry: CollectorRegistry, service: str, port: int) -> None:
        """Starts to serve.

        Args:
            registry: what is shown.
            service: whose metrics they are, for messages.
            port: on 127.0.0.1; 0: any free one.

        Raises:
            InputError: if the port is taken.
        """
        if port:
            key = f"cluster.services.{service}.metrics_port"
            check_port("127.0.0.1", port, service=f"metrics of {service}", port_key=key, bind_key=key)
        self._server: WSGIServer
        self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        self.port = self._server.server_port

    def close(self) -> None:
        """Ends the thread and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
