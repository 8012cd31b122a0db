"""`GET /v1/models`, and what is not offered."""

from typing import Any

from fastapi import APIRouter, Request

from yuan_gateway.authentication import Asker, User
from yuan_gateway.errors import Refused
from yuan_gateway.operations import gateway_of
from yuan_rpc.inference.v1 import inference_pb2

router = APIRouter(tags=["OpenAI"])


async def _models(request: Request, user: User) -> list[dict[str, Any]]:
    info = await gateway_of(request).backend.call("GetServerInfo", inference_pb2.GetServerInfoRequest(), user.token)
    found: list[dict[str, Any]] = []
    for model in info.models:
        found.append(_entry(model, model.model, model.artifact, None))
        found.extend(_entry(model, adapter, adapter, model.model) for adapter in model.adapters)
    return found


def _entry(model: inference_pb2.GetModelInfoResponse, name: str, root: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": model.loaded,
        "owned_by": "yuan-stack",
        "root": root,
        "parent": parent,
        "max_model_len": model.max_model_len,
    }


@router.get("/v1/models")
async def models(request: Request, asker: Asker) -> dict[str, Any]:
    """Lists what is served, adapters among it."""
    return {"object": "list", "data": await _models(request, asker)}


@router.get("/v1/models/{name}")
async def model(request: Request, name: str, asker: Asker) -> dict[str, Any]:
    """Describes one served model."""
    for entry in await _models(request, asker):
        if entry["id"] == name:
            return entry
    raise Refused(f"no model is served as {name[:100]}", status=404, param="model", code="model_not_found")


@router.post("/v1/embeddings", responses={501: {"description": "Not offered."}})
async def embeddings(asker: Asker) -> dict[str, Any]:
    """Says that there are none: the network is trained to go on with text, and no pooling of it was ever evaluated."""
    del asker
    raise Refused(
        "embeddings are not offered: the models served here are trained to continue text, not to embed it",
        status=501,
        code="not_offered",
    )
