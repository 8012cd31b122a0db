"""The page at which a server shows its Prometheus metrics: `/metrics` on a port of its own, for whoever may read it.

From this machine it is read without a token, as a probe or a person at the shell does; from elsewhere with the token of
any of the stack's callers (a tenant of role viewer is enough), and over TLS where the stack has it.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from yuan_events import InputError
from yuan_rpc.addresses import check_port, is_loopback, join_address
from yuan_rpc.callers import Callers
from yuan_rpc.errors import Unauthenticated
from yuan_rpc.security import Tls

LOOPBACK = "127.0.0.1"

_SILENCE_S = 10.0
"""How long a connection may say nothing."""

_Start = Callable[..., Any]


class MetricsPage:
    """`http://BIND:PORT/metrics`, served by threads of its own."""

    def __init__(
        self,
        registry: CollectorRegistry,
        service: str,
        port: int,
        bind: str = LOOPBACK,
        *,
        callers: Callers | None = None,
        tls: Tls | None = None,
    ) -> None:
        """Starts to serve.

        Args:
            registry: what is shown.
            service: whose metrics they are, for messages.
            port: 0: any free one.
            bind: address to listen on.
            callers: who may read it from elsewhere; None: nobody.
            tls: of a page that is open to other machines; None: clear text.

        Raises:
            InputError: if the port is taken, or a TLS file is wrong.
        """
        key = f"cluster.services.{service}.metrics"
        if port:
            bind_key = f"{key}_port" if is_loopback(bind) else f"{key}_bind"
            check_port(bind, port, service=f"metrics of {service}", port_key=f"{key}_port", bind_key=bind_key)
        try:
            self._server = _Server((bind, port), _Handler)
        except OSError as error:
            address = join_address(bind, port)
            raise InputError(f"metrics of {service} cannot listen on {address}: {error}; see {key}_port") from error
        if tls is not None and not is_loopback(bind):
            # The handshake is the handler's, in a thread: a client that says nothing holds up nobody.
            context = _server_context(tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.set_app(_page(registry, callers))
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Binds without asking the name service who we are, which may take seconds."""
        # Else connections of a page that has ended would hold the port for a minute (TIME_WAIT).
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), self.socket.getsockname()[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: scanners and clients that go away are no news."""
        del request, client_address


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_S

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: it is read every few seconds."""
        del format, arguments


def _page(registry: CollectorRegistry, callers: Callers | None) -> Callable[[dict[str, Any], _Start], Iterable[bytes]]:
    def answer(environment: dict[str, Any], start: _Start) -> Iterable[bytes]:
        if not is_loopback(str(environment.get("REMOTE_ADDR", ""))):
            try:
                if callers is None:
                    raise Unauthenticated("metrics are for this machine alone")
                callers.find(environment.get("HTTP_AUTHORIZATION"))
            except Unauthenticated as error:
                start("401 Unauthorized", [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
                return [f"{error}\n".encode()]
        body = generate_latest(registry)
        start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(body)))])
        return [body]

    return answer


def _server_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.client_authority)
    try:
        context.load_cert_chain(str(tls.certificate), tls.key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{tls.certificate}: {error}; see cluster.security.tls") from error
    if tls.client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
