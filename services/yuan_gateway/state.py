"""What all requests of one gateway share: the connection behind it, who may call, metrics, and how it ends."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from yuan_gateway.backend import Backend
from yuan_gateway.metrics import GatewayMetrics
from yuan_manifest import ClusterManifest
from yuan_rpc import AuditLog, Callers, Security, audit_of, security_of, service_of, tenants_of
from yuan_rpc.request_log import RequestLog
from yuan_rpc.tracing import Tracing

if TYPE_CHECKING:
    from yuan_gateway.console.shell import Console


class Gateway:
    """One gateway; `close` it."""

    def __init__(
        self,
        backend: Backend,
        callers: Callers,
        log: RequestLog,
        tracing: Tracing,
        *,
        audit: AuditLog | None = None,
        console: "Console | None" = None,
    ) -> None:
        """Describes it.

        Args:
            backend: what answers.
            callers: who may ask.
            log: where requests are told of.
            tracing: their spans.
            audit: where refusals are told of; None: nowhere.
            console: pages for a browser; None: there are none.
        """
        self.backend = backend
        self.callers = callers
        self.log = log
        self.audit = audit
        self.tracing = tracing
        self.console = console
        self.registry = CollectorRegistry()
        self.metrics = GatewayMetrics(self.registry)
        self.draining = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    def of(cls, manifest: ClusterManifest) -> "Gateway":
        """Returns the gateway of a cluster; nothing is opened yet.

        Raises:
            InputError: if there is no inference service, or a token or TLS file is wrong.
        """
        cluster = manifest.cluster
        section = service_of(cluster, "inference")
        security = security_of(cluster.security)
        # Callers' own tokens go there.
        security.check_client("inference", section.host)
        tracing = Tracing("gateway", cluster.observability.traces)
        bare = Security(tls=security.tls, plaintext=security.plaintext)
        source = security.token_source()
        backend = Backend(section.host, section.port, bare, tracing, own_token=source)
        callers = Callers("gateway", security, tenants_of(cluster.security))
        console = None
        if cluster.services.gateway is not None and cluster.services.gateway.console:
            from yuan_gateway.console.shell import Console  # noqa: PLC0415 - a gateway without one starts without it

            console = Console(manifest, source)
        log = RequestLog("gateway", cluster.observability)
        return cls(backend, callers, log, tracing, audit=audit_of(cluster.security), console=console)

    @contextmanager
    def running(self) -> Generator[None]:
        """Counts a request for the time of a block."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def begin_drain(self) -> None:
        """Takes no more requests."""
        self.draining = True

    async def idle(self) -> None:
        """Returns when no request runs."""
        await self._idle.wait()

    def cut(self) -> None:
        """Ends what still runs, with a clear status."""
        self.backend.cut()

    async def close(self) -> None:
        """Closes the connection and sends what is left of the traces."""
        await self.backend.close()
        if self.console is not None:
            await self.console.close()
        await asyncio.to_thread(self.tracing.close)
