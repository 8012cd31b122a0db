"""One continuation on its way through the engine; only the engine's thread touches it."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field

from yuan_corpus import Tokenizer
from yuan_inference.engine.changes import LogitChanges
from yuan_inference.engine.lookup import PromptLookup
from yuan_inference.engine.request import FinishReason, Output, Sampling, TokenLogprob
from yuan_inference.engine.structure import Matcher
from yuan_inference.engine.task import Task
from yuan_inference.engine.text import OutputText


@dataclass(eq=False, slots=True)
class Sequence:
    """A continuation and how far it has come.

    Attributes:
        task: the request that it belongs to.
        sampling: how its tokens are drawn.
        index: which of the request's continuations.
        tokens: prompt and new tokens; the last `len(tokens) - held` of them are still to be computed.
        prompt_length: how many of them are the prompt's.
        earliest: with so many tokens it may end.
        longest: with so many tokens it ends.
        text: what they spell.
        source: of the random numbers that tokens are drawn by.
        matcher: what the text may still be, where it must have a structure.
        adapter: number of its adapter in the runner; -1: none.
        held: tokens that the cache holds.
        blocks: of the cache, in the order of its tokens.
        placed: how many of them the runner has been told of.
        registered: tokens whose full blocks are known to the prefix cache.
        row: of the cache; -1 while it waits.
        top_p: at the next token; it may decay.
        changes: what it changes in its logits; None: nothing.
        is_random: its tokens are drawn, not the likeliest taken.
        score: log-probability of the new tokens, where somebody asks for it.
        last_token: monotonic seconds of the last token; 0 before the first.
        candidates: where a search waits for its other branches: (log-probability, token, what is told of it).
        finished: it will not be computed any more.
    """

    task: Task
    index: int
    tokens: list[int]
    text: OutputText
    source: random.Random
    matcher: Matcher | None = None
    adapter: int = -1
    sampling: Sampling = field(init=False)
    prompt_length: int = field(init=False)
    earliest: int = field(init=False)
    longest: int = field(init=False)
    held: int = 0
    blocks: list[int] = field(default_factory=list[int])
    placed: int = 0
    registered: int = 0
    row: int = -1
    top_p: float = field(init=False)
    changes: LogitChanges | None = None
    is_random: bool = field(init=False)
    score: float = 0.0
    last_token: float = 0.0
    candidates: list[tuple[float, int, TokenLogprob]] | None = None
    told: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finished: bool = False
    lookup: PromptLookup | None = None

    def __post_init__(self) -> None:
        request = self.task.request
        self.sampling = request.sampling
        self.prompt_length = len(request.prompt_ids)
        self.earliest = self.prompt_length + self.sampling.min_tokens
        self.longest = self.prompt_length + self.sampling.max_tokens
        self.top_p = self.sampling.top_p
        self.is_random = self.sampling.temperature > 0
        self.changes = LogitChanges.of(self.sampling, request.prompt_ids)

    @classmethod
    def begin(cls, task: Task, index: int, tokenizer: Tokenizer, adapter: int, matcher: Matcher | None) -> "Sequence":
        """Begins a continuation behind the prompt."""
        request = task.request
        sampling = request.sampling
        text = OutputText(tokenizer, request.prompt_ids, sampling.stop, keep=sampling.include_stop_str_in_output)
        source = random.Random(None if sampling.seed is None else sampling.seed + index)
        return cls(task, index, list(request.prompt_ids), text, source, matcher, adapter)

    def sibling(self, index: int) -> "Sequence":
        """Returns another continuation of the same prompt."""
        sampling = self.sampling
        text = self.text.again(self.task.request.prompt_ids)
        source = random.Random(None if sampling.seed is None else sampling.seed + index)
        matcher = None if self.matcher is None else self.matcher.copy()
        return Sequence(self.task, index, list(self.task.request.prompt_ids), text, source, matcher, self.adapter)

    def fork(self, token: int, score: float, told: TokenLogprob) -> "Sequence":
        """Returns a continuation that goes on from here by another token than this one."""
        other = self.sibling(self.index)
        other.tokens = list(self.tokens)
        other.changes = None if self.changes is None else self.changes.copy()
        other.told = list(self.told)
        other.go_on(token, score, told)
        return other

    def go_on(self, token: int, score: float, told: TokenLogprob) -> None:
        """Takes a token that a search has chosen."""
        self.tokens.append(token)
        self.score = score
        self.told.append(told)
        self.candidates = None
        if self.changes is not None:
            self.changes.take(token)
        if self.matcher is not None:
            self.matcher.take(token, ends=False)

    @property
    def pending(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) - self.held

    @property
    def new_tokens(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def is_early(self) -> bool:
        """Whether nothing may end it yet."""
        return len(self.tokens) < self.earliest

    @property
    def changes_logits(self) -> bool:
        """Whether its next token is not drawn from the logits as they are."""
        return self.changes is not None or self.matcher is not None or len(self.tokens) < self.earliest

    @property
    def scores_prompt(self) -> bool:
        """Whether logits of the prompt's tokens are still to be seen."""
        return self.index == 0 and self.task.scores_prompt and not self.task.prompt_is_told

    def guess(self, count: int) -> tuple[int, ...]:
        """Returns tokens that may come next but one, for a search in the text before; none where none is like it."""
        room = self.longest - len(self.tokens) - 1
        if room <= 0 or self.task.in_step:
            return ()
        self.lookup = self.lookup or PromptLookup()
        return self.lookup.guess(self.tokens, min(count, room))

    def take(self, token: int, end_ids: Collection[int]) -> Output:
        """Takes a drawn token and returns what is told of it: text and tokens, with the reason if it is the last."""
        sampling = self.sampling
        if self.matcher is not None and not self.matcher.take(token, token in end_ids):
            raise ValueError(f"token {token} is none that the structure allows")
        ends = token in end_ids and (self.matcher is not None or not sampling.ignore_eos)
        if (ends or token in sampling.stop_token_ids) and not self.is_early:
            return self.output(self.text.finish(), (), FinishReason.stop)
        self.tokens.append(token)
        length = len(self.tokens)
        if self.changes is not None:
            self.changes.take(token)
        if sampling.top_p_decay:
            self.top_p = max(self.top_p * sampling.top_p_decay, sampling.top_p_bound)
        # Before min_tokens a stop string ends nothing.
        text = self.text.push(token, stops=length >= self.earliest)
        reason: FinishReason | None = None
        if self.text.stopped_by:
            reason = FinishReason.stop
        elif self.matcher is not None and self.matcher.complete:
            text, reason = text + self.text.finish(), FinishReason.stop
        elif length == self.longest:
            text += self.text.finish()
            reason = FinishReason.stop if self.text.stopped_by else FinishReason.length
        return self.output(text, (token,), reason)

    def output(self, text: str, tokens: tuple[int, ...], reason: FinishReason | None) -> Output:
        """Returns what is told of it."""
        return Output(text, tokens, self.index, reason, self.text.stopped_by)
