"""The inference service behind the gateway: calls with the caller's own token, cancelled when the caller goes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from yuan_rpc import Connection, RpcFailed, Security, StatusCode
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from yuan_rpc.security import TOKEN_KEY, bearer
from yuan_rpc.tracing import Tracing

_T = TypeVar("_T")

SHORT_SECONDS = 5.0
"""Of calls that only ask how things stand."""


class Backend:
    """A connection to the inference service that many callers share."""

    def __init__(
        self, host: str, port: int, security: Security, tracing: Tracing, *, own_token: Callable[[], str | None]
    ) -> None:
        """Describes it; nothing is opened yet.

        Args:
            host: of the inference service.
            port: of it.
            security: its TLS; no token: callers bring theirs.
            tracing: whose spans calls belong to.
            own_token: returns that of the gateway's own questions.
        """
        self._connection = Connection("inference", host, port, security)
        self._tracing = tracing
        self._own_token = own_token
        self._calls: set[Any] = set()
        self._is_cut = False

    async def call(self, method: str, request: Any, token: str | None, *, timeout: float | None = None) -> Any:
        """Makes a unary call.

        Args:
            method: `Tokenize`.
            request: its message.
            token: the caller's; None: they brought none.
            timeout: seconds; None: the method's own.

        Raises:
            RpcFailed: if it fails.
        """
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        with self._connection.errors(timeout):
            started = getattr(self._stub, method)(request, metadata=self._metadata(token), **options)
            return await self._whole(started)

    async def ask(self, method: str, request: Any) -> Any:
        """Makes a short call of the gateway's own.

        Raises:
            RpcFailed: if it fails.
        """
        return await self.call(method, request, self._own_token(), timeout=SHORT_SECONDS)

    async def stream(
        self, request: inference_pb2.GenerateRequest, token: str | None
    ) -> AsyncGenerator[inference_pb2.GenerateStreamResponse]:
        """Yields the parts of an answer; where this is left early, the service stops too.

        Raises:
            RpcFailed: if it fails, or the gateway ends.
        """
        with self._connection.errors():
            started = self._stub.GenerateStream(
                inference_pb2.GenerateStreamRequest(request=request), metadata=self._metadata(token)
            )
            parts = aiter(started)
            self._calls.add(started)
            try:
                while True:
                    try:
                        part = await self._part(anext(parts))
                    except StopAsyncIteration:
                        return
                    yield part
            finally:
                self._calls.discard(started)
                started.cancel()

    def cut(self) -> None:
        """Ends all running calls; who waits for them reads that the gateway ends."""
        self._is_cut = True
        for call in list(self._calls):
            call.cancel()

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.aclose()

    async def _whole(self, started: Any) -> Any:
        self._calls.add(started)
        try:
            return await self._part(started)
        finally:
            self._calls.discard(started)
            with suppress(Exception):
                started.cancel()

    async def _part(self, part: Awaitable[_T]) -> _T:
        try:
            return await part
        except asyncio.CancelledError:
            if self._is_cut:
                raise RpcFailed(
                    "the gateway was stopped before the answer was whole", StatusCode.UNAVAILABLE, retry_after=1.0
                ) from None
            raise

    @property
    def _stub(self) -> Any:
        return cast("Any", self._connection.aio_stub(inference_pb2_grpc.InferenceServiceStub))

    def _metadata(self, token: str | None) -> list[tuple[str, str]]:
        own = [] if token is None else [(TOKEN_KEY, bearer(token))]
        return [*own, *self._tracing.headers()]
