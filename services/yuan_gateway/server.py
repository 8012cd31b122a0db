"""The gateway's process: port, TLS, signals, an orderly end. What it answers is in `app.py`."""

import asyncio
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from yuan_events import InputError
from yuan_gateway.app import create_app
from yuan_gateway.protocol import ImpatientProtocol
from yuan_gateway.state import Gateway
from yuan_gateway.tls import renew
from yuan_jobs.arguments import cluster_of
from yuan_manifest import ClusterManifest
from yuan_rpc import check_port, join_address, security_of, service_of
from yuan_rpc.open_files import allow_many_connections
from yuan_rpc.security import server_credentials
from yuan_rpc.server import signals

_LOGGER = logging.getLogger("yuan_gateway.server")

DRAIN_SECONDS = 30.0
"""How long running requests may go on once the gateway is asked to stop."""

_LAST_SECONDS = 2.0
"""Of those: what still runs then is ended, so that its client reads why."""

_BACKLOG = 2048
_GONE_SECONDS = 60
"""A peer that takes nothing for so long has gone; TCP itself would wait for a quarter of an hour, or for ever."""


def run(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        arguments: those after `server`.

    Returns:
        0.

    Raises:
        InputError: if the cluster is wrong, has no gateway, or the port is taken.
    """
    manifest = cluster_of("python -m yuan_gateway server", arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    allow_many_connections()
    asyncio.run(serve(manifest))
    return 0


async def serve(manifest: ClusterManifest, *, drain_seconds: float = DRAIN_SECONDS) -> None:
    """Serves until a signal, in the main thread.

    Args:
        manifest: the cluster.
        drain_seconds: how long running requests may go on then.

    Raises:
        InputError: as `run`.
    """
    section = service_of(manifest.cluster, "gateway")
    host = section.bind or section.host
    security = security_of(manifest.cluster.security)
    security.check_server("gateway", host)
    if security.tls is not None:
        server_credentials(security.tls)  # says which file is wrong
    key = "cluster.services.gateway"
    check_port(host, section.port, service="gateway", port_key=f"{key}.port", bind_key=f"{key}.bind")
    gateway = Gateway.of(manifest)
    tls = security.tls
    config = uvicorn.Config(
        create_app(gateway),
        http=ImpatientProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
        ssl_certfile=_text(tls.certificate) if tls else None,
        ssl_keyfile=_text(tls.key) if tls else None,
        ssl_ca_certs=_text(tls.client_authority) if tls and tls.client_authority else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_authority else ssl.CERT_NONE,
    )
    config.load()
    if tls is not None:
        assert config.ssl is not None  # noqa: S101 - loaded, with a certificate
        renew(config.ssl, tls)
    server = _Server(config)
    with _listen(host, section.port) as listening:
        try:
            with signals() as arrived:
                serving = asyncio.ensure_future(server.serve(sockets=[listening]))
                place = join_address(host, section.port)
                _LOGGER.info("gateway listens on %s%s", place, " (TLS)" if tls else "")
                await asyncio.wait(
                    {serving, first := asyncio.ensure_future(arrived.get())}, return_when=asyncio.FIRST_COMPLETED
                )
                first.cancel()
                await _drain(gateway, arrived, drain_seconds)
                server.should_exit = True
                await serving
        finally:
            await gateway.close()
    _LOGGER.info("gateway has stopped")


async def _drain(gateway: Gateway, arrived: "asyncio.Queue[signal.Signals]", seconds: float) -> None:
    """Waits until no request runs any more, then ends those that still do; a second signal ends them at once."""
    gateway.begin_drain()
    again = asyncio.ensure_future(arrived.get())
    idle = asyncio.ensure_future(gateway.idle())
    await asyncio.wait({again, idle}, timeout=max(0.0, seconds - _LAST_SECONDS), return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not idle.done():
        gateway.cut()
        await asyncio.wait({idle}, timeout=_LAST_SECONDS)
        idle.cancel()


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        # Accepted connections have these from the listening one: peers that vanished, or read nothing, are noticed.
        for level, name, value in (
            (socket.SOL_SOCKET, "SO_REUSEADDR", 1),
            (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
            (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _GONE_SECONDS // 2),
            (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
            (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
            (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", _GONE_SECONDS * 1000),
        ):
            if hasattr(socket, name):
                listening.setsockopt(level, getattr(socket, name), value)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        place = join_address(host, port)
        raise InputError(
            f"gateway cannot listen on {place}: {error.strerror}; set cluster.services.gateway.port to a free port"
        ) from error
    return listening


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
