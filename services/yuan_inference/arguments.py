"""Requests from the wire: every value is checked here, and all that is wrong is said at once, by field."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

from yuan_inference.engine import Beam, Engine, Request, Sampling, Structure, StructureKind
from yuan_inference.spelling import colon_newline_pairs
from yuan_rpc import InvalidArgument
from yuan_rpc.inference.v1 import inference_pb2

DEFAULT_MAX_TOKENS = 16
DEFAULT_TEMPERATURE = 1.0

MOST_STOP_STRINGS, LONGEST_STOP_STRING = 64, 1024
MOST_STOP_TOKENS = 1024
MOST_BIASES = 1024
MOST_LOGPROBS = 100
MOST_CONTINUATIONS = 128
MOST_BEAMS = 64
LONGEST_GRAMMAR = 65536
MOST_CHOICES = 1024
HIGHEST_TEMPERATURE = 100.0
LONGEST_ID = 200

# More than any piece or special string has, so that a text beyond it need not be cut into tokens to be too long.
_CHARACTERS_PER_TOKEN = 64

_Rule = tuple[str, bool, str, float]
"""A field, whether its value is right, what was expected, what was found."""


@dataclass(frozen=True)
class Asker:
    """Who asks, and of what.

    Attributes:
        engine: that is to answer.
        adapter: of it; empty: the model itself.
        tenant: whose request it is; empty: the stack's owner's.
    """

    engine: Engine
    adapter: str = ""
    tenant: str = ""


def key_of(tenant: str, request_id: str) -> str:
    """Returns the id of a request in the engine: no tenant's ids are another's."""
    return f"{tenant}/{request_id}" if tenant else request_id


async def request_of(message: inference_pb2.GenerateRequest, asker: Asker) -> tuple[str, Request]:
    """Checks a request.

    Args:
        message: from the wire.
        asker: who asks which engine.

    Returns:
        Its id, which the server makes if it has none, and the request with max_tokens cut to what the context leaves.

    Raises:
        InvalidArgument: with a violation for every field that is wrong.
    """
    tokenizer, longest = asker.engine.loaded.tokenizer, asker.engine.longest
    params = message.sampling_params
    wrong = dict(_wrong_numbers(params)) or dict(_wrong_lists(params, tokenizer.vocab_size))
    structure = _structure(params, wrong)
    if not -(2**31) <= message.priority < 2**31:
        wrong["priority"] = "expected a 32-bit number"
    prompt = await _prompt(message, asker, wrong, room=params.max_tokens != 0 or not params.HasField("max_tokens"))
    request_id = _id(message.request_id, wrong)
    _raise(wrong)
    sampling = _sampling(params, structure)
    sampling = replace(sampling, max_tokens=min(sampling.max_tokens, longest - len(prompt)))
    sampling = replace(sampling, min_tokens=min(sampling.min_tokens, sampling.max_tokens))
    widest = asker.engine.widest_search(len(prompt) + sampling.max_tokens)
    if params.beam_width > widest:
        width = f"expected at most {widest}, as run at once here, found {params.beam_width}"
        _raise({"sampling_params.beam_width": width})
    if params.prevent_newline_after_colon:
        sampling = replace(sampling, forbidden_pairs=await asyncio.to_thread(colon_newline_pairs, tokenizer))
    key = key_of(asker.tenant, request_id)
    return request_id, Request(key, tuple(prompt), sampling, message.priority, asker.tenant, asker.adapter)


async def score_request_of(message: inference_pb2.ScoreRequest, asker: Asker) -> tuple[str, Request]:
    """Checks a request for log-probabilities, as `request_of` does."""
    wrong: dict[str, str] = {}
    if not 0 <= message.logprobs <= MOST_LOGPROBS:
        wrong["logprobs"] = f"expected 0 to {MOST_LOGPROBS}, found {message.logprobs}"
    prompt = await _prompt(message, asker, wrong, room=False)
    request_id = _id(message.request_id, wrong)
    _raise(wrong)
    sampling = Sampling(max_tokens=0, prompt_logprobs=message.logprobs)
    key = key_of(asker.tenant, request_id)
    return request_id, Request(key, tuple(prompt), sampling, 0, asker.tenant, asker.adapter)


def _id(given: str, wrong: dict[str, str]) -> str:
    if len(given) > LONGEST_ID:
        wrong["request_id"] = f"expected at most {LONGEST_ID} characters"
    return given or uuid.uuid4().hex


def _raise(wrong: dict[str, str]) -> None:
    if wrong:
        first = next(iter(wrong))
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InvalidArgument(f"{first}: {wrong[first]}{more}", wrong)


async def _prompt(
    message: inference_pb2.GenerateRequest | inference_pb2.ScoreRequest,
    asker: Asker,
    wrong: dict[str, str],
    *,
    room: bool,
) -> list[int]:
    """Returns the prompt's tokens; with `room`, one more must fit behind them."""
    tokenizer, longest = asker.engine.loaded.tokenizer, asker.engine.longest
    ids = list(message.prompt_token_ids)
    if ids and message.prompt:
        wrong["prompt"] = "expected either prompt or prompt_token_ids, found both"
        return []
    field = "prompt_token_ids" if ids else "prompt"
    size = tokenizer.vocab_size
    if ids and not all(0 <= token < size for token in ids):
        wrong[field] = f"expected ids from 0 to {size - 1}"
        return []
    if len(message.prompt) > longest * _CHARACTERS_PER_TOKEN:
        wrong[field] = f"has {len(message.prompt)} characters, more than the model's context of {longest} tokens holds"
        return []
    if not ids:
        ids = await asyncio.to_thread(tokenizer.encode, message.prompt)
    if not ids:
        wrong[field] = "empty; a prompt needs at least one token"
    elif len(ids) > longest - room:
        also = " and must also hold the continuation" if room else ""
        wrong[field] = f"has {len(ids)} tokens, but the model's context is {longest} tokens{also}"
    return ids


def _wrong_numbers(params: inference_pb2.SamplingParams) -> Iterator[tuple[str, str]]:
    """Yields the fields whose numbers are out of range; NaN is in none."""
    values = _Values(params)
    width, highest = params.beam_width, HIGHEST_TEMPERATURE
    rules: tuple[_Rule, ...] = (
        ("temperature", 0 <= values.temperature <= highest, f"0 to {highest:g}", values.temperature),
        ("top_k", params.top_k >= 0, "at least 0 (0: all)", params.top_k),
        ("top_p", 0 < values.top_p <= 1, "more than 0 and at most 1", values.top_p),
        ("min_p", 0 <= params.min_p <= 1, "0 to 1", params.min_p),
        ("top_p_decay", 0 <= params.top_p_decay <= 1, "0 to 1", params.top_p_decay),
        ("top_p_bound", 0 <= params.top_p_bound <= values.top_p, "0 to top_p", params.top_p_bound),
        (
            "repetition_penalty",
            0.01 <= values.repetition_penalty <= 100,
            "0.01 to 100",
            values.repetition_penalty,
        ),
        ("presence_penalty", -2 <= params.presence_penalty <= 2, "-2 to 2", params.presence_penalty),
        ("frequency_penalty", -2 <= params.frequency_penalty <= 2, "-2 to 2", params.frequency_penalty),
        (
            "max_tokens",
            values.max_tokens >= (0 if params.HasField("prompt_logprobs") else 1),
            "at least 1 (0 with prompt_logprobs)",
            values.max_tokens,
        ),
        ("min_tokens", 0 <= params.min_tokens <= values.max_tokens, "0 to max_tokens", params.min_tokens),
        ("n", 1 <= values.n <= MOST_CONTINUATIONS, f"1 to {MOST_CONTINUATIONS}", values.n),
        (
            "best_of",
            not params.HasField("best_of") or values.n <= params.best_of <= MOST_CONTINUATIONS,
            f"n to {MOST_CONTINUATIONS}",
            params.best_of,
        ),
        ("logprobs", 0 <= params.logprobs <= MOST_LOGPROBS, f"0 to {MOST_LOGPROBS}", params.logprobs),
        (
            "prompt_logprobs",
            0 <= params.prompt_logprobs <= MOST_LOGPROBS,
            f"0 to {MOST_LOGPROBS}",
            params.prompt_logprobs,
        ),
        (
            "beam_width",
            width == 0 or values.n <= width <= MOST_BEAMS,
            f"0 (no beam search), or n to {MOST_BEAMS}",
            width,
        ),
        ("seed", params.seed < 2**63, "at most 2^63 - 1", params.seed),
        ("length_penalty", -10 <= values.length_penalty <= 10, "-10 to 10", values.length_penalty),
    )
    for name, is_right, expected, found in rules:
        if not is_right:
            yield f"sampling_params.{name}", f"expected {expected}, found {_shown(found)}"


def _wrong_lists(params: inference_pb2.SamplingParams, vocabulary: int) -> Iterator[tuple[str, str]]:
    for name, most, what in (
        ("stop", MOST_STOP_STRINGS, "strings"),
        ("stop_token_ids", MOST_STOP_TOKENS, "ids"),
        ("logit_bias", MOST_BIASES, "ids"),
    ):
        found = len(getattr(params, name))
        if found > most:
            yield f"sampling_params.{name}", f"expected at most {most} {what}, found {found}"
            return
    if not all(1 <= len(stop) <= LONGEST_STOP_STRING for stop in params.stop):
        yield "sampling_params.stop", f"expected strings of 1 to {LONGEST_STOP_STRING} characters"
    for name in ("stop_token_ids", "logit_bias"):
        if not all(0 <= token < vocabulary for token in getattr(params, name)):
            yield f"sampling_params.{name}", f"expected ids from 0 to {vocabulary - 1}"
    if not all(-100 <= bias <= 100 for bias in params.logit_bias.values()):
        yield "sampling_params.logit_bias", "expected values from -100 to 100"


def _structure(params: inference_pb2.SamplingParams, wrong: dict[str, str]) -> Structure | None:
    """Returns what the text must be like; whether that is a grammar the engine finds out."""
    outputs = params.structured_outputs
    if not params.HasField("structured_outputs"):
        return None
    kind = outputs.WhichOneof("constraint")
    if kind is None or (kind == "json_object" and not outputs.json_object):
        wrong["sampling_params.structured_outputs"] = "expected one constraint"
        return None
    field = f"sampling_params.structured_outputs.{kind}"
    if kind == "choice":
        choices = list(outputs.choice.choices)
        if not 1 <= len(choices) <= MOST_CHOICES or not all(choices):
            wrong[field] = f"expected 1 to {MOST_CHOICES} texts, none of them empty"
        text = json.dumps(choices, ensure_ascii=False)
    else:
        text = "{}" if kind == "json_object" else getattr(outputs, kind)
    if len(text) > LONGEST_GRAMMAR:
        wrong[field] = f"expected at most {LONGEST_GRAMMAR} characters, found {len(text)}"
    elif not text:
        wrong[field] = "empty"
    kinds = {"regex": StructureKind.regex, "choice": StructureKind.choice}
    return Structure(kinds.get(kind, StructureKind.json_schema), text)


@dataclass(frozen=True)
class _Values:
    """Fields that have a default other than 0."""

    params: inference_pb2.SamplingParams

    def _of(self, name: str, default: float) -> float:
        return getattr(self.params, name) if self.params.HasField(name) else default

    @property
    def temperature(self) -> float:
        return self._of("temperature", DEFAULT_TEMPERATURE)

    @property
    def top_p(self) -> float:
        return self._of("top_p", 1.0)

    @property
    def repetition_penalty(self) -> float:
        return self._of("repetition_penalty", 1.0)

    @property
    def length_penalty(self) -> float:
        return self._of("length_penalty", 1.0)

    @property
    def max_tokens(self) -> int:
        return int(self._of("max_tokens", DEFAULT_MAX_TOKENS))

    @property
    def n(self) -> int:
        return int(self._of("n", 1))


def _sampling(params: inference_pb2.SamplingParams, structure: Structure | None) -> Sampling:
    values = _Values(params)
    return Sampling(
        max_tokens=values.max_tokens,
        min_tokens=params.min_tokens,
        temperature=values.temperature,
        top_k=params.top_k,
        top_p=values.top_p,
        top_p_decay=params.top_p_decay,
        top_p_bound=params.top_p_bound,
        min_p=params.min_p,
        repetition_penalty=values.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=tuple(sorted(params.logit_bias.items())),
        seed=params.seed if params.HasField("seed") else None,
        stop=tuple(params.stop),
        stop_token_ids=frozenset(params.stop_token_ids),
        ignore_eos=params.ignore_eos,
        include_stop_str_in_output=params.include_stop_str_in_output,
        n=values.n,
        best_of=params.best_of if params.HasField("best_of") else None,
        beam=Beam(params.beam_width, values.length_penalty) if params.beam_width else None,
        logprobs=params.logprobs if params.HasField("logprobs") else None,
        prompt_logprobs=params.prompt_logprobs if params.HasField("prompt_logprobs") else None,
        structure=structure,
    )


def _shown(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
