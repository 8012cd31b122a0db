"""`POST /v1/completions`: text, or token ids, go on. With `echo`, `logprobs` and `max_tokens: 0` nothing is drawn."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from yuan_gateway.authentication import Asker, User
from yuan_gateway.errors import Refused
from yuan_gateway.openai.logprobs import CompletionLogprobs
from yuan_gateway.openai.sampling import FINISH_REASONS, names_in, sampling_params, usage_of
from yuan_gateway.openai.schemas import CompletionRequest
from yuan_gateway.operations import gateway_of
from yuan_gateway.streaming import ALSO_STREAMED, events_of, merged, unless_gone
from yuan_rpc.inference.v1 import inference_pb2

router = APIRouter(tags=["OpenAI"])

DEFAULT_MAX_TOKENS = 16


@router.post("/v1/completions", response_model=None, responses=ALSO_STREAMED)
async def completions(request: Request, body: CompletionRequest, asker: Asker) -> Any:
    """Goes on from prompts."""
    work = _Completion(request, body, asker)
    if body.stream:
        return await events_of(request, work.chunks())
    return await unless_gone(request, work.whole())


@dataclass(frozen=True)
class _Prompt:
    """One prompt: its text, or its ids."""

    number: int
    text: str
    ids: tuple[int, ...] = ()

    def into(self, message: Any) -> Any:
        if self.ids:
            message.prompt_token_ids.extend(self.ids)
        else:
            message.prompt = self.text
        return message


def _prompts_of(given: str | Sequence[Any]) -> list[_Prompt]:
    if isinstance(given, str):
        return [_Prompt(0, given)]
    if isinstance(given[0], int):
        return [_Prompt(0, "", tuple(given))]
    return [
        _Prompt(number, one) if isinstance(one, str) else _Prompt(number, "", tuple(one))
        for number, one in enumerate(given)
    ]


class _Completion:
    """One request on its way."""

    def __init__(self, request: Request, body: CompletionRequest, user: User) -> None:
        request.state.names = names_in(body) | {"prompt_token_ids": "prompt"}
        if body.prompt_logprobs is None:
            request.state.names["prompt_logprobs"] = "logprobs"
        self._backend = gateway_of(request).backend
        self._token = user.token
        self._body = body
        self._id = f"cmpl-{request.state.request_id}-{secrets.token_hex(3)}"
        self._created = int(time.time())
        self._prompts = _prompts_of(body.prompt)
        self._n = body.n or 1
        self._model = body.model  # the name of what answers, as soon as it has
        max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        self._draws = max_tokens > 0
        self._params = sampling_params(body, max_tokens)
        if body.logprobs is not None:
            self._params.logprobs = body.logprobs
            if body.echo:
                self._params.prompt_logprobs = body.logprobs
                # Who scores a text and cuts the drawn tokens off relies on their being there.
                self._params.min_tokens = max(self._params.min_tokens, int(self._draws))
        if body.prompt_logprobs is not None:
            self._params.prompt_logprobs = body.prompt_logprobs

    async def whole(self) -> dict[str, Any]:
        """Returns the whole answer."""
        found = await _all([self._answer(prompt) for prompt in self._prompts])
        choices = [choice for part, _ in found for choice in part]
        prompt, completion, cached = (sum(usage[key] for _, usage in found) for key in range(3))
        return {**self._head(self._model), "choices": choices, "usage": usage_of(prompt, completion, cached)}

    async def _answer(self, prompt: _Prompt) -> tuple[list[dict[str, Any]], tuple[int, int, int]]:
        """Returns the choices of one prompt with its tokens: of the prompt, drawn, cached."""
        shown = await self._shown(prompt)
        if not self._draws:
            return await self._nothing_drawn(prompt, shown)
        message = prompt.into(
            inference_pb2.GenerateRequest(
                model=self._body.model,
                sampling_params=self._params,
                priority=self._body.priority or 0,
                request_id=f"{self._id}-{prompt.number}",
            )
        )
        answer = await self._backend.call("Generate", message, self._token)
        self._model = answer.model
        choices: list[dict[str, Any]] = []
        for one in answer.outputs:
            logprobs = CompletionLogprobs()
            logprobs.add(answer.prompt_logprobs if self._body.echo else (), first_of=shown)
            logprobs.add(one.logprobs)
            choice = self._choice(prompt, one.index, shown + one.text, FINISH_REASONS.get(one.finish_reason))
            if self._body.logprobs is not None:
                choice["logprobs"] = logprobs.take()
            if one.stop_reason:
                choice["stop_reason"] = one.stop_reason
            if self._body.prompt_logprobs is not None:
                choice["prompt_logprobs"] = _by_id(answer.prompt_logprobs)
            choices.append(choice)
        usage = answer.usage
        return choices, (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)

    async def _nothing_drawn(self, prompt: _Prompt, shown: str) -> tuple[list[dict[str, Any]], tuple[int, int, int]]:
        wanted = self._body.prompt_logprobs if self._body.logprobs is None else self._body.logprobs
        message = prompt.into(inference_pb2.ScoreRequest(model=self._body.model, logprobs=wanted or 0))
        answer = await self._backend.call("Score", message, self._token)
        self._model = answer.model
        choices: list[dict[str, Any]] = []
        for index in range(self._n):
            logprobs = CompletionLogprobs()
            logprobs.add(answer.logprobs if self._body.echo else (), first_of=shown)
            choice = self._choice(prompt, index, shown, "length")
            if self._body.logprobs is not None:
                choice["logprobs"] = logprobs.take()
            if self._body.prompt_logprobs is not None:
                choice["prompt_logprobs"] = _by_id(answer.logprobs)
            choices.append(choice)
        return choices, (answer.usage.prompt_tokens, 0, answer.usage.cached_tokens)

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """Yields the answer as it comes."""
        if not self._draws:
            raise Refused("max_tokens: 0 has nothing to stream", param="max_tokens")
        usages: dict[int, tuple[int, int, int]] = {}
        async with aclosing(merged([self._parts(prompt, usages) for prompt in self._prompts])) as parts:
            async for choice in parts:
                yield {**self._head(self._model), "choices": [choice]}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            totals = [sum(usage[key] for usage in usages.values()) for key in range(3)]
            yield {**self._head(self._model), "choices": [], "usage": usage_of(*totals)}

    async def _parts(self, prompt: _Prompt, usages: dict[int, tuple[int, int, int]]) -> AsyncGenerator[dict[str, Any]]:
        shown = await self._shown(prompt)
        message = prompt.into(
            inference_pb2.GenerateRequest(
                model=self._body.model,
                sampling_params=self._params,
                priority=self._body.priority or 0,
                request_id=f"{self._id}-{prompt.number}",
            )
        )
        states: dict[int, CompletionLogprobs] = {}
        prompt_logprobs: list[inference_pb2.TokenLogprob] = []
        async with aclosing(self._backend.stream(message, self._token)) as stream:
            async for part in stream:
                self._model, usage = part.model, part.usage
                usages[prompt.number] = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
                prompt_logprobs.extend(part.prompt_logprobs)
                text, logprobs = part.text, states.get(part.index)
                is_first = logprobs is None
                if logprobs is None:
                    logprobs = states[part.index] = CompletionLogprobs()
                    text = shown + text
                    logprobs.add(prompt_logprobs if self._body.echo else (), first_of=shown)
                logprobs.add(part.logprobs)
                choice = self._choice(prompt, part.index, text, FINISH_REASONS.get(part.finish_reason))
                if self._body.logprobs is not None:
                    choice["logprobs"] = logprobs.take()
                if part.stop_reason:
                    choice["stop_reason"] = part.stop_reason
                if is_first and self._body.prompt_logprobs is not None:
                    choice["prompt_logprobs"] = _by_id(prompt_logprobs)
                yield choice

    async def _shown(self, prompt: _Prompt) -> str:
        """Returns what stands before the continuation."""
        if not self._body.echo:
            return ""
        if not prompt.ids:
            return prompt.text
        request = inference_pb2.DetokenizeRequest(model=self._body.model, token_ids=prompt.ids)
        return (await self._backend.call("Detokenize", request, self._token)).text

    def _choice(self, prompt: _Prompt, index: int, text: str, reason: str | None) -> dict[str, Any]:
        number = prompt.number * self._n + index
        return {"index": number, "text": text, "logprobs": None, "finish_reason": reason}

    def _head(self, model: str) -> dict[str, Any]:
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": model}


def _by_id(found: Sequence[inference_pb2.TokenLogprob]) -> list[dict[str, Any] | None]:
    """Returns log-probabilities of a prompt in vLLM's form: by token id, None for the first."""
    return [
        {
            str(top.token_id): {
                "logprob": top.logprob,
                "rank": rank,
                "decoded_token": top.token.decode(errors="replace"),
            }
            for rank, top in [*enumerate(one.top_logprobs, 1), (one.rank, one)]
        }
        if one.HasField("logprob")
        else None
        for one in found
    ]


async def _all(works: Sequence[Any]) -> list[Any]:
    """Awaits all; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
