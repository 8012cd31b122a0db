"""What the server and its ranks say to each other, over a pipe a rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from yuan_events import YuanError
from yuan_model import Chunk, PoolSize


class RankLost(YuanError):
    """A rank is dead or hangs: nothing can be computed until the ranks are started anew."""


@dataclass(frozen=True)
class RankSetup:
    """What a rank must know to begin.

    Attributes:
        rank: its number.
        ranks: how many there are.
        folder: of the model.
        dtype: that is computed in, as torch names it (`float32`); None: as stored.
        device: `cpu` or `cuda`.
        devices: of CUDA, by number, one a rank; empty: the first ones.
        int8: matrices are held in 8 bits.
        size: of the pool and of a step.
        threads: of the processor, for this rank.
        meeting: a file through which the ranks find each other.
        seconds: that a sum over all ranks may take.
    """

    rank: int
    ranks: int
    folder: Path
    dtype: str | None
    device: str
    devices: tuple[int, ...]
    int8: bool
    size: PoolSize
    threads: int
    meeting: Path
    seconds: float


class Reply(StrEnum):
    """What a rank's answer is.

    progress: the part of its weights that it has read. ready: it can step; its runner's facts. done: what was ordered;
    with the result of an order that has one. failed: the network raised; whether for want of memory, and the text.
    refused: it cannot serve such a model; the text.
    """

    progress = "progress"
    ready = "ready"
    done = "done"
    failed = "failed"
    refused = "refused"


Order = tuple[str, tuple[Any, ...]]
"""The name of a runner's method, and what it is called with."""

Message = tuple[Sequence[Order], Sequence[Chunk] | None]
"""Orders since the last step, then a step; None: no step, but the last order's result."""


class Tail(Sequence[int]):
    """The tokens of a sequence from a position on, found under their own positions; those before are not sent."""

    __slots__ = ("_start", "_tokens")

    def __init__(self, start: int, tokens: list[int]) -> None:
        """Args: start: position of the first token. tokens: from there on."""
        self._start, self._tokens = start, tokens

    def __len__(self) -> int:
        return self._start + len(self._tokens)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._tokens[place.start - self._start : place.stop - self._start]
        return self._tokens[place - self._start]
