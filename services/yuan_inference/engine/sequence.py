"""One request on its way through the engine; only the engine's thread touches it."""

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from yuan_corpus import Tokenizer
from yuan_inference.engine.request import Deliver, FinishReason, Output, Request
from yuan_inference.engine.text import OutputText


@dataclass(eq=False)
class Sequence:
    """A request and how far it has come.

    Attributes:
        request: what was asked.
        deliver: takes its outputs.
        tokens: prompt and new tokens; the last `len(tokens) - held` of them are still to be computed.
        held: tokens that the cache holds.
        blocks: of the cache, in the order of its tokens.
        row: of the cache; -1 while it waits.
        arrived, started, last_token: monotonic seconds; started and last_token are 0 until then.
    """

    request: Request
    deliver: Deliver
    tokens: list[int] = field(init=False)
    text: OutputText = field(init=False)
    generator: torch.Generator = field(init=False)
    held: int = 0
    blocks: list[int] = field(default_factory=list[int])
    row: int = -1
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Makes what its first token needs."""
        sampling = self.request.sampling
        self.tokens = list(self.request.prompt_ids)
        self.text = OutputText(
            tokenizer, self.request.prompt_ids, sampling.stop, keep=sampling.include_stop_str_in_output
        )
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def pending(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) - self.held

    @property
    def new_tokens(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - len(self.request.prompt_ids)

    def take(self, token: int, end_ids: Collection[int]) -> Output:
        """Takes a drawn token and returns what it adds, with the reason if it is the last."""
        sampling = self.request.sampling
        if token in sampling.stop_token_ids or (token in end_ids and not sampling.ignore_eos):
            return self._output(self.text.finish(), (), FinishReason.stop)
        self.tokens.append(token)
        text = self.text.push(token)
        if not self.text.stopped_by and self.new_tokens == sampling.max_tokens:
            text += self.text.finish()
            if not self.text.stopped_by:
                return self._output(text, (token,), FinishReason.length)
        stopped = FinishReason.stop if self.text.stopped_by else None
        return self._output(text, (token,), stopped)

    def _output(self, text: str, token_ids: tuple[int, ...], reason: FinishReason | None) -> Output:
        return Output(text, token_ids, finish_reason=reason, stop_reason=self.text.stopped_by, last=reason is not None)
