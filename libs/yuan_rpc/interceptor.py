"""What happens around every handler: token and role, audit, errors into statuses, metrics, versions, the drain.

One interceptor does it all, since the order matters: a call without the token is counted and told its status too.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Never, TypeAlias, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from yuan_events import YuanError, one_line
from yuan_rpc.access import HEALTH, rule_of
from yuan_rpc.audit import AuditEntry, AuditLog, object_of
from yuan_rpc.callers import Caller, Callers, current_caller
from yuan_rpc.errors import (
    DETAILS_KEY,
    Internal,
    InvalidArgument,
    RpcError,
    Translations,
    Unavailable,
    as_rpc_error,
    status_of,
)
from yuan_rpc.failures import RpcFailed, relay
from yuan_rpc.metrics import CallMetrics, CallOutcome
from yuan_rpc.security import TOKEN_KEY
from yuan_rpc.tracing import OFF, Tracing
from yuan_rpc.version import TIME_KEY, VERSION, VERSION_KEY

_LOGGER = logging.getLogger("yuan_rpc.server")

_to_tell: ContextVar[bool] = ContextVar("_to_tell", default=False)
"""Whether the call that is being handled got past token and role and has not been told to the audit log yet."""

# A caller whose deadline is over says so by cancelling, and the server's clock of it is behind by what a call is under
# way, and by how far gRPC has rounded the time up that it wrote into the call (`timeout_encoding.cc`: two to three
# digits).
_UNDER_WAY_S = 0.2
_ROUNDED_UP = 0.011

# Text, since these classes are generic in their type stubs alone.
_Context: TypeAlias = "aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True)
class _Undecodable:
    """Bytes that are no message of the method's type: broken, or with text that is not UTF-8."""

    reason: str


class CallGuard(aio.ServerInterceptor):
    """Stands around every handler of one server.

    Attributes:
        arrived: calls that have come.
        running: calls that are being answered.
    """

    def __init__(
        self,
        name: str,
        callers: Callers,
        metrics: CallMetrics,
        *,
        translations: Translations,
        draining: asyncio.Event,
        end_at_drain: Collection[str],
        tracing: Tracing = OFF,
        audit: AuditLog | None = None,
    ) -> None:
        """Makes the guard.

        Args:
            name: the server's name in messages.
            callers: who is let in.
            metrics: where calls are counted.
            translations: errors of other layers.
            draining: set when the server is about to stop; calls that come then are refused.
            end_at_drain: full method names of streams without an end of their own; they end with UNAVAILABLE then.
            tracing: makes a span of each call but those of health.
            audit: where changes and refusals are told of; None: nowhere.
        """
        self._name = name
        self._callers = callers
        self._metrics = metrics
        self._translations = {RpcFailed: relay, **translations}
        self._draining = draining
        self._end_at_drain = frozenset(end_at_drain)
        self._tracing = tracing
        self._audit = audit
        self.arrived = self.running = 0
        self._wrapped: dict[str, _Handler] = {}
        self._other_versions: set[str] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Returns the method's handler with the guard around it."""
        self.arrived += 1
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
            self.running += 1
            try:
                return await measured(request, context)
            finally:
                self.running -= 1

        async def measured(request: Any, context: _Context) -> Any:
            with self._metrics.measure(method) as outcome:
                if not self._tracing.enabled or method.startswith(HEALTH):
                    return await self._call(inner, method, request, context, outcome)
                metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
                with self._tracing.span(method.lstrip("/"), {"rpc.system": "grpc"}, parent=metadata) as span:
                    try:
                        return await self._call(inner, method, request, context, outcome)
                    finally:
                        span.set({"rpc.grpc.status": outcome.code.name})

        def decode(data: bytes) -> Any:
            # gRPC itself would log a traceback and answer INTERNAL, though it is the caller who is to blame.
            try:
                return handler.request_deserializer(data) if handler.request_deserializer else data
            except DecodeError as error:
                return _Undecodable(one_line(error).rpartition(": ")[2])

        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[streams_in, streams_out]
        return make(guarded, decode, handler.response_serializer)

    async def _call(
        self,
        inner: Callable[[Any, _Context], Awaitable[Any]],
        method: str,
        request: Any,
        context: _Context,
        outcome: CallOutcome,
    ) -> Any:
        context.set_trailing_metadata(((VERSION_KEY, VERSION), (TIME_KEY, f"{time.time():.3f}")))
        allowed = cast("float | None", context.time_remaining())
        try:
            await self._admit(method, context)
            if self._draining.is_set() and not method.startswith(HEALTH):
                raise self._leaving()
            if isinstance(request, _Undecodable):
                raise InvalidArgument(f"the request is no message of {method}: {request.reason}")
            work = inner(request, context)
            reply = await (self._until_drain(work) if method in self._end_at_drain else work)
            # A handler may have set a status of its own without raising.
            outcome.code = _status_code(context.code()) or grpc.StatusCode.OK
            await self._tell_change(method, context, outcome.code, reply, request)
            return reply
        except aio.AbortError:
            outcome.code = _status_code(context.code()) or grpc.StatusCode.UNKNOWN
            await self._tell_change(method, context, outcome.code, request)
            raise
        except asyncio.CancelledError:
            # By the client or by its deadline; the handler's own `finally` has run.
            left = cast("float | None", context.time_remaining())
            late = left is not None and left <= max(_UNDER_WAY_S, _ROUNDED_UP * (allowed or 0.0))
            outcome.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            await self._tell_change(method, context, outcome.code, request)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, the client gets a status of ours
            await self._abort(context, error, method, request, outcome)

    async def _admit(self, method: str, context: _Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        if not method.startswith(HEALTH):
            caller: Caller | None = None
            try:
                caller = self._callers.find(metadata.get(TOKEN_KEY))
                caller.require(rule_of(method).role, method.rpartition("/")[2])
            except RpcError as refusal:
                raise await self._tell_refusal(method, context, caller, refusal) from None
            # Every call is handled in a context of its own, so that nothing has to put it back.
            current_caller.set(caller)
            _to_tell.set(True)
        version = str(metadata.get(VERSION_KEY, ""))
        if version not in {"", VERSION} and version not in self._other_versions and len(self._other_versions) < 100:
            self._other_versions.add(version)
            _LOGGER.warning("%s runs version %s and is called by version %s", self._name, VERSION, version[:50])

    async def _tell_refusal(self, method: str, context: _Context, caller: Caller | None, refusal: RpcError) -> RpcError:
        if self._audit is not None:
            who, role = (str(caller), caller.role) if caller else ("unknown", "")
            peer, code = _peer(context), refusal.code.name
            entry = AuditEntry(who, role, self._name, method, {}, code, peer, reason=str(refusal))
            await asyncio.to_thread(self._audit.refusal, entry)
        return refusal

    async def _tell_change(self, method: str, context: _Context, code: grpc.StatusCode, *messages: Any) -> None:
        rule = rule_of(method)
        if self._audit is None or not rule.changes or not _to_tell.get():
            return
        _to_tell.set(False)
        caller = current_caller.get()
        about = object_of(rule.about, *messages)
        entry = AuditEntry(str(caller), caller.role, self._name, method, about, code.name, _peer(context))
        # To its end: a caller who leaves at the right moment does not stand in no log.
        await asyncio.shield(asyncio.to_thread(self._audit.change, entry))

    def _leaving(self) -> RpcError:
        return Unavailable(f"{self._name} is shutting down", retry_after=1.0)

    async def _until_drain(self, work: Awaitable[Any]) -> Any:
        call = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({call, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise self._leaving()
            return await call
        finally:
            call.cancel()
            stop.cancel()
            await asyncio.gather(call, stop, return_exceptions=True)

    async def _abort(
        self, context: _Context, error: Exception, method: str, request: Any, outcome: CallOutcome
    ) -> Never:
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
        await self._tell_change(method, context, meaning.code, request)
        await context.abort(
            meaning.code,
            status.message,
            ((DETAILS_KEY, status.SerializeToString()), (VERSION_KEY, VERSION)),
        )


def _peer(context: _Context) -> str:
    return unquote(str(context.peer() or ""))


def _status_code(value: Any) -> grpc.StatusCode | None:
    """Returns a context's status, which is an enum, its number, or nothing yet."""
    if isinstance(value, grpc.StatusCode):
        return value
    return next((code for code in grpc.StatusCode if value is not None and code.value[0] == value), None)
