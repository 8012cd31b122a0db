"""From a body's fields to the gRPC service's."""

import json
from typing import Any

from yuan_gateway.errors import Refused
from yuan_gateway.openai.schemas import Sampling
from yuan_rpc.inference.v1 import inference_pb2

_AS_THEY_ARE = (
    "temperature",
    "top_p",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_p",
    "repetition_penalty",
    "length_penalty",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "best_of",
)

_DEFAULT_BEAMS = 4


def sampling_params(body: Sampling, max_tokens: int) -> inference_pb2.SamplingParams:
    """Returns what a body asks for; whether values are in range the service says, by field.

    Args:
        body: of a request.
        max_tokens: new tokens at most.

    Raises:
        Refused: if two fields contradict each other.
    """
    params = inference_pb2.SamplingParams(max_tokens=max_tokens)
    for name in _AS_THEY_ARE:
        value = getattr(body, name)
        if value is not None:
            setattr(params, name, value)
    params.top_k = max(0, body.top_k or 0)  # vLLM's -1: all
    if body.stop is not None:
        params.stop.extend([body.stop] if isinstance(body.stop, str) else body.stop)
    params.stop_token_ids.extend(body.stop_token_ids or ())
    for token, bias in (body.logit_bias or {}).items():
        if not token.isascii() or not token.isdigit() or len(token) > 9:
            raise Refused(f"logit_bias: {token[:20]!r} is no token id", param="logit_bias")
        params.logit_bias[int(token)] = bias
    if body.use_beam_search:
        params.beam_width = max(body.best_of or body.n or _DEFAULT_BEAMS, 1)
        params.ClearField("best_of")
    structure = _structure(body)
    if structure is not None:
        params.structured_outputs.CopyFrom(structure)
    return params


def names_in(body: Sampling) -> dict[str, str]:
    """Returns what a body calls those fields of `sampling_params` that have another name there."""
    names: dict[str, str] = {}
    if body.structured_outputs is None:
        names |= {
            "structured_outputs": "response_format",
            "structured_outputs.json": "response_format.json_schema",
            "structured_outputs.json_object": "response_format",
        }
    given = next((name for name in ("best_of", "n") if getattr(body, name) is not None), "use_beam_search")
    return names | {"beam_width": given}


def _structure(body: Sampling) -> inference_pb2.StructuredOutputs | None:
    wanted: dict[str, Any] = {}
    form = body.response_format
    if form is not None and form.type == "json_object":
        wanted["json_object"] = True
    elif form is not None and form.type == "json_schema":
        if form.json_schema is None:
            raise Refused("response_format.json_schema: missing", param="response_format.json_schema")
        wanted["json"] = json.dumps(form.json_schema.schema_)
    given = body.structured_outputs
    if given is not None:
        if given.json_ is not None:
            wanted["json"] = given.json_ if isinstance(given.json_, str) else json.dumps(given.json_)
        if given.regex is not None:
            wanted["regex"] = given.regex
        if given.choice is not None:
            wanted["choice"] = inference_pb2.StructuredOutputs.Choice(choices=given.choice)
        if given.json_object:
            wanted["json_object"] = True
    if (given is not None and len(wanted) != 1) or (given is not None and form is not None and form.type != "text"):
        raise Refused(
            "structured_outputs: expected one constraint, in response_format or here", param="structured_outputs"
        )
    return inference_pb2.StructuredOutputs(**wanted) if wanted else None


FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_ABORT: "abort",
}


def usage_of(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """Returns OpenAI's usage."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
