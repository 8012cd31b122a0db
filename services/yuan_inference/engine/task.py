"""A request on its way: what its continuations have in common, and what is kept back until all of them have ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from yuan_inference.engine.request import Deliver, FinishReason, Output, Request, TokenLogprob

if TYPE_CHECKING:
    from yuan_inference.engine.beam import BeamSearch
    from yuan_inference.engine.sequence import Sequence


@dataclass(eq=False, slots=True)
class Task:
    """A request and its continuations.

    Attributes:
        request: what was asked.
        deliver: takes its outputs.
        wake: called once behind each step in which something was delivered; None: nobody waits for that.
        number: counts requests: the lower, the older.
        branches: its continuations that have not ended.
        arrived, started, first_token: monotonic seconds; 0 until then.
        cached_tokens: of the prompt, that were known.
        prompt_logprobs: of the prompt's tokens so far.
        prompt_is_told: they are whole.
        begun: something has been told.
        search: its beam search.
        ended: how each continuation that is kept back ended, with its score.
        scores_prompt: log-probabilities of the prompt are wanted.
        in_step: its continuations go on together, as a search's do.
        keeps_back: nothing is told before all have ended.
        wants_score: the drawn tokens' log-probabilities are wanted.
        left: continuations that have not ended.
    """

    request: Request
    deliver: Deliver
    number: int
    wake: Callable[[], None] | None = None
    branches: list["Sequence"] = field(default_factory=list["Sequence"])
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first_token: float = 0.0
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    prompt_is_told: bool = False
    begun: bool = False
    search: "BeamSearch | None" = None
    ended: list[tuple[float, Output]] = field(default_factory=list[tuple[float, Output]])
    scores_prompt: bool = field(init=False)
    in_step: bool = field(init=False)
    keeps_back: bool = field(init=False)
    wants_score: bool = field(init=False)
    left: int = field(init=False)
    _kept: dict[int, list[Output]] = field(init=False, default_factory=dict[int, list[Output]])

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.scores_prompt = sampling.prompt_logprobs is not None and len(self.request.prompt_ids) > 1
        self.in_step = sampling.beam is not None
        self.keeps_back = self.in_step or (sampling.best_of or 0) > sampling.n
        self.wants_score = self.keeps_back or sampling.logprobs is not None
        self.left = sampling.branches

    def tell(self, output: Output) -> list[Output]:
        """Returns the outputs that can be told now that a continuation has come this far; the last one is marked."""
        if output.finish_reason is not None:
            self.left -= 1
        if not self.keeps_back:
            return [self.marked(output)]
        self._kept.setdefault(output.index, []).append(output)
        if output.finish_reason is not None:
            self.ended.append((_mean(output, self._kept[output.index]), _joined(self._kept.pop(output.index))))
        return self.best() if self.left == 0 else []

    def marked(self, output: Output) -> Output:
        """Returns an output with what the first and the last one say besides."""
        if not self.begun:
            self.begun = True
            output.cached_tokens = self.cached_tokens
            output.prompt_logprobs = tuple(self.prompt_logprobs)
        output.last = self.left == 0
        return output

    def best(self) -> list[Output]:
        """Returns the best of those that were kept back."""
        ranked = sorted(self.ended, key=lambda one: -one[0])[: self.request.sampling.n]
        outputs = [replace(output, index=index, last=False) for index, (_, output) in enumerate(ranked)]
        outputs[0].cached_tokens, outputs[0].prompt_logprobs = self.cached_tokens, tuple(self.prompt_logprobs)
        outputs[-1].last = True
        return outputs

    def end(self, output: Output) -> Output:
        """Returns the output by which all of it ends at once."""
        self.left = 0
        output.last = True
        return output


def _mean(last: Output, parts: list[Output]) -> float:
    tokens = sum(len(part.token_ids) for part in parts)
    ends = last.finish_reason is FinishReason.stop and not last.token_ids
    return (last.score or 0.0) / max(1, tokens + ends)


def _joined(parts: list[Output]) -> Output:
    return replace(
        parts[-1],
        text="".join(part.text for part in parts),
        token_ids=tuple(token for part in parts for token in part.token_ids),
        logprobs=tuple(one for part in parts for one in part.logprobs),
    )
