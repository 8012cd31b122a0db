"""Many requests in flight to the inference service, texts and likelihoods, so that its batch stays full.

A service that goes away is waited for, longer from try to try; one that is full is asked again. What is wrong with one
request (a prompt that is too long) is the answer to that one.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from yuan_evaluator.asking import Asked, Likelihood, Reply
from yuan_events import Interrupted, WorkFailed, YuanError
from yuan_rpc import Connection, RpcFailed
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

PATIENCE_SECONDS = 1800.0
"""How long the service may be away before the job ends; run again it goes on."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_TRIES_OF_A_FAILED_REQUEST = 3
_SECONDS_BETWEEN_LOOKS = 0.2

_AWAY = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "NOT_FOUND", "FAILED_PRECONDITION"})
"""Codes of a service that is not there, or not yet: it may be loading the model again."""

_BUSY = "RESOURCE_EXHAUSTED"
_REFUSED = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})


@dataclass
class Telling:
    """What who waits is told.

    Attributes:
        answered: takes each answer with its request.
        away: takes the reason once, when the service has gone, and nothing (empty) when it is back.
        should_stop: asked several times a second; true ends it all.
    """

    answered: Callable[[Asked, Reply], None]
    away: Callable[[str], None] = lambda reason: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass
class _Weather:
    """Whether the service answers, seen by all requests together."""

    telling: Telling
    patience: float
    last_word: float = field(default_factory=time.monotonic)
    away: bool = False

    def fine(self) -> None:
        self.last_word = time.monotonic()
        if self.away:
            self.away = False
            self.telling.away("")

    def bad(self, failure: RpcFailed) -> None:
        if not self.away:
            self.away = True
            self.telling.away(str(failure))
        if time.monotonic() - self.last_word > self.patience:
            raise WorkFailed(f"the inference service has been away for {self.patience:.0f} s: {failure}")


def generate_all(
    connect: Callable[[], Connection],
    model: str,
    asks: Iterable[Asked],
    telling: Telling,
    *,
    in_flight: int,
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Asks everything; returns when all is answered.

    Args:
        connect: opens a connection.
        model: name that it is served under.
        asks: what to ask; taken as there is room.
        telling: who hears of it.
        in_flight: requests at one time.
        patience: seconds that the service may be away.

    Raises:
        Interrupted: if it was asked to stop; what is answered by then was told.
        WorkFailed: if the service stays away, or a request fails again and again.
        RpcFailed: if it refuses us (a wrong token).
    """
    asyncio.run(_generate_all(connect, model, asks, _Weather(telling, patience), in_flight))


async def _generate_all(
    connect: Callable[[], Connection],
    model: str,
    asks: Iterable[Asked],
    weather: _Weather,
    in_flight: int,
) -> None:
    left, telling = iter(asks), weather.telling
    async with connect() as connection:
        stub: Any = connection.aio_stub(inference_pb2_grpc.InferenceServiceStub)

        async def ask_on() -> None:
            for ask in left:
                telling.answered(ask, await _answer(connection, stub, model, ask, weather))

        workers = [asyncio.create_task(ask_on()) for _ in range(in_flight)]
        try:
            waiting = set(workers)
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=_SECONDS_BETWEEN_LOOKS, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in done:
                    task.result()
                if telling.should_stop():
                    raise Interrupted("interrupted")
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _answer(connection: Connection, stub: Any, model: str, ask: Asked, weather: _Weather) -> Reply:
    pause, failed = _FIRST_PAUSE, 0
    while True:
        try:
            if isinstance(ask, Likelihood):
                reply = await _score(stub, model, ask)
            else:
                prompt, sampling = _utf8(ask.prompt), ask.sampling.message()
                reply = await _stream(
                    stub, inference_pb2.GenerateRequest(model=model, prompt=prompt, sampling_params=sampling)
                )
        except grpc.RpcError as error:
            failure = connection.failure(error)
            code = failure.code.name
            if code in _REFUSED:
                weather.fine()
                return Reply(error=str(failure))
            if code in _AWAY:
                weather.bad(failure)
            elif code == _BUSY:
                weather.fine()
            else:
                failed += 1
                if isinstance(failure, YuanError) and failure.exit_code == 2:
                    raise failure from error
                if failed >= _TRIES_OF_A_FAILED_REQUEST:
                    raise WorkFailed(f"a request failed {failed} times: {failure}") from error
            # Not all at once, when it is back.
            await asyncio.sleep(max(failure.retry_after or 0.0, pause) * random.uniform(0.5, 1.5))
            pause = min(_LONGEST_PAUSE, 2 * pause)
        else:
            weather.fine()
            return reply


async def _stream(stub: Any, request: inference_pb2.GenerateRequest) -> Reply:
    parts: list[str] = []
    last: inference_pb2.GenerateStreamResponse | None = None
    async for part in stub.GenerateStream(inference_pb2.GenerateStreamRequest(request=request)):
        parts.append(part.text)
        last = part
    if last is None or last.finish_reason == inference_pb2.FINISH_REASON_ABORT:
        return Reply(error="the request was aborted")
    cut = last.finish_reason == inference_pb2.FINISH_REASON_LENGTH
    return Reply("".join(parts), cut, last.usage.completion_tokens, last.usage.prompt_tokens)


async def _score(stub: Any, model: str, ask: Likelihood) -> Reply:
    """Sums the log-probabilities of the tokens behind the prompt's.

    The text is cut into tokens as a whole. Where the prompt's last tokens are cut otherwise there, they count with the
    continuation: its first characters are in them.
    """

    async def tokens(text: str) -> list[int]:
        answer = await stub.Tokenize(inference_pb2.TokenizeRequest(model=model, text=_utf8(text)))
        return list(answer.token_ids)

    head, whole = await asyncio.gather(tokens(ask.prompt), tokens(ask.prompt + ask.continuation))
    scored = await stub.Score(inference_pb2.ScoreRequest(model=model, prompt_token_ids=whole))
    same = next((at for at, (one, other) in enumerate(zip(head, whole, strict=False)) if one != other), len(head))
    # Before the first token of all there is nothing that it could follow.
    logprob = math.fsum(one.logprob for one in scored.logprobs[max(1, same) :])
    return Reply(prompt_tokens=len(whole), logprob=logprob)


def _utf8(text: str) -> str:
    """Returns a text that protobuf takes: half characters of broken data are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")
