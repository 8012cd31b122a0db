"""OpenTelemetry traces across gateway, server and engine, where the cluster's manifest names an endpoint.

Without one nothing of OpenTelemetry is loaded, and a span costs nothing. No span carries prompts or answers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from yuan_events import InputError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Value = str | bool | int | float
"""What an attribute of a span may be."""


class Tracing:
    """Makes one process's spans; `close` sends what is left."""

    def __init__(self, service: str, endpoint: str | None) -> None:
        """Prepares to send.

        Args:
            service: whose spans they are, `gateway`.
            endpoint: of OTLP over gRPC, `http://127.0.0.1:4317`; `https://` is encrypted. None: nothing is traced.

        Raises:
            InputError: if OpenTelemetry is not installed.
        """
        self._provider: TracerProvider | None = None
        if endpoint is None:
            return
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise InputError(
                "cluster.observability.traces needs OpenTelemetry: pip install 'yuan-stack[tracing]', or set it to null"
            ) from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": f"yuan-{service}"}))
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https:"), timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))

    @property
    def enabled(self) -> bool:
        """Whether anything is traced."""
        return self._provider is not None

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Value] | None = None, *, parent: Mapping[str, str] | None = None
    ) -> Generator[TracedSpan]:
        """Traces a block; what is traced within belongs to it.

        Args:
            name: of the span.
            attributes: what is known of it before.
            parent: HTTP headers or gRPC metadata of the caller, which may carry `traceparent`; None: the block around.
        """
        if self._provider is None:
            yield TracedSpan(None)
            return
        from opentelemetry.propagate import extract  # noqa: PLC0415

        tracer = self._provider.get_tracer("yuan")
        context = None if parent is None else extract(dict(parent))
        with tracer.start_as_current_span(name, context=context, attributes=dict(attributes or {})) as span:
            yield TracedSpan(span)

    def headers(self) -> list[tuple[str, str]]:
        """Returns what a call takes along so that its server's spans belong to the present one (`traceparent`)."""
        if self._provider is None:
            return []
        from opentelemetry.propagate import inject  # noqa: PLC0415

        carrier: dict[str, str] = {}
        inject(carrier)
        return list(carrier.items())

    def close(self) -> None:
        """Sends what has not been sent, for some seconds at most."""
        if self._provider is not None:
            self._provider.shutdown()


class TracedSpan:
    """A span, or nothing where nothing is traced."""

    def __init__(self, span: Span | None) -> None:
        self._span: Any = span

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Adds what is known by now."""
        if self._span is not None:
            self._span.set_attributes(dict(attributes))

    def event(self, name: str) -> None:
        """Marks a moment."""
        if self._span is not None:
            self._span.add_event(name)


OFF = Tracing("none", None)
"""Traces nothing."""
