"""A gRPC server as every service of the stack runs it.

Health, reflection, the token, TLS, limits, metrics, statuses of errors and an orderly end are here; what its calls do
is in the servicers that it is given. Handlers are async; they free what they hold in `finally`, which is where a
cancelled call and an expired deadline end too.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from yuan_events import InputError
from yuan_rpc.addresses import check_port, join_address
from yuan_rpc.audit import AuditLog
from yuan_rpc.callers import Callers, Tenant
from yuan_rpc.errors import Translations
from yuan_rpc.interceptor import CallGuard
from yuan_rpc.metrics import CallMetrics
from yuan_rpc.metrics_page import LOOPBACK, MetricsPage
from yuan_rpc.options import SERVER_OPTIONS
from yuan_rpc.security import Security, server_credentials
from yuan_rpc.tracing import OFF, Tracing

_LOGGER = logging.getLogger("yuan_rpc.server")

_ENDLESS = ("/grpc.health.v1.Health/Watch", f"/{reflection.SERVICE_NAME}/ServerReflectionInfo")

# Time for watchers of health to be told before their streams are cut.
_NOTICE_SECONDS = 0.1

# gRPC cancels what lies at its port when it stops, without a word. Until none has come for so long, or in all:
_QUIET_SECONDS, _LONGEST_QUIET_SECONDS = 0.05, 2.0


def _is_not_of_a_client_that_left(record: logging.LogRecord) -> bool:
    """Leaves out gRPC's traceback for an answer whose client was gone, or its deadline over, when it was sent."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core by servicer method")


class Mount(NamedTuple):
    """A servicer and how it is added to a server.

    Attributes:
        add: the generated `add_…Servicer_to_server`.
        servicer: the object with the handlers.
        service: full name, `yuan.jobs.v1.JobService`.
    """

    add: Callable[[Any, Any], None]
    servicer: object
    service: str


class RpcServer:
    """One server on one port; `run` serves until SIGTERM or SIGINT, `async with` until the block ends.

    Attributes:
        port: where it listens, once started.
        registry: its Prometheus metrics, for services to add theirs.
        draining: set when it is about to stop.
        drain_seconds: how long running calls may go on then.
    """

    def __init__(
        self,
        name: str,
        bind: str,
        port: int,
        security: Security,
        servicers: Iterable[Mount | tuple[Callable[[Any, Any], None], object, str]],
        *,
        metrics_port: int | None = None,
        metrics_bind: str = LOOPBACK,
        drain_seconds: float = 30.0,
        translations: Translations | None = None,
        end_at_drain: Sequence[str] = (),
        tenants: Sequence[Tenant] = (),
        tracing: Tracing = OFF,
        audit: AuditLog | None = None,
    ) -> None:
        """Describes a server; nothing is opened yet.

        Args:
            name: the service's key under `cluster.services`, as in `trainer`.
            bind: address of the interface to listen on.
            port: 0: any free one.
            security: what callers must bring.
            servicers: what is served.
            metrics_port: of Prometheus metrics; None: none, 0: any free one.
            metrics_bind: address that they are served on; beyond loopback for those with a token alone.
            drain_seconds: how long running calls may go on once the server is asked to stop.
            translations: what errors of other layers mean on the wire.
            end_at_drain: full names (`/yuan.jobs.v1.JobService/Watch`) of streams that may never end by themselves:
                they end with UNAVAILABLE as soon as the server is asked to stop.
            tenants: who is let in besides the owner of the stack's token and holders of issued ones.
            tracing: makes a span of each call.
            audit: where changes and refusals are told of; None: nowhere.
        """
        self.name = name
        self.bind = bind
        self.port = port
        self.registry = CollectorRegistry()
        self.draining = asyncio.Event()
        self._security = security
        self._mounts = [Mount(*mount) for mount in servicers]
        self._metrics_port = metrics_port
        self._metrics_bind = metrics_bind
        self.drain_seconds = drain_seconds
        self._translations = translations or {}
        self._end_at_drain = (*_ENDLESS, *end_at_drain)
        self._tenants = tuple(tenants)
        self._tracing = tracing
        self._audit = audit
        self._health = health.aio.HealthServicer()
        self._server: aio.Server | None = None
        self._guard: CallGuard | None = None
        self._page: MetricsPage | None = None

    @property
    def address(self) -> str:
        """Where it listens, `127.0.0.1:7102`."""
        return join_address(self.bind, self.port)

    @property
    def metrics_port(self) -> int | None:
        """Where metrics are served, once started."""
        return self._page.port if self._page else None

    async def start(self) -> None:
        """Opens the port and serves.

        Raises:
            InputError: if the port is taken, the token file or a TLS file is wrong, or the address needs more
                protection than there is.
        """
        self._security.check_server(self.name, self.bind)
        credentials = server_credentials(self._security.tls) if self._security.tls else None
        key = f"cluster.services.{self.name}"
        check_port(self.bind, self.port, service=self.name, port_key=f"{key}.port", bind_key=f"{key}.bind")
        callers = Callers(self.name, self._security, self._tenants)
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_not_of_a_client_that_left)
        server = self._assemble(callers)
        page = None if self._metrics_port is None else self._page_of(self._metrics_port, callers)
        try:
            self.port = (
                server.add_secure_port(self.address, credentials)
                if credentials
                else server.add_insecure_port(self.address)
            )
        except RuntimeError as error:
            # Somebody was faster than the check above.
            if page:
                page.close()
            raise InputError(f"{self.name} cannot listen on {self.address}; set {key}.port to a free port") from error
        for mount in self._mounts:
            await self.set_serving(True, mount.service)
        await server.start()
        self._server, self._page = server, page
        _LOGGER.info("%s listens on %s%s", self.name, self.address, " (TLS)" if credentials else "")

    def _page_of(self, port: int, callers: Callers) -> MetricsPage:
        self._security.check_server(f"metrics of {self.name}", self._metrics_bind)
        bind, tls = self._metrics_bind, self._security.tls
        return MetricsPage(self.registry, self.name, port, bind, callers=callers, tls=tls)

    def _assemble(self, callers: Callers) -> aio.Server:
        self._guard = guard = CallGuard(
            self.name,
            callers,
            CallMetrics(self.registry),
            translations=self._translations,
            draining=self.draining,
            end_at_drain=self._end_at_drain,
            tracing=self._tracing,
            audit=self._audit,
        )
        server = aio.server(interceptors=[guard], options=SERVER_OPTIONS)
        for mount in self._mounts:
            mount.add(mount.servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        services = [mount.service for mount in self._mounts]
        reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        return server

    async def set_serving(self, serving: bool, service: str = "") -> None:
        """Sets what health says of one service, by its full name; empty: of the server as a whole."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(service, status)

    async def stop(self, grace: float | None = None) -> None:
        """Drains and stops: health says NOT_SERVING, new calls are refused, running ones have `grace` seconds to end.

        Args:
            grace: None: the server's `drain_seconds`. 0 cuts running calls off, also those that an earlier `stop`
                still waits for.
        """
        if self._server is None:
            return
        if not self.draining.is_set():
            await self._health.enter_graceful_shutdown()
            await asyncio.sleep(_NOTICE_SECONDS)
            self.draining.set()
        end = time.monotonic() + (self.drain_seconds if grace is None else grace)
        # Only then, since from there on gRPC cancels new calls without a word.
        while self._guard is not None and self._guard.running and time.monotonic() < end:
            await asyncio.sleep(_QUIET_SECONDS)
        if time.monotonic() < end:
            await self._refuse_late_calls()
        await self._server.stop(max(0.0, end - time.monotonic()))
        if self._page:
            self._page.close()
            self._page = None
        _LOGGER.info("%s has stopped", self.name)

    async def _refuse_late_calls(self) -> None:
        """Lets calls that are at the port already be told that the server is shutting down."""
        end = time.monotonic() + _LONGEST_QUIET_SECONDS
        seen = -1
        while self._guard is not None and self._guard.arrived != seen and time.monotonic() < end:
            seen = self._guard.arrived
            await asyncio.sleep(_QUIET_SECONDS)

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serves until SIGTERM or SIGINT, then drains; a second signal ends running calls at once.

        Args:
            ready: called when the port is open.

        Raises:
            InputError: as `start` does.
        """
        with signals() as arrived:
            await self.start()
            if ready is not None:
                ready()
            await arrived.get()
            drain = asyncio.ensure_future(self.stop())
            again = asyncio.ensure_future(arrived.get())
            await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
            if not drain.done():
                await self.stop(0)
            await drain

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


@contextmanager
def signals() -> Generator["asyncio.Queue[signal.Signals]"]:
    """Takes SIGTERM and SIGINT for the time of a block, in the main thread, and queues them."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
    taken = (signal.SIGTERM, signal.SIGINT)
    for number in taken:
        loop.add_signal_handler(number, arrived.put_nowait, number)
    try:
        yield arrived
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
