"""Requests to an engine from a test's thread."""

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from yuan_inference.engine import Engine, FinishReason, Output, Request, Sampling
from yuan_inference.loaded import LoadedModel
from yuan_model import generate

_NUMBERS = count()


class Asked:
    """A request that was submitted; its outputs come as the engine makes them."""

    def __init__(self, engine: Engine, prompt: Sequence[int], name: str | None = None, **sampling: object) -> None:
        self.request = Request(
            name or f"request-{next(_NUMBERS)}", tuple(prompt), Sampling(**{"max_tokens": 12, **sampling})
        )
        self._outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self.received: list[Output] = []
        engine.submit(self.request, self._outputs.put)

    def __iter__(self) -> Iterator[Output]:
        while not self.received or self.received[-1].finish_reason is None:
            self.received.append(self._outputs.get(timeout=60))
            yield self.received[-1]

    @property
    def done(self) -> Output:
        """Waits for the end."""
        list(self)
        return self.received[-1]

    @property
    def tokens(self) -> list[int]:
        """All tokens, once it has ended."""
        assert self.done.finish_reason is not FinishReason.error, self.done.error
        return [token for output in self.received for token in output.token_ids]

    @property
    def text(self) -> str:
        """The whole text, once it has ended."""
        assert self.done.finish_reason is not None
        return "".join(output.text for output in self.received)


def alone(loaded: LoadedModel, asked: Asked) -> list[int]:
    """Returns the tokens that the plain way gives, one request after the other."""
    sampling = asked.request.sampling
    return list(
        generate(
            loaded.model,
            asked.request.prompt_ids,
            sampling.max_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed or 0,
            stop_token_ids=sampling.stop_token_ids | (frozenset() if sampling.ignore_eos else loaded.end_ids),
            vocabulary=loaded.tokenizer.vocab_size,
        )
    )


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits for what another thread does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
