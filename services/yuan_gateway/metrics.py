"""What the gateway tells Prometheus of its own requests; what models do is in the inference service's metrics."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass
class Outcome:
    """How a request ended, set by whoever knows.

    Attributes:
        status: of HTTP; 499: the client had gone.
        route: one of few: never a path that a caller made up.
    """

    status: int = 499
    route: str = "unknown"


class GatewayMetrics:
    """Counts requests by route and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Args: registry: where they are shown."""
        self._requests = Counter(
            "yuan_gateway_requests_total", "HTTP requests that ended.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "yuan_gateway_request_seconds",
            "How long requests took, a stream until its end.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = Gauge("yuan_gateway_requests_running", "Requests in progress.", registry=registry)

    @contextmanager
    def measure(self) -> Generator[Outcome]:
        """Measures one request."""
        outcome, start = Outcome(), time.monotonic()
        with self._running.track_inprogress():
            try:
                yield outcome
            finally:
                self._requests.labels(outcome.route, str(outcome.status)).inc()
                self._seconds.labels(outcome.route).observe(time.monotonic() - start)
