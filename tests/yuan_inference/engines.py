"""Requests to an engine from a test's thread."""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from torch import Tensor

from yuan_inference.engine import Engine, FinishReason, Output, Request, Sampling
from yuan_inference.loaded import LoadedModel
from yuan_model import Chunk, Runner, generate

_NUMBERS = count()


class Asked:
    """A request that was submitted; its outputs come as the engine makes them."""

    def __init__(
        self,
        engine: Engine,
        prompt: Sequence[int],
        name: str | None = None,
        on_end: Callable[[str], object] | None = None,
        **values: object,
    ) -> None:
        own = {key: values.pop(key) for key in ("priority", "tenant", "adapter") if key in values}
        sampling = Sampling(**{"max_tokens": 12, **values})
        self.request = Request(name or f"request-{next(_NUMBERS)}", tuple(prompt), sampling, **own)
        self._outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self._on_end = on_end
        self.received: list[Output] = []
        engine.submit(self.request, self._take)

    def _take(self, output: Output) -> None:
        if output.last and self._on_end is not None:
            self._on_end(self.request.id)
        self._outputs.put(output)

    def __iter__(self) -> Iterator[Output]:
        while not self.received or not self.received[-1].last:
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


class Watched:
    """A runner that does something of its own with every step."""

    def __init__(self, engine: Engine, step: Callable[[Runner, Sequence[Chunk]], Tensor]) -> None:
        self._runner, self._step = engine._stepper.runner, step
        engine._stepper.runner = self

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        return self._step(self._runner, chunks)


class Gate:
    """Lets an engine make some steps, and no more until it is opened.

    Attributes:
        sizes: how many sequences each step computed.
        holds: whether a step waits for it.
    """

    def __init__(self, engine: Engine, steps: int = 1) -> None:
        self.sizes: list[int] = []
        self.holds = False
        self._allowed: float = steps
        self._changed = threading.Condition()
        Watched(engine, self._step)

    def allow(self, steps: float) -> None:
        """Lets it make so many more."""
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    def open(self) -> None:
        """Lets it make all."""
        self.allow(math.inf)

    def _step(self, runner: Runner, chunks: Sequence[Chunk]) -> Tensor:
        with self._changed:
            self.holds = True
            assert self._changed.wait_for(lambda: len(self.sizes) < self._allowed, 60)
            self.holds = False
        self.sizes.append(len(chunks))
        return runner.step(chunks)


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
    end = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
