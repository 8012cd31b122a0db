"""A client's connection to one server: stubs, sync and async, that bring token and version and have deadlines.

Calls that change nothing are repeated on UNAVAILABLE (`policy.py`); nothing waits for a server that is not there. What
a failed call means to a user is in `failures.py`; `errors()` puts it in place of gRPC's own exception.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from yuan_rpc.addresses import join_address
from yuan_rpc.failures import RpcFailed, failure_of
from yuan_rpc.options import COMMON_OPTIONS
from yuan_rpc.policy import SECONDS, UNARY_SECONDS, service_config
from yuan_rpc.security import TOKEN_KEY, Security, bearer, channel_credentials
from yuan_rpc.version import TIME_KEY, VERSION, VERSION_KEY, check_version
from yuan_rpc.watched import Watched

_StubT = TypeVar("_StubT")

_Metadata = Callable[[], Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class ServerFacts:
    """What a server tells without a token.

    Attributes:
        status: health, a number of `HealthCheckResponse`.
        version: its release; empty where it says none.
        ahead_seconds: by how much its clock is ahead of ours, to half the time that the call took; None: not told.
    """

    status: int
    version: str
    ahead_seconds: float | None

    @property
    def serving(self) -> bool:
        """Whether it answers calls."""
        return self.status == health_pb2.HealthCheckResponse.SERVING


class Connection:
    """A server that calls can be made to; connects at the first one. Sync stubs may be shared by threads.

    Async stubs belong to the event loop in which the first of them is made.
    """

    def __init__(
        self,
        service: str,
        host: str,
        port: int,
        security: Security | None = None,
        *,
        timeout: float = UNARY_SECONDS,
    ) -> None:
        """Describes a connection; nothing is opened yet.

        Args:
            service: the server's key under `cluster.services`, for messages.
            host: name or address.
            port: its port.
            security: token and TLS; None: neither.
            timeout: deadline in seconds of unary calls that name none.

        Raises:
            InputError: if the token or a TLS file is wrong, or the token would leave this machine in clear text.
        """
        security = security or Security()
        security.check_client(service, host)
        self._token = security.token_source()
        self.service = service
        self.address = join_address(host, port)
        self._token_file = str(security.token_file) if security.token_file else None
        self._timeout = timeout
        tls = security.tls
        self._credentials = None if tls is None else tls.watched(partial(channel_credentials, tls))
        self._options = [
            *COMMON_OPTIONS,
            ("grpc.service_config", service_config()),
            # A channel of its own for every connection: one that has just failed to connect is not shared.
            ("grpc.use_local_subchannel_pool", 1),
            # A stack that has just come up is found at once; gRPC would wait up to two minutes between tries.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # A proxy for the web is none for the stack.
            ("grpc.enable_http_proxy", 0),
        ]
        self._has_answered = False
        self._sync = _Channels(
            grpc.secure_channel, grpc.insecure_channel, self.address, self._credentials, self._options
        )
        self._async = _Channels(
            aio.secure_channel, aio.insecure_channel, self.address, self._credentials, self._options
        )

    @property
    def server(self) -> str:
        """The server's name for messages, `127.0.0.1:7102 (trainer)`."""
        return f"{self.address} ({self.service})"

    def stub(self, make: Callable[[grpc.Channel], _StubT]) -> _StubT:
        """Returns a sync stub.

        Args:
            make: the generated class, `jobs_pb2_grpc.JobServiceStub`.
        """
        self._sync.open()
        return make(cast("grpc.Channel", _Calls(self._sync, self._metadata, self._timeout)))

    def aio_stub(self, make: Callable[[aio.Channel], _StubT]) -> _StubT:
        """Returns an async stub; to be called in the event loop that uses it.

        Args:
            make: the generated class, `jobs_pb2_grpc.JobServiceStub`.
        """
        self._async.open()
        return make(cast("aio.Channel", _Calls(self._async, self._metadata, self._timeout)))

    def _metadata(self) -> list[tuple[str, str]]:
        """Returns what every call brings; the token is that of its file at this moment."""
        token = self._token()
        own = [] if token is None else [(TOKEN_KEY, bearer(token))]
        return [(VERSION_KEY, VERSION), *own]

    @contextmanager
    def errors(self, timeout: float | None = None) -> Generator[None]:
        """Raises `RpcFailed` in place of what gRPC raises in the block, which may await.

        Args:
            timeout: the deadline that the block's calls were given, for the message.
        """
        try:
            yield
        except grpc.RpcError as error:
            raise self.failure(error, timeout) from error
        self._has_answered = True

    def failure(self, error: grpc.RpcError, timeout: float | None = None) -> RpcFailed:
        """Returns what a failed call of this connection means to a user."""
        return failure_of(
            error,
            self.server,
            token_file=self._token_file,
            tls=self._credentials is not None,
            timeout=timeout,
            has_answered=self._has_answered,
        )

    def is_serving(self, service: str = "", timeout: float = 2.0) -> bool:
        """Asks the server's health; needs no token.

        Args:
            service: full name of one service; empty: the server as a whole.
            timeout: seconds.

        Returns:
            False while it says NOT_SERVING, or does not know the service.

        Raises:
            RpcFailed: if it cannot be reached.
        """
        return self.facts(service, timeout).serving

    def check_version(self, timeout: float = 2.0) -> None:
        """Checks that the server is of this client's release; needs no token.

        Raises:
            VersionMismatch: if it is not.
            RpcFailed: if it cannot be reached.
        """
        check_version(f"the server at {self.server}", self.facts(timeout=timeout).version)

    def wait_until_serving(self, seconds: float, service: str = "", give_up: Callable[[], bool] | None = None) -> bool:
        """Waits for the server to come up.

        Args:
            seconds: how long at most.
            service: full name of one service; empty: the server as a whole.
            give_up: asked between tries; true ends the wait (the process has died).

        Returns:
            Whether it serves.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                if self.is_serving(service, timeout=max(0.1, min(2.0, end - time.monotonic()))):
                    return True
            except RpcFailed:
                # Not up yet.
                pass
            if time.monotonic() >= end or (give_up is not None and give_up()):
                return False
            time.sleep(0.1)

    def facts(self, service: str = "", timeout: float = 2.0) -> ServerFacts:
        """Asks what a server tells anybody; needs no token.

        Args:
            service: full name of one service whose health it is; empty: the server as a whole.
            timeout: seconds.

        Raises:
            RpcFailed: if it cannot be reached.
        """
        stub = cast("Any", self.stub(health_pb2_grpc.HealthStub))
        with self.errors(timeout):
            try:
                before = time.time()
                reply, call = stub.Check.with_call(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
                between = (before + time.time()) / 2
            except grpc.RpcError as error:
                if cast("Any", error).code() == grpc.StatusCode.NOT_FOUND:
                    return ServerFacts(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN, "", None)
                raise
        metadata: dict[str, Any] = dict(call.trailing_metadata() or ())
        try:
            ahead = float(metadata[TIME_KEY]) - between
        except (KeyError, ValueError):
            ahead = None
        return ServerFacts(reply.status, str(metadata.get(VERSION_KEY, "")), ahead)

    def check_token(self, timeout: float = 2.0) -> None:
        """Checks that the server knows this connection's token, by asking what it serves.

        Raises:
            RpcFailed: if it does not, or cannot be reached.
        """
        stub = cast("Any", self.stub(reflection_pb2_grpc.ServerReflectionStub))
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with self.errors(timeout):
            for _ in stub.ServerReflectionInfo(iter([request]), timeout=timeout):
                pass

    def close(self) -> None:
        """Closes what sync stubs use; running calls end."""
        for channel in self._sync.take():
            channel.close()

    async def aclose(self) -> None:
        """Closes what async and sync stubs use; running calls end."""
        self.close()
        for channel in self._async.take():
            await channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Channels:
    """The channel of a connection; another one as soon as files of TLS have changed, so that what they say holds.

    The one before is closed with the connection: calls still run on it.
    """

    def __init__(
        self,
        secure: Callable[..., Any],
        insecure: Callable[..., Any],
        address: str,
        credentials: "Watched[grpc.ChannelCredentials] | None",
        options: Sequence[tuple[str, Any]],
    ) -> None:
        self._secure, self._insecure = secure, insecure
        self._address, self._options = address, options
        self._credentials = credentials
        self._used: grpc.ChannelCredentials | None = None
        self._opened: list[Any] = []

    def open(self) -> Any:
        """Returns the channel, opened if need be."""
        if self._credentials is None:
            if not self._opened:
                self._opened.append(self._insecure(self._address, self._options))
        elif not self._opened or self._credentials.get() is not self._used:
            self._used = self._credentials.get()
            self._opened.append(self._secure(self._address, self._used, self._options))
        return self._opened[-1]

    def current(self) -> Any:
        """Returns the channel as `open`; None once it has been closed: who calls on is told so by gRPC."""
        return self.open() if self._opened else None

    def take(self) -> list[Any]:
        """Returns all that were opened, to be closed."""
        taken, self._opened = self._opened, []
        return taken


@dataclass(frozen=True)
class _Calls:
    """As much of a channel as generated stubs use, each call with our metadata and a deadline.

    In place of interceptors: of those there are eight kinds, and those of async streams end calls differently.
    """

    channels: _Channels
    metadata: _Metadata
    timeout: float

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> "_Call":
        timeout = SECONDS.get(method, self.timeout)
        return self._call("unary_unary", timeout, method, *arguments, **options)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> "_Call":
        return self._call("unary_stream", None, method, *arguments, **options)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> "_Call":
        return self._call("stream_unary", None, method, *arguments, **options)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> "_Call":
        return self._call("stream_stream", None, method, *arguments, **options)

    def _call(self, kind: str, timeout: float | None, *arguments: Any, **options: Any) -> "_Call":
        return _Call(
            self.channels, lambda channel: getattr(channel, kind)(*arguments, **options), self.metadata, timeout
        )


class _Call:
    """One method of a stub; `timeout` is what holds unless a call names its own, None: no deadline."""

    def __init__(
        self, channels: _Channels, make: Callable[[Any], Any], metadata: _Metadata, timeout: float | None
    ) -> None:
        self._channels, self._make = channels, make
        self._metadata, self._timeout = metadata, timeout
        channel = channels.open()
        self._made: tuple[Any, Any] = (channel, make(channel))

    @property
    def _inner(self) -> Any:
        channel = self._channels.current()
        if channel is not None and channel is not self._made[0]:
            self._made = (channel, self._make(channel))
        return self._made[1]

    def __call__(self, request: Any = None, **options: Any) -> Any:
        return self._inner(request, **self._options(options))

    def with_call(self, request: Any, **options: Any) -> Any:
        return self._inner.with_call(request, **self._options(options))

    def future(self, request: Any, **options: Any) -> Any:
        return self._inner.future(request, **self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        own = options.get("metadata") or ()
        return {"timeout": self._timeout, **options, "metadata": (*self._metadata(), *own)}
