"""Answers that end when their client goes: server-sent events, and waiting no longer than somebody listens."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from yuan_events import YuanError
from yuan_gateway.errors import Refused, facts_of, names_of

_T = TypeVar("_T")

DONE = "data: [DONE]\n\n"

ALSO_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""Of a route's schema: its answer is JSON, or events if `stream` says so."""

_GONE = 499


async def unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """Awaits a result, or ends what makes it when the client has gone.

    Raises:
        Refused: if the client has gone; nobody reads it.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused("the client has gone", status=_GONE)
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def events_of(request: Request, chunks: AsyncGenerator[dict[str, Any]]) -> "EventStream":
    """Returns a stream of events; what goes wrong before the first one has a status of its own.

    Raises:
        YuanError: what the chunks raise before the first.
    """
    try:
        first = await unless_gone(request, anext(chunks))
    except BaseException:
        await chunks.aclose()
        raise
    return EventStream(_lines(first, chunks, names_of(request)))


async def _lines(
    first: dict[str, Any], chunks: AsyncGenerator[dict[str, Any]], names: Mapping[str, str]
) -> AsyncIterator[str]:
    async with aclosing(chunks):
        yield _line(first)
        try:
            async for chunk in chunks:
                yield _line(chunk)
        except (YuanError, Refused) as error:
            # The status has been sent: the client reads it here.
            yield _line(facts_of(error, names)[1])
    yield DONE


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """Server-sent events. Whatever ends them, what makes them is closed before this returns."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all, or stops when the client has gone."""
        sending = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sending.cancel()
            results = await asyncio.gather(sending, gone, return_exceptions=True)
            await self._lines.aclose()  # type: ignore[attr-defined]
        error = results[0]
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise error


async def merged(sources: Sequence[AsyncGenerator[_T]]) -> AsyncGenerator[_T]:
    """Yields what several sources yield, as it comes; the first that fails ends all."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as only:
            async for item in only:
                yield item
        return
    queue: asyncio.Queue[tuple[_T | None, BaseException | None]] = asyncio.Queue(maxsize=1)

    async def pump(source: AsyncGenerator[_T]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await queue.put((item, None))
        except Exception as error:  # noqa: BLE001 - raised again by who reads
            await queue.put((None, error))
            return
        await queue.put((None, None))

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        left = len(tasks)
        while left:
            item, error = await queue.get()
            if error is not None:
                raise error
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
