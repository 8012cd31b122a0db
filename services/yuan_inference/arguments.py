"""Requests from the wire: every value is checked here, and all that is wrong is said at once, by field."""

import asyncio
import math
import uuid
from dataclasses import replace

from yuan_inference.engine import Request, Sampling
from yuan_inference.loaded import LoadedModel
from yuan_rpc import InvalidArgument
from yuan_rpc.inference.v1 import inference_pb2

DEFAULT_MAX_TOKENS = 16
DEFAULT_TEMPERATURE = 1.0

MOST_STOP_STRINGS, LONGEST_STOP_STRING = 64, 1024
MOST_STOP_TOKENS = 1024
HIGHEST_TEMPERATURE = 100.0
LONGEST_ID = 200

# More than any piece or special string has, so that a text beyond it need not be cut into tokens to be too long.
_CHARACTERS_PER_TOKEN = 64


async def request_of(message: inference_pb2.GenerateRequest, loaded: LoadedModel, longest: int) -> Request:
    """Checks a request.

    Args:
        message: from the wire.
        loaded: model and tokenizer that are to answer it.
        longest: tokens of prompt and continuation together, at most.

    Returns:
        The request, with max_tokens cut to what the context leaves, and an id of its own if it has none.

    Raises:
        InvalidArgument: with a violation for every field that is wrong.
    """
    sampling, wrong = _sampling(message.sampling_params, loaded.tokenizer.vocab_size)
    if len(message.request_id) > LONGEST_ID:
        wrong["request_id"] = f"expected at most {LONGEST_ID} characters"
    prompt = await _prompt(message, loaded, longest, wrong)
    if wrong:
        first = next(iter(wrong))
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InvalidArgument(f"{first}: {wrong[first]}{more}", wrong)
    room = longest - len(prompt)
    sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
    return Request(message.request_id or uuid.uuid4().hex, tuple(prompt), sampling)


async def _prompt(
    message: inference_pb2.GenerateRequest, loaded: LoadedModel, longest: int, wrong: dict[str, str]
) -> list[int]:
    ids = list(message.prompt_token_ids)
    if ids and message.prompt:
        wrong["prompt"] = "expected either prompt or prompt_token_ids, found both"
        return []
    field = "prompt_token_ids" if ids else "prompt"
    size = loaded.tokenizer.vocab_size
    if ids and not all(0 <= token < size for token in ids):
        wrong[field] = f"expected ids from 0 to {size - 1}"
        return []
    if len(message.prompt) > longest * _CHARACTERS_PER_TOKEN:
        wrong[field] = f"has {len(message.prompt)} characters, more than the model's context of {longest} tokens holds"
        return []
    if not ids:
        ids = await asyncio.to_thread(loaded.tokenizer.encode, message.prompt)
    if not ids:
        wrong[field] = "empty; a prompt needs at least one token"
    elif len(ids) >= longest:
        wrong[field] = (
            f"has {len(ids)} tokens, but the model's context is {longest} tokens and must also hold the continuation"
        )
    return ids


def _sampling(params: inference_pb2.SamplingParams, vocabulary: int) -> tuple[Sampling, dict[str, str]]:
    temperature = params.temperature if params.HasField("temperature") else DEFAULT_TEMPERATURE
    top_p = params.top_p if params.HasField("top_p") else 1.0
    max_tokens = params.max_tokens if params.HasField("max_tokens") else DEFAULT_MAX_TOKENS
    wrong: dict[str, str] = {}
    for name, is_right, expected, found in (
        (
            "temperature",
            math.isfinite(temperature) and 0 <= temperature <= HIGHEST_TEMPERATURE,
            f"0 to {HIGHEST_TEMPERATURE:g}",
            temperature,
        ),
        ("top_k", params.top_k >= 0, "at least 0 (0: all)", params.top_k),
        ("top_p", 0 < top_p <= 1, "more than 0 and at most 1", top_p),
        ("max_tokens", max_tokens >= 1, "at least 1", max_tokens),
        ("stop", len(params.stop) <= MOST_STOP_STRINGS, f"at most {MOST_STOP_STRINGS} strings", len(params.stop)),
        (
            "stop_token_ids",
            len(params.stop_token_ids) <= MOST_STOP_TOKENS,
            f"at most {MOST_STOP_TOKENS} ids",
            len(params.stop_token_ids),
        ),
    ):
        if not is_right:
            wrong[f"sampling_params.{name}"] = f"expected {expected}, found {_shown(found)}"
    if not wrong:
        if not all(1 <= len(stop) <= LONGEST_STOP_STRING for stop in params.stop):
            wrong["sampling_params.stop"] = f"expected strings of 1 to {LONGEST_STOP_STRING} characters"
        if not all(0 <= token < vocabulary for token in params.stop_token_ids):
            wrong["sampling_params.stop_token_ids"] = f"expected ids from 0 to {vocabulary - 1}"
    return (
        Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=params.top_k,
            top_p=top_p,
            seed=params.seed if params.HasField("seed") else None,
            stop=tuple(params.stop),
            stop_token_ids=frozenset(params.stop_token_ids),
            ignore_eos=params.ignore_eos,
            include_stop_str_in_output=params.include_stop_str_in_output,
        ),
        wrong,
    )


def _shown(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
