"""The one server of the stack that speaks HTTP, the gateway, as others look at it: whether it serves.

What it answers is in `services/yuan_gateway`.
"""

import http.client
import ssl
from types import TracebackType
from typing import Self

from yuan_events import InputError
from yuan_rpc.addresses import join_address
from yuan_rpc.failures import NotReached, StatusCode
from yuan_rpc.security import Security, Tls

HTTP_SERVICES = frozenset({"gateway"})
"""Services that speak HTTP rather than gRPC."""


class HttpServer:
    """A server that is asked for its health over HTTP; the counterpart of `Connection`."""

    def __init__(self, service: str, host: str, port: int, security: Security | None = None) -> None:
        """Describes it; nothing is opened yet.

        Args:
            service: the server's key under `cluster.services`, for messages.
            host: name or address.
            port: its port.
            security: whose TLS it speaks; None: clear text.

        Raises:
            InputError: if a TLS file is wrong.
        """
        self._host, self._port = host, port
        self._tls = client_context(security.tls) if security is not None and security.tls is not None else None
        self.server = f"{join_address(host, port)} ({service})"

    def is_serving(self, service: str = "", timeout: float = 2.0) -> bool:
        """Asks its health; needs no token.

        Args:
            service: as of `Connection.is_serving`; without meaning here.
            timeout: seconds.

        Returns:
            False while it is about to stop.

        Raises:
            RpcFailed: if it cannot be reached.
        """
        del service
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
            if self._tls
            else http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        )
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NotReached(f"nothing answers HTTP at {self.server}: {reason}", StatusCode.UNAVAILABLE) from error
        finally:
            connection.close()

    def close(self) -> None:
        """Does nothing: a connection is opened for each question."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def client_context(tls: Tls) -> ssl.SSLContext:
    """Returns what a client of an HTTP server needs; with mutual TLS its own certificate, too.

    Raises:
        InputError: naming the file that is missing or wrong.
    """
    try:
        context = ssl.create_default_context(cafile=tls.authority)
        certificate = tls.client_certificate or (tls.certificate if tls.client_authority else None)
        if certificate is not None:
            key = tls.client_key if tls.client_certificate else tls.key
            context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InputError(f"{tls.authority or tls.certificate}: {error}; see cluster.security.tls") from error
    return context
