"""A request from its message to its outputs: whose model, which limits, what is told of it, what its errors mean."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from yuan_events import YuanError, one_line
from yuan_inference.arguments import Asker, key_of, request_of, score_request_of
from yuan_inference.engine import (
    EngineStopped,
    FinishReason,
    Output,
    QueueFull,
    Request,
    StructureError,
    UnknownAdapter,
)
from yuan_inference.limits import TenantLimits
from yuan_inference.served import Served, ServedModels
from yuan_inference.streams import Streams
from yuan_rpc import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted, RpcError, Unavailable, current_caller
from yuan_rpc.inference.v1 import inference_pb2
from yuan_rpc.request_log import RequestLog
from yuan_rpc.tracing import OFF, TracedSpan, Tracing

_SECONDS_UNTIL_ANOTHER_TRY = 1.0


@dataclass
class Answer:
    """A request that is being answered.

    Attributes:
        id: as its caller knows it.
        request: as the engine does.
        served: who answers.
        cached_tokens: of the prompt, that a cache had.
        new_tokens: drawn so far, over all continuations.
        first: monotonic seconds of the first output; 0: none yet.
        reason: why the last continuation that ended did so.
        prompt_told: whether the prompt's log-probabilities have been sent.
        texts: pieces of the first continuation, kept where they are logged.
    """

    id: str
    request: Request
    served: Served
    cached_tokens: int = 0
    new_tokens: int = 0
    first: float = 0.0
    reason: FinishReason | None = None
    prompt_told: bool = False
    texts: list[str] = field(default_factory=list[str])

    @property
    def model(self) -> str:
        """Name that its caller may ask for it by again: the adapter's, or the model's."""
        name = self.served.wanted.name
        return f"{name}:{self.request.adapter}" if self.request.adapter else name

    @property
    def usage(self) -> inference_pb2.Usage:
        """Tokens so far."""
        return inference_pb2.Usage(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self.new_tokens,
            cached_tokens=self.cached_tokens,
        )


class Answering:
    """Answers requests for text; to be used in the server's event loop."""

    def __init__(self, models: ServedModels, log: RequestLog | None = None, tracing: Tracing = OFF) -> None:
        """Args: models: what is served. log: where requests are told of. tracing: their spans."""
        self._models = models
        self._log = log or RequestLog("inference")
        self._tracing = tracing
        self._limits = TenantLimits()
        self._streams = Streams()
        self._running: dict[int, Answer] = {}
        self._stopped = False

    def stop(self) -> None:
        """Ends all requests that still run, with UNAVAILABLE: the server's time to end is over."""
        self._stopped = True
        for answer in self._running.values():
            answer.served.engine.abort(answer.request.id)

    async def generate(self, message: inference_pb2.GenerateRequest) -> AsyncGenerator[tuple[Answer, Output]]:
        """Yields the answer, as far as it is, with each of its outputs.

        Raises:
            RpcError: with the status that says why there is none, or no more.
        """

        async def check(asker: Asker) -> tuple[str, Request]:
            return await request_of(message, asker)

        async with aclosing(self._answer("generate", message, check)) as parts:
            async for part in parts:
                yield part

    async def score(self, message: inference_pb2.ScoreRequest) -> tuple[Answer, Output]:
        """Returns the one output with a prompt's log-probabilities.

        Raises:
            RpcError: as `generate`.
        """

        async def check(asker: Asker) -> tuple[str, Request]:
            return await score_request_of(message, asker)

        last: tuple[Answer, Output] | None = None
        async with aclosing(self._answer("score", message, check)) as parts:
            async for answer, output in parts:
                if last is None or output.prompt_logprobs:
                    last = answer, output
        if last is None:
            raise Unavailable("the request ended without an answer", _SECONDS_UNTIL_ANOTHER_TRY)
        return last

    async def _answer(
        self,
        what: str,
        message: inference_pb2.GenerateRequest | inference_pb2.ScoreRequest,
        check: Callable[[Asker], Awaitable[tuple[str, Request]]],
    ) -> AsyncGenerator[tuple[Answer, Output]]:
        caller = current_caller.get()
        with self._limits.admit(caller) as count:
            while True:
                served, adapter = self._models.find(message.model)
                asker = Asker(served.engine, message.adapter or adapter, caller.name)
                request_id, request = await check(asker)
                answer = Answer(request_id, request, served)
                counted = False
                with self._told(what, message, answer), self._tracing.span("engine") as span:
                    try:
                        async with aclosing(self._streams.outputs(served.engine, request)) as parts:
                            async for output in parts:
                                if not counted:
                                    count(len(request.prompt_ids))
                                    counted = True
                                count(len(output.token_ids))
                                self._note(answer, output, span)
                                yield answer, output
                        return
                    except EngineStopped:
                        # Replaced between the two lines above: the new version answers. Not so where the server ends.
                        if answer.first or self._stopped or self._models.find(message.model)[0] is served:
                            raise Unavailable("the model is being stopped", _SECONDS_UNTIL_ANOTHER_TRY) from None
                    except (QueueFull, StructureError, UnknownAdapter, ValueError) as error:
                        raise _meaning(error, answer) from None

    def _note(self, answer: Answer, output: Output, span: TracedSpan) -> None:
        if not answer.first:
            answer.first = time.monotonic()
            span.event("first_token")
        answer.cached_tokens += output.cached_tokens
        answer.new_tokens += len(output.token_ids)
        answer.reason = output.finish_reason or answer.reason
        if self._log.prompts and output.index == 0:
            answer.texts.append(output.text)
        if output.finish_reason is FinishReason.abort and self._stopped:
            raise Unavailable("the server was stopped before the answer was whole", _SECONDS_UNTIL_ANOTHER_TRY)
        if output.last:
            span.set(
                {
                    "gen_ai.request.model": answer.served.wanted.name,
                    "gen_ai.usage.input_tokens": len(answer.request.prompt_ids),
                    "gen_ai.usage.output_tokens": answer.new_tokens,
                }
            )

    @contextmanager
    def _told(
        self, what: str, message: inference_pb2.GenerateRequest | inference_pb2.ScoreRequest, answer: Answer
    ) -> Generator[None]:
        """Writes one line when the request has ended, however it did."""
        started = time.monotonic()
        self._running[id(answer)] = answer
        status = "CANCELLED"
        try:
            yield
            status = "OK"
        except YuanError as error:
            status = error.code.name if isinstance(error, RpcError) else type(error).__name__
            raise
        except Exception as error:
            status = type(error).__name__
            raise
        finally:
            del self._running[id(answer)]
            hidden = isinstance(message, inference_pb2.GenerateRequest) and message.no_log
            self._log.write(
                event=what,
                request_id=answer.id,
                model=answer.served.wanted.name,
                adapter=answer.request.adapter,
                tenant=answer.request.tenant,
                status=status,
                finish_reason=None if answer.reason is None else answer.reason.value,
                prompt_tokens=len(answer.request.prompt_ids),
                completion_tokens=answer.new_tokens,
                cached_tokens=answer.cached_tokens,
                seconds=round(time.monotonic() - started, 6),
                seconds_to_first_token=round(answer.first - started, 6) if answer.first else None,
                prompt=None if hidden else message.prompt,
                text=None if hidden else "".join(answer.texts),
            )

    def abort(self, request_id: str) -> bool:
        """Ends a request of the present caller; returns whether it was there."""
        key = key_of(current_caller.get().name, request_id)
        return sum(engine.abort(key) for engine in self._models.engines) > 0


def _meaning(error: Exception, answer: Answer) -> RpcError:
    text = one_line(error).removeprefix("ValueError: ")
    if isinstance(error, QueueFull):
        return ResourceExhausted(text, retry_after=_SECONDS_UNTIL_ANOTHER_TRY)
    if isinstance(error, StructureError):
        field = "sampling_params.structured_outputs"
        return InvalidArgument(f"{field}: {text}", {field: text})
    if isinstance(error, UnknownAdapter):
        return NotFound("adapter", answer.request.adapter, text)
    return AlreadyExists("request", answer.id, text.replace(answer.request.id, answer.id))
