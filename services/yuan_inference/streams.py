"""From the engine's thread to a handler of the server: a request's outputs in the event loop, in order.

Outputs that came while the handler was busy are handed over as one, so that a slow reader gets longer pieces rather
than a longer queue.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

from yuan_inference.engine import Engine, Failure, Output, Request
from yuan_rpc import Internal, ResourceExhausted, RpcError, Unavailable

_SECONDS_UNTIL_ANOTHER_TRY = 1.0


async def outputs(engine: Engine, request: Request) -> AsyncGenerator[Output]:
    """Submits a request and yields what comes back; however this ends, the request ends too.

    Raises:
        QueueFull, EngineStopped, StructureError, UnknownAdapter, ValueError: as `Engine.submit`, before anything is
            yielded.
        RpcError: if the request failed.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Output] = asyncio.Queue()

    def deliver(output: Output) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, output)

    try:
        if request.sampling.structure is None:
            engine.submit(request, deliver)
        else:  # the grammar is compiled first
            await asyncio.to_thread(engine.submit, request, deliver)
        while True:
            parts = [await arrived.get(), *(arrived.get_nowait() for _ in range(arrived.qsize()))]
            for output in _joined(parts):
                if output.error:
                    raise failed(output)
                if output.text or output.token_ids or output.prompt_logprobs or output.finish_reason is not None:
                    yield output
                if output.last:
                    return
    finally:
        # Also where the client has gone or its deadline passed; one that has ended is not known any more.
        engine.abort(request.id)


def failed(output: Output) -> RpcError:
    """Returns what the failure of a request means to its client."""
    text = f"the request failed: {output.error}"
    if output.failure is Failure.memory:
        return ResourceExhausted(text, _SECONDS_UNTIL_ANOTHER_TRY)
    return Unavailable(text, _SECONDS_UNTIL_ANOTHER_TRY) if output.failure is Failure.engine else Internal(text)


def _joined(parts: list[Output]) -> Iterator[Output]:
    """Joins what belongs to one continuation; the one whose output is the last of all stays the last."""
    by_index: dict[int, list[Output]] = {}
    for part in parts:
        # Put behind the others: what came last is told last.
        by_index[part.index] = [*by_index.pop(part.index, []), part]
    for group in by_index.values():
        yield group[-1] if len(group) == 1 else _sum(group)


def _sum(group: list[Output]) -> Output:
    return replace(
        group[-1],
        text="".join(part.text for part in group),
        token_ids=tuple(token for part in group for token in part.token_ids),
        logprobs=tuple(one for part in group for one in part.logprobs),
        prompt_logprobs=tuple(one for part in group for one in part.prompt_logprobs),
        cached_tokens=sum(part.cached_tokens for part in group),
    )
