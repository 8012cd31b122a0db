"""`PUT /yuan`, the original's API, field by field (YUAN_FACTS A6); its answers are in `yuan_errors.py`.

Unlike the original's, this one answers many requests at once.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Never

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from yuan_gateway.authentication import Asker
from yuan_gateway.backend import Backend
from yuan_gateway.errors import named
from yuan_gateway.operations import gateway_of
from yuan_gateway.streaming import unless_gone
from yuan_gateway.yuan_errors import YUAN_PATH, yuan_failure, yuan_success
from yuan_rpc import RpcFailed, RpcRefused
from yuan_rpc.inference.v1 import inference_pb2

router = APIRouter(tags=["the original's"])

MOST_QUESTIONS = 128
NAMES = {"stop_token_ids": "stop_token", "seed": "random_seed", "max_tokens": "tokens_to_generate", "prompt": "ques"}
"""What this API calls fields of the gRPC request."""

SEPARATOR, END, NEW_LINE = "<sep>", "<eod>", "<n>"


class BadInput(Exception):
    """A request that the original would refuse with errCode 1."""


@dataclass(frozen=True)
class Question:
    """One of a request's questions."""

    id: str
    text: str


@dataclass(frozen=True)
class Ask:
    """A checked request.

    Attributes:
        questions: at least one.
        tokens: new ones at most; None: as many as the context leaves.
        params: how they are drawn, without max_tokens.
        begin: put before each question.
        no_log: its text is not logged.
        model: an extension: which of several served models; empty: the only one.
    """

    questions: list[Question]
    tokens: int | None
    params: inference_pb2.SamplingParams
    begin: str
    no_log: bool
    model: str


@router.put(YUAN_PATH, response_model=None)
async def yuan(request: Request, asker: Asker) -> JSONResponse:
    """Answers up to 128 questions."""
    try:
        ask = ask_of(_json(await request.body()))
        backend = gateway_of(request).backend
        output = await unless_gone(request, _answers(backend, ask, asker.token))
    except BadInput as error:
        return JSONResponse(yuan_failure(str(error), bad_input=True))
    except RpcFailed as error:
        _, message = named(error, NAMES)
        return JSONResponse(yuan_failure(message, bad_input=isinstance(error, RpcRefused)))
    return JSONResponse(yuan_success(output))


async def _answers(backend: Backend, ask: Ask, token: str | None) -> list[dict[str, str]]:
    messages = list(await _all([_message(backend, ask, question, token) for question in ask.questions]))
    answers = await _all([backend.call("Generate", message, token) for message in messages])
    return [
        {"id": question.id, "ans": answer_in(answer.text)}
        for question, answer in zip(ask.questions, answers, strict=True)
    ]


async def _message(backend: Backend, ask: Ask, question: Question, token: str | None) -> inference_pb2.GenerateRequest:
    """Returns the request of one question, which fits into the model's context."""
    text = ask.begin + question.text
    cut = await backend.call("Tokenize", inference_pb2.TokenizeRequest(model=ask.model, text=text), token)
    room = cut.max_model_len - len(cut.token_ids)
    if room < (ask.tokens or 1):
        raise BadInput(
            f"question {question.id}: {len(cut.token_ids)} tokens of it and {ask.tokens or 1} new ones are more than "
            f"the model's sequence length of {cut.max_model_len}"
        )
    params = inference_pb2.SamplingParams()
    params.CopyFrom(ask.params)
    params.max_tokens = ask.tokens or room
    return inference_pb2.GenerateRequest(model=ask.model, prompt=text, sampling_params=params, no_log=ask.no_log)


def answer_in(text: str) -> str:
    """Returns the answer in a continuation: up to `<eod>`, behind its last `<sep>`."""
    return text.partition(END)[0].rpartition(SEPARATOR)[2].strip()


async def _all(works: list[Any]) -> list[Any]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- what a request may say -----------------------------------------------------------------------------------------


def _json(body: bytes) -> dict[str, Any]:
    def refuse(word: str) -> Never:
        raise BadInput(f"the body is no JSON: {word} is no number")

    try:
        tree = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise BadInput("the body is no JSON") from None
    if not isinstance(tree, dict):
        raise BadInput("the body is no JSON object")
    return tree


def ask_of(tree: dict[str, Any]) -> Ask:
    """Checks a request.

    Raises:
        BadInput: at the first field that is wrong.
    """
    questions = _questions(tree.get("ques_list"), present="ques_list" in tree)
    fields = _Fields(tree)
    params = inference_pb2.SamplingParams()
    tokens = fields.whole("tokens_to_generate", 1, 2**31 - 1, "an integer and greater than 0")
    temperature = fields.number("temperature", lambda value: 0 < value <= 100, "above 0 and at most 100")
    params.temperature = 1.0 if temperature is None else temperature
    params.top_k = fields.whole("top_k", 0, 1000, "an integer from 0 to 1000") or 0
    top_p = fields.number("top_p", lambda value: 0 <= value <= 1, "from 0 to 1")
    params.top_p = top_p or 1.0  # 0: none, as in the original
    decay = fields.number("top_p_decay", lambda value: 0 <= value <= 1, "from 0 to 1")
    bound = fields.number("top_p_bound", lambda value: 0 < value <= (top_p or 0), "above 0 and at most top_p")
    for name, value in (("top_p_decay", decay), ("top_p_bound", bound)):
        if value is not None and not top_p:
            raise BadInput(f"{name} cannot be set without top_p")
    params.top_p_decay, params.top_p_bound = decay or 0.0, bound or 0.0
    seed = fields.whole("random_seed", 0, 2**63 - 1, "an integer and at least 0")
    if seed is not None:
        params.seed = seed
    width = fields.whole("beam_width", 1, 64, "an integer from 1 to 64")
    if width is not None:
        if len(questions) > 1:
            raise BadInput("beam_width: a beam search takes one question only")
        params.beam_width = width
    penalty = fields.number("length_penalty", lambda value: -10 <= value <= 10, "from -10 to 10")
    if penalty is not None:
        params.length_penalty = penalty
    stop = fields.whole("stop_token", 0, 2**31 - 1, "an integer and at least 0")
    if stop is not None:
        params.stop_token_ids.append(stop)
    if fields.flag("stop_on_double_eol"):
        params.stop.extend(["\n\n", NEW_LINE * 2])
    if fields.flag("stop_on_eol"):
        params.stop.extend(["\n", NEW_LINE])
    params.prevent_newline_after_colon = fields.flag("prevent_newline_after_colon")
    fields.flag("logprobs")  # taken, and shown in no answer, as in the original
    begin = END if fields.flag("add_BOS") else ""
    model = tree.get("model", "")
    if not isinstance(model, str) or len(model) > 300:
        raise BadInput("model must be the name of a served model")
    return Ask(questions, tokens, params, begin, fields.flag("no_log"), model)


def _questions(given: object, *, present: bool) -> list[Question]:
    if not present:
        raise BadInput("ques_list argument required")
    if not isinstance(given, list):
        raise BadInput("ques_list is not a list")
    if not 1 <= len(given) <= MOST_QUESTIONS:
        raise BadInput(f"ques_list has {len(given)} questions; expected 1 to {MOST_QUESTIONS}")
    found: list[Question] = []
    for number, one in enumerate(given):
        place = f"ques_list[{number}]"
        if not isinstance(one, dict) or "ques" not in one:
            raise BadInput(f"{place}: expected an object with ques")
        text, name = one["ques"], one.get("id", "0")
        if not isinstance(text, str) or not isinstance(name, str | int) or isinstance(name, bool):
            raise BadInput(f"{place}: ques and id must be strings")
        if not text:
            raise BadInput(f"{place}: ques is empty")
        if not _is_text(text) or not _is_text(str(name)):
            raise BadInput(f"{place}: half of a surrogate pair is no text")
        found.append(Question(str(name), text))
    return found


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Fields:
    """A request's fields, each read with its rule."""

    tree: dict[str, Any]

    def whole(self, name: str, least: int, most: int, rule: str) -> int | None:
        value = self.tree.get(name)
        if name not in self.tree:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadInput(f"{name} must be {rule}")
        return value

    def number(self, name: str, rule: Callable[[float], bool], text: str) -> float | None:
        value = self.tree.get(name)
        if name not in self.tree:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not rule(value):
            raise BadInput(f"{name} must be a number {text}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.tree.get(name, False)
        if not isinstance(value, bool):
            raise BadInput(f"{name} must be a boolean value")
        return value
