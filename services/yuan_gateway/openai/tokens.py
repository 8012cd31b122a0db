"""`POST /tokenize`, `/detokenize` and `GET /tokenizer_info`, as vLLM has them.

With these three a client needs no tokenizer of its own: lm-evaluation-harness' `tokenizer_backend: remote` asks them.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from yuan_gateway.authentication import Asker
from yuan_gateway.errors import Refused
from yuan_gateway.openai.conversation import document_of
from yuan_gateway.openai.schemas import DetokenizeRequest, TokenizeRequest
from yuan_gateway.operations import gateway_of
from yuan_rpc.inference.v1 import inference_pb2

router = APIRouter(tags=["tokens"])


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest, asker: Asker) -> dict[str, Any]:
    """Returns the token ids that a model would see."""
    if (body.prompt is None) == (body.messages is None):
        raise Refused("prompt: expected either prompt or messages", param="prompt")
    text = body.prompt if body.messages is None else document_of(body.messages)
    message = inference_pb2.TokenizeRequest(model=body.model, text=text)
    answer = await gateway_of(request).backend.call("Tokenize", message, asker.token)
    found: dict[str, Any] = {
        "count": len(answer.token_ids),
        "max_model_len": answer.max_model_len,
        "tokens": list(answer.token_ids),
    }
    return {**found, "token_strs": list(answer.pieces)} if body.return_token_strs else found


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeRequest, asker: Asker) -> dict[str, Any]:
    """Returns the text of token ids."""
    request.state.names = {"token_ids": "tokens"}
    message = inference_pb2.DetokenizeRequest(model=body.model, token_ids=body.tokens)
    answer = await gateway_of(request).backend.call("Detokenize", message, asker.token)
    return {"prompt": answer.text}


@router.get("/tokenizer_info")
async def tokenizer_info(
    request: Request, asker: Asker, model: Annotated[str, Query(max_length=300)] = ""
) -> dict[str, Any]:
    """Returns what a client must know of a model's tokenizer: which token ends a document; none begins one."""
    backend = gateway_of(request).backend
    info = await backend.call("GetModelInfo", inference_pb2.GetModelInfoRequest(model=model), asker.token)
    found = dict(info.config).get("eod_token_id")
    end = None if found is None else int(found)
    text = None
    if end is not None:
        message = inference_pb2.DetokenizeRequest(model=info.model, token_ids=[end])
        text = (await backend.call("Detokenize", message, asker.token)).text
    return {
        "model": info.model,
        "bos_token": None,
        "eos_token": text,
        "eos_token_id": end,
        "vocab_size": info.vocab_size,
        "model_max_length": info.max_model_len,
    }
