"""What all requests of one gateway share: the connection behind it, who may call, metrics, and how it ends."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from yuan_gateway.backend import Backend
from yuan_gateway.metrics import GatewayMetrics
from yuan_manifest import ClusterManifest
from yuan_rpc import Callers, Security, security_of, service_of, tenants_of
from yuan_rpc.request_log import RequestLog
from yuan_rpc.tracing import Tracing


class Gateway:
    """One gateway; `close` it."""

    def __init__(self, backend: Backend, callers: Callers, log: RequestLog, tracing: Tracing) -> None:
        """Args: backend: what answers. callers: who may ask. log: where requests are told of. tracing: their spans."""
        self.backend = backend
        self.callers = callers
        self.log = log
        self.tracing = tracing
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
        backend = Backend(section.host, section.port, bare, tracing, own_token=security.token_source())
        callers = Callers("gateway", security, tenants_of(cluster.security))
        return cls(backend, callers, RequestLog("gateway", cluster.observability), tracing)

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
        await asyncio.to_thread(self.tracing.close)
