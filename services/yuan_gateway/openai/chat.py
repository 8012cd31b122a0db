"""`POST /v1/chat/completions`: the answer to a conversation. There are no tools, and who asks for some is told so."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request

from yuan_gateway.authentication import Asker, User
from yuan_gateway.errors import Refused
from yuan_gateway.openai.conversation import SEPARATOR, document_of
from yuan_gateway.openai.logprobs import chat_logprobs
from yuan_gateway.openai.sampling import FINISH_REASONS, names_in, sampling_params, usage_of
from yuan_gateway.openai.schemas import ChatRequest
from yuan_gateway.operations import gateway_of
from yuan_gateway.streaming import ALSO_STREAMED, events_of, unless_gone
from yuan_rpc.inference.v1 import inference_pb2

router = APIRouter(tags=["OpenAI"])

_AS_MANY_AS_FIT = 2**31 - 1

_MOST_STOPS = 63
"""One fewer than the inference service takes: the chat's own comes to them."""


@router.post("/v1/chat/completions", response_model=None, responses=ALSO_STREAMED)
async def chat_completions(request: Request, body: ChatRequest, asker: Asker) -> Any:
    """Answers a conversation."""
    work = _Chat(request, body, asker)
    if body.stream:
        return await events_of(request, work.chunks())
    return await unless_gone(request, work.whole())


def _refuse_tools(body: ChatRequest) -> None:
    for name in ("tools", "functions"):
        if getattr(body, name):
            raise Refused(f"{name}: the models served here call no tools", param=name, code="tools_not_supported")
    for name in ("tool_choice", "function_call"):
        if getattr(body, name) not in (None, "none"):
            raise Refused(f"{name}: the models served here call no tools", param=name, code="tools_not_supported")


class _Chat:
    """One request on its way."""

    def __init__(self, request: Request, body: ChatRequest, user: User) -> None:
        _refuse_tools(body)
        given_as = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        request.state.names = {
            **names_in(body), "prompt": "messages", "max_tokens": given_as, "logprobs": "top_logprobs"
        }  # fmt: skip
        self._backend = gateway_of(request).backend
        self._token = user.token
        self._body = body
        self._id = f"chatcmpl-{request.state.request_id}-{secrets.token_hex(3)}"
        self._created = int(time.time())
        given = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        params = sampling_params(body, _AS_MANY_AS_FIT if given is None else given)
        if len(params.stop) > _MOST_STOPS:
            raise Refused(f"stop: expected at most {_MOST_STOPS} strings, found {len(params.stop)}", param="stop")
        # A model that goes on to the next question is cut off there.
        params.stop.append(SEPARATOR)
        if body.top_logprobs is not None and not body.logprobs:
            raise Refused("top_logprobs: needs logprobs to be true", param="top_logprobs")
        if body.logprobs:
            params.logprobs = body.top_logprobs or 0
        self._message = inference_pb2.GenerateRequest(
            model=body.model,
            prompt=document_of(body.messages),
            sampling_params=params,
            priority=body.priority or 0,
            request_id=self._id,
        )

    async def whole(self) -> dict[str, Any]:
        """Returns the whole answer."""
        answer = await self._backend.call("Generate", self._message, self._token)
        usage = answer.usage
        return {
            **self._head("chat.completion", answer.model),
            "choices": [
                {
                    "index": one.index,
                    "message": {"role": "assistant", "content": one.text, "refusal": None},
                    "logprobs": chat_logprobs(one.logprobs) if self._body.logprobs else None,
                    "finish_reason": FINISH_REASONS.get(one.finish_reason),
                }
                for one in answer.outputs
            ],
            "usage": usage_of(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        }

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """Yields the answer as it comes."""
        begun: set[int] = set()
        usage = inference_pb2.Usage()
        head: dict[str, Any] = {}
        async with aclosing(self._backend.stream(self._message, self._token)) as stream:
            async for part in stream:
                usage = part.usage
                head = self._head("chat.completion.chunk", part.model)
                delta: dict[str, Any] = {"content": part.text}
                if part.index not in begun:
                    begun.add(part.index)
                    delta = {"role": "assistant", **delta}
                choice = {
                    "index": part.index,
                    "delta": delta,
                    "logprobs": chat_logprobs(part.logprobs) if self._body.logprobs else None,
                    "finish_reason": FINISH_REASONS.get(part.finish_reason),
                }
                yield {**head, "choices": [choice]}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            totals = usage_of(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            yield {**head, "choices": [], "usage": totals}

    def _head(self, kind: str, model: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": model}
