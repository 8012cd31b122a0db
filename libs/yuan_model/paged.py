"""One step of many sequences at once, each at a place of its own: what a serving engine computes with.

The new tokens of all sequences lie in one row [1, t], so that every matrix product is made once a step; only attention
looks at sequences. Keys and values lie in a pool of blocks of equally many tokens, and a sequence's blocks may lie
anywhere in it. The localized filter's (u_{t-1}, a_{t-1}) of every sequence lie in a row of their own. Who gets which
blocks and rows, and what is computed when, is the caller's to decide.

Shape suffixes: t new tokens of all sequences, c of one, b sequences, k all tokens of one sequence, n heads, d head
dimension, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from yuan_model.config import YuanConfig
from yuan_model.model import Yuan


@dataclass(frozen=True)
class Chunk:
    """The tokens of one sequence that a step computes.

    Attributes:
        tokens: all tokens of the sequence up to `stop` at least.
        start: tokens that the pool holds already.
        stop: the first token not to compute; above start.
        row: of the sequence, in which its filter state lies and its blocks are listed.
    """

    tokens: Sequence[int]
    start: int
    stop: int
    row: int


class PagedCache:
    """The pasts of many sequences; memory is allocated once.

    Attributes:
        block_tokens: tokens a block holds.
        tokens: tokens that the pool holds in all.
        rows: sequences that can be held at once.
    """

    def __init__(self, model: Yuan, blocks: int, block_tokens: int, rows: int) -> None:
        """Allocates; nothing of it is touched before it is used.

        Args:
            model: whose past is kept, in its dtype and on its device.
            blocks: how many blocks there are.
            block_tokens: tokens a block.
            rows: sequences at once.
        """
        config, weight = model.config, model.embed_tokens.weight
        layers, hidden = config.num_hidden_layers, config.hidden_size
        self.config = config
        self.block_tokens = block_tokens
        self.tokens = blocks * block_tokens
        self.rows = rows
        self.device = weight.device
        shape = (layers, blocks, block_tokens, 2, config.num_attention_heads, config.head_dim)
        # Zeros, not what memory held before: a masked key may be anything but NaN.
        self.pool = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.last_steps = tuple(
            torch.zeros(layers, rows, width, dtype=weight.dtype, device=weight.device)
            for width in (hidden, hidden // 2)
        )
        most = -(-config.max_position_embeddings // block_tokens)
        self.tables = torch.zeros(rows, most, dtype=torch.int64)

    def begin(self, row: int) -> None:
        """Makes a row that of a new sequence, of which nothing is held."""
        for steps in self.last_steps:
            steps[:, row] = 0
        self.tables[row] = 0

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """Lists blocks as those that hold a sequence's tokens from number `first * block_tokens` on."""
        self.tables[row, first : first + len(blocks)] = torch.tensor(blocks, dtype=torch.int64)

    def clear(self, blocks: Sequence[int]) -> None:
        """Empties blocks of a sequence that went wrong, so that no NaN is left where another's mask would meet it."""
        self.pool[:, list(blocks)] = 0


class PagedStep:
    """One step of the sequences in `chunks`: where its tokens lie, made once for all layers.

    A step that raises has changed nothing that matters: keys and values are written again when its chunks are, and
    filter states are kept back until `commit`.
    """

    def __init__(self, cache: PagedCache, chunks: Sequence[Chunk]) -> None:
        """Lays out the step.

        Args:
            cache: holds the tokens before.
            chunks: of different sequences; those of one token are attended together.
        """
        self.cache = cache
        self.singles = [chunk for chunk in chunks if chunk.stop - chunk.start == 1]
        self.chunks = [*self.singles, *(chunk for chunk in chunks if chunk.stop - chunk.start > 1)]
        device = cache.device
        lengths = torch.tensor([chunk.stop - chunk.start for chunk in self.chunks])
        stops = torch.tensor([chunk.stop for chunk in self.chunks])
        rows = torch.tensor([chunk.row for chunk in self.chunks])
        ends = lengths.cumsum(0)
        # A token's position is its number in the row of all, moved by where its sequence begins in it.
        moved = (stops - ends).repeat_interleave(lengths)
        positions = torch.arange(int(ends[-1])) + moved
        blocks = cache.tables[rows.repeat_interleave(lengths), positions // cache.block_tokens]
        ids = [token for chunk in self.chunks for token in chunk.tokens[chunk.start : chunk.stop]]
        self.token_ids = torch.tensor([ids], device=device)
        self.positions = positions.to(device)
        self.slots = (blocks * cache.block_tokens + positions % cache.block_tokens).to(device)
        self.rows = rows.to(device)
        self.firsts = (ends - lengths).to(device)
        self.lasts = (ends - 1).to(device)
        self.only_singles = len(self.singles) == len(self.chunks)
        self.new_steps: list[list[Tensor]] = [[], []]
        self._single_blocks, self._single_mask = self._lay_singles(stops, rows)
        self._longer = [self._lay_longer(chunk) for chunk in self.chunks[len(self.singles) :]]

    def _lay_singles(self, stops: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the blocks to gather [b, blocks] and what is seen of them, additive [b, 1, 1, k]."""
        count, cache = len(self.singles), self.cache
        most = max((chunk.stop for chunk in self.singles), default=0)
        tables = cache.tables[rows[:count], : -(-most // cache.block_tokens)]
        keys = torch.arange(tables.shape[1] * cache.block_tokens)
        seen = keys[None] < stops[:count, None]
        if (eod := self._reset_eod) is not None:
            begins = [_document_start(chunk.tokens, chunk.start, eod) for chunk in self.singles]
            seen &= keys[None] >= torch.tensor(begins, dtype=torch.int64)[:, None]
        return tables.to(cache.device), self._additive(seen)[:, None, None]

    def _lay_longer(self, chunk: Chunk) -> tuple[int, Tensor | None, Tensor | None]:
        """Returns the chunk's length, its blocks, and what is seen of them [c, k]; None, None: itself alone."""
        cache, length = self.cache, chunk.stop - chunk.start
        eod = self._reset_eod
        if chunk.start == 0 and eod is None:
            return length, None, None
        table = cache.tables[chunk.row, : -(-chunk.stop // cache.block_tokens)]
        keys = torch.arange(len(table) * cache.block_tokens)
        queries = torch.arange(chunk.start, chunk.stop)
        seen = keys[None] <= queries[:, None]
        if eod is not None:
            begins = [_document_start(chunk.tokens, position, eod) for position in range(chunk.start, chunk.stop)]
            seen &= keys[None] >= torch.tensor(begins)[:, None]
        return length, table.to(cache.device), self._additive(seen)

    @property
    def _reset_eod(self) -> int | None:
        return self.cache.config.eod_token_id if self.cache.config.attention_reset_at_eod else None

    def _additive(self, seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self.cache.pool.dtype).masked_fill_(~seen, float("-inf"))
        return mask.to(self.cache.device)

    def attend(self, layer: int, queries_1ntd: Tensor, keys_1ntd: Tensor, values_1ntd: Tensor) -> Tensor:
        """Writes the new keys and values into the pool and returns attention over all, [1, n, t, d]."""
        pool = self.cache.pool[layer]
        pairs_t2nd = torch.stack((keys_1ntd[0], values_1ntd[0])).permute(2, 0, 1, 3)
        pool.flatten(0, 1).index_copy_(0, self.slots, pairs_t2nd)
        singles = len(self.singles)
        outputs: list[Tensor] = []
        if singles:
            gathered = pool.index_select(0, self._single_blocks.flatten())
            keys_bnkd, values_bnkd = gathered.view(singles, -1, *gathered.shape[2:]).permute(2, 0, 3, 1, 4)
            queries_bn1d = queries_1ntd[0, :, :singles].transpose(0, 1).unsqueeze(2)
            output_bn1d = functional.scaled_dot_product_attention(
                queries_bn1d, keys_bnkd, values_bnkd, attn_mask=self._single_mask
            )
            outputs.append(output_bn1d.squeeze(2).transpose(0, 1).unsqueeze(0))
        start = singles
        for length, table, mask_ck in self._longer:
            queries_1ncd = queries_1ntd[:, :, start : start + length]
            if table is None:
                keys_nkd, values_nkd = (part[0, :, start : start + length] for part in (keys_1ntd, values_1ntd))
            else:
                keys_nkd, values_nkd = pool.index_select(0, table).flatten(0, 1).permute(1, 2, 0, 3)
            outputs.append(
                functional.scaled_dot_product_attention(
                    queries_1ncd, keys_nkd[None], values_nkd[None], attn_mask=mask_ck, is_causal=mask_ck is None
                )
            )
            start += length
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def steps_before(self, layer: int, place: int, steps_1ti: Tensor) -> Tensor:
        """Returns for each new step of the filter the one before it in its own sequence, [1, t, i]."""
        before_bi = self.cache.last_steps[place][layer].index_select(0, self.rows)
        if self.only_singles:
            self.new_steps[place].append(steps_1ti[0])
            return before_bi.unsqueeze(0)
        self.new_steps[place].append(steps_1ti[0].index_select(0, self.lasts))
        older_ti = torch.cat((steps_1ti[0, :1], steps_1ti[0, :-1]))
        return older_ti.index_copy_(0, self.firsts, before_bi).unsqueeze(0)

    def commit(self) -> None:
        """Keeps the filter states that the step has come to."""
        for steps, new in zip(self.cache.last_steps, self.new_steps, strict=True):
            if new:
                steps.index_copy_(1, self.rows, torch.stack(new))


@dataclass(frozen=True)
class _PagedLayer:
    """One layer of a step, as a block asks for its past."""

    step: PagedStep
    layer: int

    def steps_before(self, place: int, steps_bsi: Tensor) -> Tensor:
        return self.step.steps_before(self.layer, place, steps_bsi)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, segments_bk: Tensor | None) -> Tensor:
        del segments_bk  # the step knows
        return self.step.attend(self.layer, queries, keys, values)


def paged_logits(model: Yuan, cache: PagedCache, chunks: Sequence[Chunk]) -> Tensor:
    """Computes one step and returns the logits [b, v] of every chunk's last token, in the chunks' order.

    Args:
        model: in eval mode.
        cache: made for it; holds every chunk's tokens before `start`, and is left holding those before `stop`.
        chunks: of different sequences, at least one; each has blocks for its tokens (`PagedCache.place`).

    Raises:
        ValueError: if a chunk goes beyond max_position_embeddings.
    """
    step = PagedStep(cache, chunks)
    rotary = model.rotary(step.positions)
    hidden_1th = model.embed_tokens(step.token_ids)
    for layer, block in enumerate(model.layers):
        hidden_1th = block(hidden_1th, rotary, None, _PagedLayer(step, layer))
    logits_bv = functional.linear(model.norm(hidden_1th[0, step.lasts]), model.embed_tokens.weight)
    step.commit()
    if step.only_singles or step.chunks == list(chunks):
        return logits_bv
    order = {chunk.row: place for place, chunk in enumerate(step.chunks)}
    return logits_bv[[order[chunk.row] for chunk in chunks]]


def _document_start(tokens: Sequence[int], position: int, eod_token_id: int) -> int:
    """Returns where the document of a position begins: behind the last `<eod>` strictly before it."""
    return next((number + 1 for number in range(position - 1, -1, -1) if tokens[number] == eod_token_id), 0)


def blocks_needed(tokens: int, block_tokens: int) -> int:
    """Returns how many blocks hold that many tokens."""
    return -(-tokens // block_tokens)


def bytes_per_token(config: YuanConfig, dtype: torch.dtype) -> int:
    """Returns the bytes of one token's keys and values in all layers."""
    return 2 * config.num_hidden_layers * config.hidden_size * dtype.itemsize
