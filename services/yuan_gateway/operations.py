"""Whether the gateway lives, whether it can answer, and its metrics."""

import ipaddress
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from yuan_gateway.authentication import user
from yuan_gateway.state import Gateway
from yuan_rpc import RpcFailed
from yuan_rpc.inference.v1 import inference_pb2

router = APIRouter(tags=["operations"])


def gateway_of(request: Request) -> Gateway:
    """Returns the gateway that a request came to."""
    return request.app.state.gateway


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """Says that the gateway lives and takes requests; needs no token."""
    if gateway_of(request).draining:
        return JSONResponse({"status": "shutting down"}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """Says whether a model can be asked; needs no token."""
    gateway = gateway_of(request)
    if gateway.draining:
        return JSONResponse({"status": "shutting down"}, 503)
    try:
        info = await gateway.backend.ask("GetServerInfo", inference_pb2.GetServerInfoRequest())
    except RpcFailed as error:
        return JSONResponse({"status": "not ready", "reason": str(error)}, 503)
    if not info.models:
        reason = "a model is being loaded" if info.loading else "no model is deployed"
        return JSONResponse({"status": "not ready", "reason": reason}, 503)
    return JSONResponse({"status": "ready", "models": len(info.models)})


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Returns the Prometheus page of the gateway and of the inference service.

    From this machine without a token, from elsewhere with one.
    """
    gateway = gateway_of(request)
    if not _is_local(request):
        user(request)
    page = generate_latest(gateway.registry).decode()
    try:
        answer: Any = await gateway.backend.ask("GetMetrics", inference_pb2.GetMetricsRequest())
        page += answer.text
        up = 1
    except RpcFailed:
        up = 0
    name = "yuan_gateway_inference_up"
    page += f"# HELP {name} Whether the inference service answers.\n# TYPE {name} gauge\n{name} {up}\n"
    return Response(page, media_type=CONTENT_TYPE_LATEST)


def _is_local(request: Request) -> bool:
    host = request.client.host if request.client else ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
