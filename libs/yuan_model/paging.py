"""What a step over many sequences is made of, whoever computes it: chunks, a pool's size, where documents begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from yuan_model.config import YuanConfig

BLOCK_TOKENS = 16
"""Tokens that a block holds, where nothing else is said; the compiled step knows no other size."""

Factors = dict[str, tuple[Tensor, Tensor]]
"""Low-rank additions to a layer's matrices, by a matrix's name within the layer (`mlp.up_proj`): a [rank, inputs] and
b [outputs, rank], the scale within b."""


class Chunk(NamedTuple):
    """The tokens of one sequence that a step computes.

    Attributes:
        tokens: all tokens of the sequence up to `stop` at least.
        start: tokens that the pool holds already.
        stop: the first token not to compute; above start.
        row: of the sequence, in which its blocks are listed and its filter's last steps lie.
        outputs: how many of the chunk's last tokens logits are wanted of.
        adapter: number of the low-rank additions that it is computed with; -1: none.
    """

    tokens: Sequence[int]
    start: int
    stop: int
    row: int
    outputs: int = 1
    adapter: int = -1


@dataclass(frozen=True)
class PoolSize:
    """How much a runner holds and computes at most.

    Attributes:
        blocks: of `block_tokens` tokens.
        rows: sequences at once.
        step_tokens: tokens of one step.
        outputs: rows of logits of one step.
        slots: last tokens of a sequence of which the filter's steps are kept, so that a sequence can go on from any of
            them (guessed tokens that turned out wrong).
        block_tokens: tokens that a block holds.
    """

    blocks: int
    rows: int
    step_tokens: int
    outputs: int
    slots: int = 1
    block_tokens: int = BLOCK_TOKENS

    @property
    def tokens(self) -> int:
        """Tokens that the pool holds."""
        return self.blocks * self.block_tokens


class Runner(Protocol):
    """Computes steps and holds the pasts of sequences. Who gets which blocks and rows is the caller's to decide.

    The filter's steps (u, a) of a sequence's last `slots` tokens lie in its row, those of every block's last token with
    the block: a sequence may begin behind whole blocks that another one has computed.

    Attributes:
        size: what it was made for.
        dtype: of keys and values.
    """

    size: PoolSize
    dtype: torch.dtype

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """Lists blocks as those that hold a sequence's tokens from number `first * size.block_tokens` on."""
        ...

    def copy(self, block: int, to_block: int, row: int, to_row: int) -> None:
        """Copies a block and a row's last filter steps: another sequence goes on from there."""
        ...

    def clear(self, blocks: Sequence[int]) -> None:
        """Empties blocks of a sequence that went wrong, so that no NaN is left in them."""
        ...

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Computes a step.

        Args:
            chunks: of different sequences, at least one; each has blocks for its tokens (`place`).

        Returns:
            Logits fp32 [outputs, v] on the processor, in the chunks' order; valid until the next step.

        Raises:
            ValueError: if it is larger than `size`, or a chunk goes beyond max_position_embeddings.
        """
        ...


@runtime_checkable
class AdapterRunner(Protocol):
    """A runner that computes low-rank additions, too."""

    def add_adapter(self, layers: Sequence[Factors]) -> int:
        """Takes the factors of all layers and returns their number, for `Chunk.adapter`."""
        ...

    def remove_adapter(self, number: int) -> None:
        """Gives the memory of an adapter back; its number is not used again."""
        ...


class DocumentStarts:
    """Where the document of each new token begins, for models whose attention resets at `<eod>`; counted on by row."""

    def __init__(self, config: YuanConfig, rows: int) -> None:
        """Args: config: whether and at what attention resets. rows: sequences at once."""
        self._eod = config.eod_token_id if config.attention_reset_at_eod else None
        self._known: list[tuple[int, int]] = [(0, 0)] * rows

    def of(self, chunks: Sequence[Chunk]) -> list[int] | None:
        """Returns for all tokens of all chunks the first position that they see; None: all see everything."""
        if self._eod is None:
            return None
        starts: list[int] = []
        for chunk in chunks:
            held, start = self._known[chunk.row]
            if held != chunk.start or held == 0:
                start = _document_start(chunk.tokens, chunk.start, self._eod)
            for position in range(chunk.start, chunk.stop):
                starts.append(start)
                if chunk.tokens[position] == self._eod:
                    start = position + 1
            self._known[chunk.row] = (chunk.stop, start)
        return starts

    def forget(self, row: int) -> None:
        """Says that a row is another sequence's now."""
        self._known[row] = (0, 0)


def _document_start(tokens: Sequence[int], position: int, eod_token_id: int) -> int:
    """Returns where the document of a position begins: behind the last `<eod>` strictly before it."""
    return next((number + 1 for number in range(position - 1, -1, -1) if tokens[number] == eod_token_id), 0)


def blocks_needed(tokens: int, block_tokens: int = BLOCK_TOKENS) -> int:
    """Returns how many blocks hold that many tokens."""
    return -(-tokens // block_tokens)


def bytes_per_token(config: YuanConfig, dtype: torch.dtype) -> int:
    """Returns the bytes of one token's keys and values in all layers."""
    return 2 * config.num_hidden_layers * config.hidden_size * dtype.itemsize
