"""One stream of server-sent events for a page: how its jobs stand, what they tell, what their processes print.

A browser has six connections to a server, so a page has one stream, whatever it shows. A stream begins at the
beginning; the page forgets what it had. What comes at once in masses is thinned: a curve has no more points than
pixels, and of a log the end is what is read.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from yuan_events import Checkpoint, Message, Metrics, Progress, YuanError, event_from_json
from yuan_gateway.console.access import PATH, Somebody
from yuan_gateway.console.pages import HEADERS
from yuan_gateway.console.shell import console_of
from yuan_gateway.streaming import EventStream
from yuan_jobs.messages import state_of
from yuan_rpc.jobs.v1 import jobs_pb2

router = APIRouter(prefix=PATH, include_in_schema=False)

_MOST_JOBS = 6
_SECONDS_BETWEEN = 0.25
_SECONDS_OF_SILENCE = 15.0
_QUEUE = 5000
_MOST_POINTS, _MOST_LINES = 1500, 1000

_Item = dict[str, Any]


@router.get("/stream")
async def stream(
    request: Request, visitor: Somebody, job: Annotated[list[str], Query()], logs: bool = False
) -> EventStream:
    """Streams what some jobs do."""
    stack = console_of(request).stack
    sources: list[AsyncGenerator[_Item]] = []
    for one in list(dict.fromkeys(job))[:_MOST_JOBS]:
        sources.append(_events(stack.job_stream("Watch", jobs_pb2.WatchRequest(id=one), visitor.token), one))
        if logs:
            follow = jobs_pb2.StreamLogsRequest(id=one, follow=True)
            sources.append(_lines(stack.job_stream("StreamLogs", follow, visitor.token), one))
    answer = EventStream(_messages(request, sources))
    for name, value in HEADERS.items():
        answer.headers[name] = value
    return answer


async def _messages(request: Request, sources: list[AsyncGenerator[_Item]]) -> AsyncGenerator[str]:
    queue: asyncio.Queue[_Item | None] = asyncio.Queue(_QUEUE)

    async def pump(source: AsyncGenerator[_Item]) -> None:
        async with aclosing(source):
            try:
                async for item in source:
                    await queue.put(item)
            except YuanError as error:
                await queue.put({"kind": "problem", "text": str(error)})
            finally:
                await queue.put(None)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    left, silence = len(tasks), 0.0
    try:
        yield "event: reset\ndata: {}\n\n"
        while left and not request.app.state.gateway.draining:
            items: list[_Item] = []
            while len(items) < _QUEUE and not queue.empty():
                item = queue.get_nowait()
                if item is None:
                    left -= 1
                else:
                    items.append(item)
            if items:
                silence = 0.0
                yield f"data: {json.dumps(thinned(items), ensure_ascii=False, separators=(',', ':'))}\n\n"
            elif silence >= _SECONDS_OF_SILENCE:
                silence = 0.0
                yield ": still here\n\n"  # a proxy would close a silent connection
            if left:
                silence += _SECONDS_BETWEEN
                await asyncio.sleep(_SECONDS_BETWEEN)
        if not left:
            yield "event: end\ndata: {}\n\n"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _events(replies: AsyncGenerator[Any], asked: str) -> AsyncGenerator[_Item]:
    async with aclosing(replies):
        async for reply in replies:
            step = reply.step if reply.job_id != asked else ""
            if reply.HasField("job"):
                yield {"kind": "state", "job": asked, "step": step, "state": state_of(reply.job.state).value}
                continue
            try:
                event = event_from_json(reply.event_json)
            except ValueError:  # of a newer server
                continue
            head = {"job": asked, "step": step}
            if isinstance(event, Metrics):
                yield {"kind": "metrics", **head, "at": event.step, "values": dict(event.values)}
            elif isinstance(event, Message):
                yield {"kind": "message", **head, "level": event.level, "text": event.text}
            elif isinstance(event, Checkpoint):
                yield {"kind": "checkpoint", **head, "at": event.step}
            elif isinstance(event, Progress):
                yield {
                    "kind": "progress",
                    **head,
                    "task": event.task,
                    "done": event.done,
                    "total": event.total,
                    "unit": event.unit,
                    "text": event.detail,
                }


async def _lines(replies: AsyncGenerator[Any], asked: str) -> AsyncGenerator[_Item]:
    async with aclosing(replies):
        async for reply in replies:
            yield {"kind": "log", "job": asked, "source": reply.source, "attempt": reply.attempt, "text": reply.line}


def thinned(items: list[_Item]) -> list[_Item]:
    """Returns what a page can show of many items: every n-th point of a curve, the last lines of a log.

    Points that have what no other kind of point has (a validation's loss) are kept, and so is the last one.
    """
    lines = sum(item["kind"] == "log" for item in items)
    points = [item for item in items if item["kind"] == "metrics" and "loss" in item["values"]]
    step = -(-len(points) // _MOST_POINTS)
    kept = {id(item) for item in [*points[::-1][:: max(1, step)]]}
    progress = {(item["job"], item["step"], item["task"]): id(item) for item in items if item["kind"] == "progress"}
    newest = set(progress.values())
    found: list[_Item] = []
    dropped = 0
    for item in items:
        if item["kind"] == "log":
            lines -= 1
            if lines >= _MOST_LINES:
                dropped += 1
                continue
        if item["kind"] == "metrics" and "loss" in item["values"] and id(item) not in kept:
            continue
        if item["kind"] == "progress" and id(item) not in newest:
            continue
        found.append(item)
    if dropped:
        found.insert(0, {"kind": "skipped", "lines": dropped})
    return found
