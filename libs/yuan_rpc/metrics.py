"""Prometheus metrics of a server's calls; `metrics_page.py` shows them.

A service adds its own to `registry`. No metric carries what a call is about.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
