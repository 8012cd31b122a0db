"""From the engine's thread to a handler of the server: a request's outputs in the event loop, in order.

Outputs that came while the handler was busy are handed over as one, so that a slow reader gets longer pieces rather
than a longer queue.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from yuan_inference.engine import Engine, Output, Request
from yuan_rpc import Internal


async def outputs(engine: Engine, request: Request) -> AsyncGenerator[Output]:
    """Submits a request and yields what comes back; however this ends, the request ends too.

    Raises:
        QueueFull, EngineStopped, ValueError: as `Engine.submit`, before anything is yielded.
        Internal: if the request failed.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Output] = asyncio.Queue()
    engine.submit(request, lambda output: loop.call_soon_threadsafe(arrived.put_nowait, output) and None)
    try:
        while True:
            output = _joined([await arrived.get(), *_present(arrived)])
            if output.error:
                raise Internal(f"the request failed: {output.error}")
            if output.text or output.finish_reason is not None or output.token_ids:
                yield output
            if output.last:
                return
    finally:
        # Also where the client has gone or its deadline passed; one that has ended is not known any more.
        engine.abort(request.id)


def _present(arrived: "asyncio.Queue[Output]") -> list[Output]:
    return [arrived.get_nowait() for _ in range(arrived.qsize())]


def _joined(parts: list[Output]) -> Output:
    last = parts[-1]
    if len(parts) == 1:
        return last
    return replace(
        last,
        text="".join(part.text for part in parts),
        token_ids=tuple(token for part in parts for token in part.token_ids),
        logprobs=tuple(one for part in parts for one in part.logprobs),
        prompt_logprobs=tuple(one for part in parts for one in part.prompt_logprobs),
        cached_tokens=sum(part.cached_tokens for part in parts),
    )
