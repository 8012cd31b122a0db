"""From engines' threads to the handlers of one server: requests' outputs in its event loop, in order.

The loop is woken once a step, not for every token. What came while a handler was busy is handed over as one, so that a
slow reader gets longer pieces rather than a longer queue.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace

from yuan_inference.engine import Deliver, Engine, Failure, Output, Request
from yuan_rpc import Internal, InvalidArgument, ResourceExhausted, RpcError, Unavailable

_SECONDS_UNTIL_ANOTHER_TRY = 1.0


class _Inbox:
    """What has come for one handler; to be used in the event loop."""

    def __init__(self) -> None:
        self._parts: list[Output] = []
        self._waiting: asyncio.Future[None] | None = None

    def put(self, output: Output) -> None:
        """Takes an output."""
        self._parts.append(output)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def take(self) -> list[Output]:
        """Returns all that has come, at least one output."""
        if not self._parts:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        parts, self._parts = self._parts, []
        return parts


class Streams:
    """The outputs of all requests of one server; belongs to the event loop of its first request."""

    def __init__(self) -> None:
        """Begins with none."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh: deque[tuple[_Inbox, Output]] = deque()

    async def outputs(self, engine: Engine, request: Request) -> AsyncGenerator[Output]:
        """Submits a request and yields what comes back; however this ends, the request ends too.

        Raises:
            QueueFull, EngineStopped, StructureError, UnknownAdapter, ValueError: as `Engine.submit`, before anything
                is yielded.
            RpcError: if the request failed.
        """
        self._loop = self._loop or asyncio.get_running_loop()
        inbox = _Inbox()

        ended = False

        def deliver(output: Output) -> None:
            nonlocal ended
            ended = output.last
            self._fresh.append((inbox, output))

        if request.sampling.structure is None:
            engine.submit(request, deliver, self._wake)
        else:  # the grammar is compiled first
            await _submitted(engine, request, deliver, self._wake)
        try:
            while True:
                for output in _joined(await inbox.take()):
                    if output.error:
                        raise failed(output)
                    if output.text or output.token_ids or output.prompt_logprobs or output.finish_reason is not None:
                        yield output
                    if output.last:
                        return
        finally:
            # The client has gone, or its deadline passed. Of what has ended the id may be another request's by now.
            if not ended:
                engine.abort(request.id)

    def _wake(self) -> None:
        """Has the loop hand out what engines have delivered; in an engine's thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        while self._fresh:
            inbox, output = self._fresh.popleft()
            inbox.put(output)


async def _submitted(engine: Engine, request: Request, deliver: Deliver, wake: Callable[[], None]) -> None:
    """Submits a request in a thread; who has gone meanwhile leaves nothing that runs."""
    submitting = asyncio.ensure_future(asyncio.to_thread(engine.submit, request, deliver, wake))

    def give_up(done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            engine.abort(request.id)

    try:
        await asyncio.shield(submitting)
    except asyncio.CancelledError:
        submitting.add_done_callback(give_up)  # a thread cannot be stopped
        raise


def failed(output: Output) -> RpcError:
    """Returns what the failure of a request means to its client."""
    text = f"the request failed: {output.error}"
    if output.failure is Failure.structure:
        return InvalidArgument(output.error, {"sampling_params.structured_outputs": output.error})
    if output.failure is Failure.minimum:
        return InvalidArgument(output.error, {"sampling_params.min_tokens": output.error})
    if output.failure is Failure.memory:
        return ResourceExhausted(text, _SECONDS_UNTIL_ANOTHER_TRY)
    return Unavailable(text, _SECONDS_UNTIL_ANOTHER_TRY) if output.failure is Failure.engine else Internal(text)


def _joined(parts: list[Output]) -> Iterator[Output]:
    """Joins what belongs to one continuation; the one whose output is the last of all stays the last."""
    if len(parts) == 1:
        yield parts[0]
        return
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
