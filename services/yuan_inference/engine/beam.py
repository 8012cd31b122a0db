"""Beam search: of all continuations the likeliest few are followed, all of them by one token at a time.

A finished one counts as log-probability / length ** length_penalty. The search ends when as many are finished as are
followed and none that is followed can still become better, or at max_tokens.
"""

from dataclasses import dataclass

from yuan_corpus import Tokenizer
from yuan_inference.engine.request import Beam, FinishReason, Output, TokenLogprob
from yuan_inference.engine.sequence import Sequence
from yuan_inference.engine.task import Task
from yuan_inference.engine.text import OutputText


@dataclass(frozen=True)
class Branch:
    """How one of the next round's continuations comes from one of this round's.

    Attributes:
        parent: whose continuation it is.
        token: what it adds.
        score: its log-probability.
        told: how probable the token was.
    """

    parent: Sequence
    token: int
    score: float
    told: TokenLogprob


class BeamSearch:
    """The state of one request's search."""

    def __init__(self, task: Task, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        """Args: task: whose. tokenizer: spells. end_ids: end a document."""
        beam = task.request.sampling.beam or Beam(1)
        self._task, self._tokenizer, self._end_ids = task, tokenizer, end_ids
        self._width, self._penalty = beam.width, beam.length_penalty
        self._finished: list[tuple[float, Output]] = []

    @property
    def candidates(self) -> int:
        """How many tokens of each continuation are looked at: enough if `width` of them end it."""
        return 2 * self._width

    def advance(self, live: list[Sequence]) -> list[Branch]:
        """Takes all continuations' candidates and returns the next round; empty: the search is over."""
        sampling = self._task.request.sampling
        found = [
            Branch(sequence, token, sequence.score + score, told)
            for sequence in live
            for score, token, told in sequence.candidates or []
        ]
        found.sort(key=lambda branch: -branch.score)
        followed: list[Branch] = []
        for rank, branch in enumerate(found):
            if len(followed) == self._width:
                break
            reason, text, tokens = self._look(branch)
            if reason is None:
                followed.append(branch)
            elif rank < self._width or reason is FinishReason.length:
                self._finish(branch, reason, text, tokens)
        if not followed or self._is_over(followed[0].score, followed[0].parent.new_tokens + 1, sampling.max_tokens):
            return []
        return followed

    def outputs(self) -> list[Output]:
        """Returns the best continuations, best first."""
        task = self._task
        task.ended = self._finished
        return task.best()

    def _look(self, branch: Branch) -> tuple[FinishReason | None, str, list[int]]:
        """Returns whether and how a continuation ends by its token, and its text and tokens then."""
        sampling, parent = self._task.request.sampling, branch.parent
        tokens = parent.tokens[parent.prompt_length :]
        ends = branch.token in self._end_ids and (parent.matcher is not None or not sampling.ignore_eos)
        if ends or branch.token in sampling.stop_token_ids:
            return FinishReason.stop, self._spell(tokens).all, tokens
        tokens = [*tokens, branch.token]
        length = len(tokens) == sampling.max_tokens
        if not length and not sampling.stop and parent.matcher is None:
            return None, "", tokens
        spelled = self._spell(tokens)
        if spelled.stopped_by and len(tokens) >= sampling.min_tokens:
            return FinishReason.stop, spelled.all, tokens
        if parent.matcher is not None:
            matcher = parent.matcher.copy()
            matcher.take(branch.token, ends=False)
            if matcher.complete:
                return FinishReason.stop, spelled.all, tokens
        return (FinishReason.length, spelled.all, tokens) if length else (None, "", tokens)

    def _spell(self, tokens: list[int]) -> "_Spelled":
        request = self._task.request
        keep = request.sampling.include_stop_str_in_output
        text = OutputText(self._tokenizer, request.prompt_ids, request.sampling.stop, keep=keep)
        parts: list[str] = []
        for number, token in enumerate(tokens, 1):
            parts.append(text.push(token, stops=number >= request.sampling.min_tokens))
            if text.stopped_by:
                break
        parts.append(text.finish())
        return _Spelled("".join(parts), text.stopped_by)

    def _finish(self, branch: Branch, reason: FinishReason, text: str, tokens: list[int]) -> None:
        told = [*branch.parent.told, branch.told][: len(tokens)]
        asked = self._task.request.sampling.logprobs is not None
        score = self._value(branch.score, max(1, len(tokens)))
        stopped_by = self._spell(tokens).stopped_by if reason is FinishReason.stop else ""
        output = Output(text, tuple(tokens), 0, reason, stopped_by, logprobs=tuple(told) if asked else (), score=score)
        self._finished.append((score, output))
        self._finished.sort(key=lambda one: -one[0])
        del self._finished[max(self._width, self._task.request.sampling.n) :]

    def _is_over(self, best: float, length: int, longest: int) -> bool:
        if len(self._finished) < self._width:
            return False
        # With a penalty above 0 the same log-probability counts for more the longer the text is.
        reachable = longest if self._penalty > 0 else length
        return self._finished[-1][0] >= self._value(best, reachable)

    def _value(self, score: float, length: int) -> float:
        return score / length**self._penalty


@dataclass(frozen=True)
class _Spelled:
    """A continuation's text and the stop string that ended it."""

    all: str
    stopped_by: str
