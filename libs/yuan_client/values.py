"""What is asked and what comes back, as plain values; to and from the wire."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from google.protobuf import json_format

from yuan_events import InputError
from yuan_rpc.inference.v1 import inference_pb2


class FinishReason(StrEnum):
    """Why a continuation ended: an end (of document, a stop), max_tokens, somebody's wish."""

    stop = "stop"
    length = "length"
    abort = "abort"


_REASONS = {
    inference_pb2.FINISH_REASON_STOP: FinishReason.stop,
    inference_pb2.FINISH_REASON_LENGTH: FinishReason.length,
    inference_pb2.FINISH_REASON_ABORT: FinishReason.abort,
}


@dataclass(frozen=True)
class Structure:
    """What a text must be like; exactly one of these.

    Attributes:
        schema: of JSON.
        regex: that the whole text matches.
        choice: the texts that are allowed.
        json_object: any JSON object.
    """

    schema: Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] = ()
    json_object: bool = False

    def to_wire(self) -> inference_pb2.StructuredOutputs:
        """Returns the message."""
        given: dict[str, Any] = {}
        if self.schema is not None:
            given["json"] = json.dumps(dict(self.schema))
        if self.regex is not None:
            given["regex"] = self.regex
        if self.choice:
            given["choice"] = inference_pb2.StructuredOutputs.Choice(choices=self.choice)
        if self.json_object:
            given["json_object"] = True
        if len(given) != 1:
            raise InputError(f"structure: expected exactly one constraint, found {len(given)}")
        return inference_pb2.StructuredOutputs(**given)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and where a continuation ends; None is the server's default. Names are vLLM's."""

    temperature: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_p_decay: float | None = None
    top_p_bound: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    n: int | None = None
    best_of: int | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    structured_outputs: Structure | None = None

    def to_wire(self) -> inference_pb2.SamplingParams:
        """Returns the message.

        Raises:
            InputError: if a number does not fit into its field.
        """
        params = inference_pb2.SamplingParams(stop=self.stop)
        if self.structured_outputs is not None:
            params.structured_outputs.CopyFrom(self.structured_outputs.to_wire())
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name, value in given.items():
            try:
                if name == "stop_token_ids":
                    params.stop_token_ids.extend(self.stop_token_ids)
                elif name == "logit_bias":
                    params.logit_bias.update(self.logit_bias)
                elif name not in ("stop", "structured_outputs") and value is not None:
                    setattr(params, name, value)
            except (ValueError, TypeError) as error:
                raise InputError(f"sampling.{name}: {value!r} does not fit ({error})") from None
        return params


@dataclass(frozen=True)
class Usage:
    """Tokens of a prompt, of what was drawn, and those of the prompt that a cache had already."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @classmethod
    def of(cls, message: inference_pb2.Usage) -> "Usage":
        """Returns it from its message."""
        return cls(message.prompt_tokens, message.completion_tokens, message.cached_tokens)


@dataclass(frozen=True)
class Logprob:
    """How likely a token was.

    Attributes:
        token_id: which.
        token: what it spells, as UTF-8; a part of a character where it is one.
        logprob: natural logarithm; None for the first token of a text.
        top: the likeliest in its place, the first the likeliest: id, log-probability, bytes.
    """

    token_id: int
    token: bytes
    logprob: float | None
    top: tuple[tuple[int, float, bytes], ...] = ()


def logprobs_of(messages: Iterable[inference_pb2.TokenLogprob]) -> tuple[Logprob, ...]:
    """Returns them from their messages."""
    return tuple(
        Logprob(
            one.token_id,
            one.token,
            one.logprob if one.HasField("logprob") else None,
            tuple((top.token_id, top.logprob, top.token) for top in one.top_logprobs),
        )
        for one in messages
    )


@dataclass(frozen=True)
class Choice:
    """One continuation of a prompt."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stop_reason: str = ""
    logprobs: tuple[Logprob, ...] = ()
    score: float | None = None


@dataclass(frozen=True)
class Completion:
    """An answer: all its continuations.

    Attributes:
        request_id: that `abort` knows it by.
        model: that answered.
        choices: at least one.
        usage: tokens.
        prompt_logprobs: of the prompt's tokens, if asked for.
    """

    request_id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage
    prompt_logprobs: tuple[Logprob, ...] = ()

    @property
    def text(self) -> str:
        """The first continuation's text."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first continuation's tokens."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first continuation ended."""
        return self.choices[0].finish_reason

    @classmethod
    def of(cls, message: inference_pb2.GenerateResponse) -> "Completion":
        """Returns it from its message."""
        choices = tuple(
            Choice(
                one.index,
                one.text,
                tuple(one.token_ids),
                _REASONS.get(one.finish_reason),
                one.stop_reason,
                logprobs_of(one.logprobs),
                one.cumulative_logprob if one.HasField("cumulative_logprob") else None,
            )
            for one in message.outputs
        )
        return cls(
            message.request_id, message.model, choices, Usage.of(message.usage), logprobs_of(message.prompt_logprobs)
        )


@dataclass(frozen=True)
class Piece:
    """What is new of a continuation; `finish_reason` in its last piece alone."""

    request_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    finish_reason: FinishReason | None = None
    stop_reason: str = ""
    logprobs: tuple[Logprob, ...] = ()
    prompt_logprobs: tuple[Logprob, ...] = ()

    @classmethod
    def of(cls, message: inference_pb2.GenerateStreamResponse) -> "Piece":
        """Returns it from its message."""
        return cls(
            message.request_id,
            message.index,
            message.text,
            tuple(message.token_ids),
            Usage.of(message.usage),
            _REASONS.get(message.finish_reason),
            message.stop_reason,
            logprobs_of(message.logprobs),
            logprobs_of(message.prompt_logprobs),
        )


@dataclass(frozen=True)
class Scores:
    """How likely a text is: each token's log-probability after those before it, and their sum."""

    logprobs: tuple[Logprob, ...]
    sum: float


@dataclass(frozen=True)
class Tokens:
    """A text's token ids, each as a piece, and how many the model's context holds."""

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    max_model_len: int


@dataclass(frozen=True)
class Model:
    """A served model."""

    name: str
    artifact: str
    dtype: str
    device: str
    max_model_len: int
    vocab_size: int
    parameters: int
    adapters: tuple[str, ...]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, message: inference_pb2.GetModelInfoResponse) -> "Model":
        """Returns it from its message."""
        return cls(
            message.model,
            message.artifact,
            message.dtype,
            message.device,
            message.max_model_len,
            message.vocab_size,
            message.parameters,
            tuple(message.adapters),
            json_format.MessageToDict(message.config),
        )


@dataclass(frozen=True)
class ServerInfo:
    """The server and what it serves, loads, and could not load."""

    version: str
    uptime_seconds: float
    draining: bool
    models: tuple[Model, ...]
    loading: tuple[str, ...]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Load:
    """How busy a model is."""

    model: str
    running: int
    waiting: int
    used_blocks: int
    total_blocks: int
    max_batch: int
    max_waiting: int
