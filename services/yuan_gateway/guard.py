"""What happens around every request: its id, its size and the time its body may take, metrics, a span, a log line.

What goes wrong that nobody expected becomes a status here, with an incident's number for whoever reads the log.
"""

import asyncio
import logging
import secrets
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from yuan_gateway.errors import Refused, answer_of
from yuan_gateway.state import Gateway
from yuan_rpc import AuditEntry, Caller

_LOGGER = logging.getLogger("yuan_gateway")

MOST_BODY_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 60.0
"""How long a body may take, all of it."""

_REFUSED = frozenset({401, 403})

_LONGEST_ID = 100
_ALSO_AT_DRAIN = frozenset({"/health", "/ready", "/metrics"})
_QUIET = _ALSO_AT_DRAIN
"""Paths whose requests write no line."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request_id = _request_id(request.headers)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 499
        started = time.monotonic()

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if status == 408 or self._gateway.draining:
                    headers["connection"] = "close"
            await send(message)

        with (
            self._gateway.running(),
            self._gateway.metrics.measure() as outcome,
            self._gateway.tracing.span(
                f"{scope['method']} {scope['path']}"[:200], {"request.id": request_id}, parent=dict(request.headers)
            ) as span,
        ):
            try:
                await self._answer(scope, _bounded(request.headers, receive), tell)
            finally:
                outcome.status, outcome.route = status, _route_of(scope)
                span.set({"http.response.status_code": status})
        await self._tell_refusal(request, status, outcome.route)
        if scope["path"] not in _QUIET:
            self._gateway.log.write(
                event="http",
                request_id=request_id,
                method=scope["method"],
                route=outcome.route,
                status=status,
                tenant=caller.name if (caller := getattr(request.state, "caller", None)) else None,
                seconds=round(time.monotonic() - started, 6),
            )

    async def _tell_refusal(self, request: Request, status: int, route: str) -> None:
        if status not in _REFUSED or self._gateway.audit is None:
            return
        caller: Caller | None = getattr(request.state, "caller", None)
        who, role = (str(caller), caller.role) if caller else ("unknown", "")
        peer = f"{request.client.host}:{request.client.port}" if request.client else ""
        entry = AuditEntry(who, role, "gateway", f"{request.method} {route}", {}, str(status), peer)
        await asyncio.to_thread(self._gateway.audit.refusal, entry)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def mark(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        request = Request(scope)
        try:
            if self._gateway.draining and scope["path"] not in _ALSO_AT_DRAIN:
                refused = Refused("the gateway is shutting down", status=503, code="shutting_down")
                await answer_of(request, refused)(scope, receive, mark)
                return
            await self._app(scope, receive, mark)
        except Exception as error:  # whatever a route raises, the client gets a status of ours
            incident = secrets.token_hex(4)
            _LOGGER.error("%s failed unexpectedly (incident %s)", _route_of(scope), incident, exc_info=error)
            if begun:
                raise
            text = f"the gateway failed unexpectedly; its log says why under incident {incident}"
            await answer_of(request, Refused(text, status=500, code="internal"))(scope, receive, mark)


def _request_id(headers: Headers) -> str:
    """Returns the caller's id where it is one that a log may have, else one of our own."""
    given = headers.get("x-request-id", "")
    return given if 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable() else uuid.uuid4().hex


def _route_of(scope: Scope) -> str:
    """Returns the route's pattern: of paths that nobody serves there are as many as callers make up."""
    return getattr(scope.get("route"), "path", "unknown")


def _bounded(headers: Headers, receive: Receive) -> Receive:
    """Returns a receive that refuses a body which is too large, or too slow."""
    declared = headers.get("content-length", "0")
    too_large = HTTPException(413, f"the body is larger than {MOST_BODY_BYTES // 2**20} MiB")
    received, whole = 0, False
    deadline: float | None = None

    async def bounded() -> Any:
        nonlocal received, whole, deadline
        if whole:
            return await receive()
        if not declared.isdigit() or int(declared[:20]) > MOST_BODY_BYTES:
            raise too_large
        loop = asyncio.get_running_loop()
        deadline = deadline or loop.time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not come within {BODY_SECONDS:g} s") from None
        received += len(message.get("body", b""))
        if received > MOST_BODY_BYTES:
            raise too_large
        whole = not message.get("more_body", False)
        return message

    return bounded
