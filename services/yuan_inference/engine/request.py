"""What is asked of an engine and what comes back; values are checked before they get here."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a continuation ended.

    stop: an end of document, a stop token or a stop string. length: max_tokens. abort: somebody ended it. error: it
    failed.
    """

    stop = "stop"
    length = "length"
    abort = "abort"
    error = "error"


@dataclass(frozen=True)
class Sampling:
    """How a continuation's tokens are drawn and where it ends.

    Attributes:
        max_tokens: new tokens at most.
        temperature: 0 takes the likeliest token.
        top_k: only the k likeliest are drawn from; 0: all.
        top_p: only the likeliest that together reach this probability.
        seed: the same seed gives the same text, whatever else is in the batch; None: drawn.
        stop: the text ends where the first of these is complete.
        stop_token_ids: end it, and are not in the text.
        ignore_eos: an end of document does not end it.
        include_stop_str_in_output: keeps the stop string that ended it in the text.
    """

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes:
        id: names it for `abort`; no two in one engine at a time.
        prompt_ids: at least one token; with max_tokens not longer than the context.
        sampling: how.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Output:
    """What is new of a continuation.

    Attributes:
        text: never half a character; joined, the pieces are the continuation's text.
        token_ids: new tokens; what ended the continuation (an end of document, a stop token) is not among them.
        finish_reason: set in the last output alone.
        stop_reason: the stop string that ended it.
        error: one line, where the reason is `error`.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str = ""
    error: str = ""


Deliver = Callable[[Output], None]
"""Takes a request's outputs, in order, in the engine's thread: must return at once and not raise."""
