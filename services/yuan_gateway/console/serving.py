"""Served models, the playground and the load of serving."""

import math
import re
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from yuan_events import YuanError
from yuan_gateway.authentication import User
from yuan_gateway.console.access import PATH, Checked, Somebody, Visitor
from yuan_gateway.console.pages import HEADERS
from yuan_gateway.console.shell import Console, console_of
from yuan_gateway.openai.chat import chat_completions
from yuan_gateway.openai.schemas import ChatRequest
from yuan_rpc.inference.v1 import inference_pb2
from yuan_rpc.jobs.v1 import jobs_pb2

router = APIRouter(prefix=PATH, include_in_schema=False)

_COUNTER = re.compile(r'^yuan_(generation|prompt)_tokens_total\{model_name="((?:[^"\\]|\\.)*)"\} (\S+)$', re.MULTILINE)


async def _served(console: Console, visitor: Visitor) -> tuple[inference_pb2.GetServerInfoResponse, str]:
    """Returns what is served, and why that is not known."""
    try:
        request = inference_pb2.GetServerInfoRequest()
        return await console.stack.inference("GetServerInfo", request, visitor.token), ""
    except YuanError as error:
        return inference_pb2.GetServerInfoResponse(), str(error)


@router.get("/models")
async def models_page(request: Request, visitor: Somebody) -> Response:
    """Lists served models and all that could be."""
    console = console_of(request)
    info, problem = await _served(console, visitor)
    artifacts: Any = []
    other = ""
    try:
        message = jobs_pb2.ListArtifactsRequest(kind="model", page_size=200)
        artifacts = (await console.stack.jobs("ListArtifacts", message, visitor.token)).artifacts
    except YuanError as error:
        other = str(error)
    values = {"info": info, "problem": problem, "artifacts": artifacts, "other_problem": other}
    return console.pages.answer(request, visitor, "models.html", values)


@router.get("/playground")
async def playground_page(request: Request, visitor: Somebody, model: str = "") -> Response:
    """Lets a visitor talk to a model."""
    console = console_of(request)
    info, problem = await _served(console, visitor)
    names = [name for one in info.models for name in (one.model, *one.adapters)]
    values = {"names": names, "model": model if model in names else "", "problem": problem}
    return console.pages.answer(request, visitor, "playground.html", values)


@router.post("/playground/chat", response_model=None)
async def chat(request: Request, body: ChatRequest, visitor: Checked) -> Any:
    """Answers as `/v1/chat/completions` does, to who has a session in place of a token."""
    assert isinstance(visitor.user, User)  # noqa: S101 - `Checked` lets nobody else in
    return await chat_completions(request, body, visitor.user)


@router.get("/load")
async def load_page(request: Request, visitor: Somebody) -> Response:
    """Shows how busy the served models are."""
    return console_of(request).pages.answer(request, visitor, "load.html", {})


@router.get("/load.json")
async def load(request: Request, visitor: Somebody) -> JSONResponse:
    """Returns the load of each model, with its counters of tokens; the page draws their growth."""
    stack = console_of(request).stack
    try:
        loads = (await stack.inference("GetLoads", inference_pb2.GetLoadsRequest(), visitor.token)).loads
        page = (await stack.inference("GetMetrics", inference_pb2.GetMetricsRequest(), visitor.token)).text
    except YuanError as error:
        return JSONResponse({"problem": str(error), "models": []}, headers=HEADERS)
    tokens: dict[tuple[str, str], float] = {}
    for kind, name, value in _COUNTER.findall(page):
        number = float(value)
        tokens[kind, name] = number if math.isfinite(number) else 0.0
    models = [
        {
            "model": one.model,
            "running": one.num_requests_running,
            "waiting": one.num_requests_waiting,
            "kv": one.kv_cache_usage_perc,
            "used_blocks": one.used_blocks,
            "total_blocks": one.total_blocks,
            "max_batch": one.max_batch,
            "max_waiting": one.max_waiting,
            "generated": tokens.get(("generation", one.model), 0.0),
            "read": tokens.get(("prompt", one.model), 0.0),
        }
        for one in loads
    ]
    return JSONResponse({"problem": "", "models": models}, headers=HEADERS)
