"""What is asked of an engine and what comes back; values are checked before they get here."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a continuation ended.

    stop: an end of document, a stop token or a stop string, or what `structure` describes is complete. length:
    max_tokens. abort: somebody ended it. error: it failed.
    """

    stop = "stop"
    length = "length"
    abort = "abort"
    error = "error"


class Failure(StrEnum):
    """Whose fault a failed request is.

    request: what it asked cannot be computed (its own forward pass raised, its logits are no numbers). structure: what
    it wants its text to be like cannot be followed to an end. minimum: before min_tokens nothing may come that it does
    not take for an end. memory: there is no memory for it. engine: the engine or one of its ranks died; another try may
    succeed.
    """

    request = "request"
    structure = "structure"
    minimum = "minimum"
    memory = "memory"
    engine = "engine"


class StructureKind(StrEnum):
    """In which language a structure is written.

    json_schema: a JSON schema as JSON text (`{}`: any JSON object). regex: a regular expression that the whole
    continuation matches. choice: one of several strings, as a JSON array of strings.
    """

    json_schema = "json_schema"
    regex = "regex"
    choice = "choice"


@dataclass(frozen=True)
class Structure:
    """What a continuation must look like. What is no grammar is refused by `Engine.submit` (`StructureError`).

    Attributes:
        kind: the language of `text`.
        text: the schema, expression or array.
    """

    kind: StructureKind
    text: str


@dataclass(frozen=True)
class Beam:
    """Search for the likeliest continuation in place of drawing one.

    Continuations are sequences of tokens, as in transformers and vLLM: two that are returned may spell the same text.

    Attributes:
        width: continuations followed at once; as many are returned as `Sampling.n` says, best first.
        length_penalty: a finished continuation counts as its log-probability / length ** length_penalty.
    """

    width: int
    length_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a continuation's tokens are drawn and where it ends.

    Order: logit_bias, penalties, structure and min_tokens on the logits; then temperature, top_k, top_p, min_p.

    Attributes:
        max_tokens: new tokens at most; 0: nothing is drawn (the prompt's log-probabilities alone).
        min_tokens: no end of document, stop token or stop string ends it before.
        temperature: 0 takes the likeliest token.
        top_k: only the k likeliest are drawn from; 0: all.
        top_p: only the likeliest that together reach this probability.
        top_p_decay: top_p is multiplied by it after every token (the original's); 0: it stays.
        top_p_bound: where that ends.
        min_p: only tokens at least this part as probable as the likeliest.
        repetition_penalty: logits of tokens of prompt and text are divided by it if positive, else multiplied; 1: none.
        presence_penalty: taken from the logits of every token of the text.
        frequency_penalty: taken from them once for each time that they are there.
        logit_bias: (token, what is added to its logit); -inf forbids it.
        forbidden_pairs: (token, token that never follows it), as the original's prevent_newline_after_colon.
        seed: the same seed gives the same text, whatever else is in the batch; None: drawn. Of n continuations, number
            i is drawn with seed + i.
        stop: the text ends where the first of these is complete.
        stop_token_ids: end it, and are not in the text.
        ignore_eos: an end of document does not end it.
        include_stop_str_in_output: keeps the stop string that ended it in the text.
        n: continuations returned.
        best_of: continuations drawn, of which the n with the highest mean log-probability are returned, once all have
            ended; None: n, each returned as it comes.
        beam: search in place of drawing; temperature, top_k, top_p, seed and best_of are without effect then.
        logprobs: with each new token its log-probability, and the k likeliest; 0: the token's alone; None: none.
        prompt_logprobs: the same of the prompt's tokens but the first, which has none; in the first output.
        structure: what the text must look like.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_decay: float = 0.0
    top_p_bound: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    forbidden_pairs: tuple[tuple[int, int], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    n: int = 1
    best_of: int | None = None
    beam: Beam | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structure: Structure | None = None

    @property
    def branches(self) -> int:
        """Continuations that are computed."""
        if self.beam is not None:
            return self.beam.width
        return max(self.n, self.best_of or 1)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue.

    Attributes:
        id: names it for `abort`; no two in one engine at a time.
        prompt_ids: at least one token; with max_tokens not longer than the context.
        sampling: how.
        priority: lower is served first; equal ones in turn between tenants.
        tenant: who asks: waiting requests of equal priority are taken in turn from each.
        adapter: name of a LoRA adapter that the engine has (`Engine.adapters`); empty: the model itself.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    priority: int = 0
    tenant: str = ""
    adapter: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """How probable a token was where it stands.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability, of the model's logits as they are (no temperature, no penalty).
        rank: 1 for the likeliest.
        top: the likeliest tokens there with their log-probabilities, likeliest first; as many as were asked for.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Output:
    """What is new of a continuation. Not frozen, since one is made for every token; nobody changes it once delivered.

    Attributes:
        text: never half a character; joined, the pieces of one index are the continuation's text.
        token_ids: new tokens; what ended the continuation (an end of document, a stop token) is not among them.
        index: which of the n continuations.
        finish_reason: set in the last output of each index alone.
        stop_reason: the stop string that ended it.
        error: one line, where the reason is `error`.
        failure: whose fault that is.
        last: nothing comes after it, of any index. A request that fails or is aborted ends with one last output,
            whatever n is.
        logprobs: of token_ids, if asked for.
        prompt_logprobs: of the prompt's tokens from the second on, in the first output alone, if asked for.
        cached_tokens: tokens of the prompt that were taken from the prefix cache, in the first output.
        score: where a continuation ends: its log-probability; with beam search divided as `Beam` says; None: unknown.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    index: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: str = ""
    error: str = ""
    failure: Failure | None = None
    last: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    score: float | None = None


Deliver = Callable[[Output], None]
"""Takes a request's outputs, in order, in the engine's thread: must return at once and not raise."""
