"""What happens around every handler: the token, errors into statuses, metrics, versions, and the end at a drain.

One interceptor does it all, since the order matters: a call without the token is counted and told its status too.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Any, Never, TypeAlias, cast

import grpc
from grpc import aio

from yuan_events import YuanError
from yuan_rpc.errors import DETAILS_KEY, Internal, Translations, Unauthenticated, Unavailable, as_rpc_error, status_of
from yuan_rpc.failures import RpcFailed, relay
from yuan_rpc.metrics import CallMetrics, CallOutcome
from yuan_rpc.security import TOKEN_KEY, is_bearer
from yuan_rpc.version import TIME_KEY, VERSION, VERSION_KEY

_LOGGER = logging.getLogger("yuan_rpc.server")

_OPEN = "/grpc.health.v1.Health/"
"""Methods that need no token."""

# Text, since these classes are generic in their type stubs alone.
_Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallGuard(aio.ServerInterceptor):
    """Stands around every handler of one server."""

    def __init__(
        self,
        name: str,
        token: str | None,
        metrics: CallMetrics,
        *,
        translations: Translations,
        draining: asyncio.Event,
        end_at_drain: Collection[str],
    ) -> None:
        """Makes the guard.

        Args:
            name: the server's name in messages.
            token: what callers must bring; None: nothing.
            metrics: where calls are counted.
            translations: errors of other layers.
            draining: set when the server is about to stop.
            end_at_drain: full method names of streams without an end of their own; they end with UNAVAILABLE then.
        """
        self._name = name
        self._token = token
        self._metrics = metrics
        self._translations = {RpcFailed: relay, **translations}
        self._draining = draining
        self._end_at_drain = frozenset(end_at_drain)
        self._wrapped: dict[str, _Handler] = {}
        self._other_versions: set[str] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Returns the method's handler with the guard around it."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                # gRPC answers UNIMPLEMENTED.
                return None
            known = self._wrapped[method] = self._wrap(handler, method)
        return known

    def _wrap(self, handler: _Handler, method: str) -> _Handler:
        streams_in, streams_out = bool(handler.request_streaming), bool(handler.response_streaming)
        behaviour: Any = {
            (False, False): handler.unary_unary,
            (False, True): handler.unary_stream,
            (True, False): handler.stream_unary,
            (True, True): handler.stream_stream,
        }[streams_in, streams_out]

        async def answer(request: Any, context: _Context) -> Any:
            return await behaviour(request, context)

        async def stream(request: Any, context: _Context) -> None:
            # Not a generator itself: gRPC drops the generator of a cancelled call, and its `finally` runs when the
            # garbage collector finds it. Closed here, it has run before the call is counted as ended.
            result = behaviour(request, context)
            if not hasattr(result, "__aiter__"):
                await result
                return
            async with aclosing(result) as replies:
                async for reply in cast("AsyncIterator[Any]", replies):
                    await context.write(reply)

        inner = stream if streams_out else answer

        async def guarded(request: Any, context: _Context) -> Any:
            with self._metrics.measure(method) as outcome:
                return await self._call(inner, method, request, context, outcome)

        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[streams_in, streams_out]
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    async def _call(
        self,
        inner: Callable[[Any, _Context], Awaitable[Any]],
        method: str,
        request: Any,
        context: _Context,
        outcome: CallOutcome,
    ) -> Any:
        context.set_trailing_metadata(((VERSION_KEY, VERSION), (TIME_KEY, f"{time.time():.3f}")))
        try:
            self._admit(method, context)
            work = inner(request, context)
            reply = await (self._until_drain(work) if method in self._end_at_drain else work)
            # A handler may have set a status of its own without raising.
            outcome.code = _status_code(context.code()) or grpc.StatusCode.OK
            return reply
        except aio.AbortError:
            outcome.code = _status_code(context.code()) or grpc.StatusCode.UNKNOWN
            raise
        except asyncio.CancelledError:
            # By the client or by its deadline; the handler's own `finally` has run.
            left = cast("float | None", context.time_remaining())
            late = left is not None and left <= 0
            outcome.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, the client gets a status of ours
            await self._abort(context, error, method, outcome)

    def _admit(self, method: str, context: _Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        if self._token is not None and not method.startswith(_OPEN):
            given = metadata.get(TOKEN_KEY)
            if given is None:
                raise Unauthenticated(f"{self._name} asks for a token and the call brought none")
            if not is_bearer(given, self._token):
                raise Unauthenticated(f"{self._name} does not know the token that the call brought")
        version = str(metadata.get(VERSION_KEY, ""))
        if version not in {"", VERSION} and version not in self._other_versions and len(self._other_versions) < 100:
            self._other_versions.add(version)
            _LOGGER.warning("%s runs version %s and is called by version %s", self._name, VERSION, version[:50])

    async def _until_drain(self, work: Awaitable[Any]) -> Any:
        call = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({call, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise Unavailable(f"{self._name} is shutting down", retry_after=1.0)
            return await call
        finally:
            call.cancel()
            stop.cancel()
            await asyncio.gather(call, stop, return_exceptions=True)

    async def _abort(self, context: _Context, error: Exception, method: str, outcome: CallOutcome) -> Never:
        meaning = as_rpc_error(error, self._translations)
        if meaning is None:
            # The client learns nothing of the server's insides, only where to look.
            incident = secrets.token_hex(4)
            _LOGGER.error("%s failed unexpectedly (incident %s)", method, incident, exc_info=error)
            meaning = Internal(f"{self._name} failed unexpectedly; its log says why under incident {incident}")
            error = meaning
        elif not isinstance(error, YuanError):
            _LOGGER.warning("%s: %s", method, meaning)
        status = status_of(meaning, error)
        outcome.code = meaning.code
        await context.abort(
            meaning.code,
            status.message,
            ((DETAILS_KEY, status.SerializeToString()), (VERSION_KEY, VERSION)),
        )


def _status_code(value: Any) -> grpc.StatusCode | None:
    """Returns a context's status, which is an enum, its number, or nothing yet."""
    if isinstance(value, grpc.StatusCode):
        return value
    return next((code for code in grpc.StatusCode if value is not None and code.value[0] == value), None)
