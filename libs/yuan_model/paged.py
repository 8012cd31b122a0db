"""One step of many sequences at once in torch: on any device, for any format; `native` is the same compiled.

The new tokens of all sequences lie in one row [1, t], so that every matrix product is made once a step; only attention
looks at sequences. Keys and values lie in a pool of blocks, and a sequence's blocks may lie anywhere in it.

Shape suffixes: t new tokens of all sequences, c of one, b sequences, k all tokens of one sequence, n heads, d head
dimension, v vocabulary, o outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from yuan_model.flash import FlashPages
from yuan_model.model import Yuan
from yuan_model.paging import Chunk, DocumentStarts, PoolSize


class PagedRunner:
    """The pasts of many sequences, and steps of them; see `Runner`. Memory is allocated once.

    The filter's steps lie side by side: those of rows first (`rows * slots`), then those of blocks, then zeros.
    """

    def __init__(
        self, model: Yuan, size: PoolSize, head_vh: Tensor | None = None, flash: FlashPages | None = None
    ) -> None:
        """Allocates; nothing of it is touched before it is used.

        Args:
            model: whose past is kept, in its dtype and on its device; in eval mode.
            size: of the pool and of a step.
            head_vh: rows of the output projection, of which logits are computed; None: all.
            flash: flash-attn's paged kernels, for blocks of their size; None: torch attends over gathered blocks.
        """
        config, weight = model.config, model.embed_tokens.weight
        self.model = model
        self._head_vh = weight if head_vh is None else head_vh
        self.size = size
        self.dtype = weight.dtype
        self.device = weight.device
        layers, hidden = config.num_hidden_layers, config.hidden_size
        inner = model.layers[0].self_attn.v_proj.weight.shape[0]
        shape = (layers, size.blocks, size.block_tokens, 2, inner // config.head_dim, config.head_dim)
        # Zeros, not what memory held before: a masked key may be anything but NaN.
        self.pool = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self._row_steps = size.rows * size.slots
        kept = self._row_steps + size.blocks + 1
        self.steps = tuple(
            torch.zeros(layers, kept, width, dtype=weight.dtype, device=weight.device)
            for width in (hidden, hidden // 2)
        )
        self.tables = torch.zeros(size.rows, -(-config.max_position_embeddings // size.block_tokens), dtype=torch.int64)
        self.starts = DocumentStarts(config, size.rows)
        self.flash = flash

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """Lists blocks as those that hold a sequence's tokens from number `first * size.block_tokens` on."""
        if first == 0:
            self.starts.forget(row)
        self.tables[row, first : first + len(blocks)] = torch.tensor(blocks, dtype=torch.int64)

    def copy(self, block: int, to_block: int, row: int, to_row: int) -> None:
        """Copies a block and the filter's last steps, for a sequence that goes on from another's tokens."""
        self.pool[:, to_block] = self.pool[:, block]
        slots = self.size.slots
        for steps in self.steps:
            steps[:, self._row_steps + to_block] = steps[:, self._row_steps + block]
            steps[:, to_row * slots : (to_row + 1) * slots] = steps[:, row * slots : (row + 1) * slots]

    def clear(self, blocks: Sequence[int]) -> None:
        """Empties blocks of a sequence that went wrong, so that no NaN is left where another's mask would meet it."""
        self.pool[:, list(blocks)] = 0
        for steps in self.steps:
            steps[:, [self._row_steps + block for block in blocks]] = 0

    def step_place(self, row: int, position: int) -> int:
        """Returns where the filter's steps of a row's token lie that may be its last; -1 is the zeros' place."""
        if position < 0:
            return -1 % self.steps[0].shape[1]
        return row * self.size.slots + position % self.size.slots

    def block_place(self, row: int, position: int) -> int:
        """Returns where the filter's steps of the last token of a block lie."""
        return self._row_steps + int(self.tables[row, position // self.size.block_tokens])

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Computes new tokens and returns the logits that are wanted, fp32 [o, v] on the processor."""
        model = self.model
        step = _Step(self, chunks)
        rotary = model.rotary(step.positions)
        hidden_1th = model.embed_tokens(step.token_ids)
        for layer, block in enumerate(model.layers):
            hidden_1th = block(hidden_1th, rotary, None, _PagedLayer(step, layer))
        logits_ov = functional.linear(model.norm(hidden_1th[0, step.wanted]), self._head_vh)
        step.commit()
        return logits_ov.float().cpu()


class _Step:
    """One step of the sequences in `chunks`: where its tokens lie, made once for all layers.

    A step that raises has changed nothing that matters: keys and values are written again when its chunks are, and
    filter steps are kept back until `commit`.
    """

    def __init__(self, runner: PagedRunner, chunks: Sequence[Chunk]) -> None:
        """Lays out the step; chunks of one token come first and are attended together."""
        self.runner = runner
        self.singles = [chunk for chunk in chunks if chunk.stop - chunk.start == 1]
        self.chunks = [*self.singles, *(chunk for chunk in chunks if chunk.stop - chunk.start > 1)]
        device = runner.device
        lengths = torch.tensor([chunk.stop - chunk.start for chunk in self.chunks])
        stops = torch.tensor([chunk.stop for chunk in self.chunks])
        rows = torch.tensor([chunk.row for chunk in self.chunks])
        ends = lengths.cumsum(0)
        # A token's position is its number in the row of all, moved by where its sequence begins in it.
        moved = (stops - ends).repeat_interleave(lengths)
        positions = torch.arange(int(ends[-1])) + moved
        page = runner.size.block_tokens
        blocks = runner.tables[rows.repeat_interleave(lengths), positions // page]
        ids = [token for chunk in self.chunks for token in chunk.tokens[chunk.start : chunk.stop]]
        self.token_ids = torch.tensor([ids], device=device)
        self.positions = positions.to(device)
        self.slots = (blocks * page + positions % page).to(device)
        self.firsts = (ends - lengths).to(device)
        self.only_singles = len(self.singles) == len(self.chunks)
        end_list = cast("list[int]", ends.tolist())  # pyright: ignore[reportUnknownMemberType]
        self.wanted = self._lay_wanted(chunks, end_list).to(device)
        self.before, self.kept_tokens, self.kept_places = (part.to(device) for part in self._lay_steps(end_list))
        self.new_steps: list[list[Tensor]] = [[], []]
        self.first_seen = runner.starts.of(self.chunks)
        if runner.flash is not None:
            page_tables = runner.tables[rows, : -(-int(stops.max()) // page)].to(device, torch.int32)
            self._flash_calls = runner.flash.calls(
                page_tables, stops.to(device, torch.int32), len(self.singles), lengths
            )
            return
        self._single_blocks, self._single_mask = self._lay_singles(stops, rows)
        longer = zip(self.chunks[len(self.singles) :], end_list[len(self.singles) :], strict=True)
        self._longer = [self._lay_longer(chunk, end - (chunk.stop - chunk.start)) for chunk, end in longer]

    def _lay_wanted(self, chunks: Sequence[Chunk], ends: list[int]) -> Tensor:
        """Returns the numbers of the tokens whose logits are wanted, in the order of the chunks as they were given."""
        end_of = {chunk.row: end for chunk, end in zip(self.chunks, ends, strict=True)}
        wanted = [end_of[chunk.row] - back for chunk in chunks for back in range(chunk.outputs, 0, -1)]
        return torch.tensor(wanted, dtype=torch.int64)

    def _lay_steps(self, ends: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns where the filter's steps before each chunk lie, and which tokens' steps are kept, and where."""
        page = self.runner.size.block_tokens
        before: list[int] = []
        kept: dict[int, int] = {}
        for chunk, end in zip(self.chunks, ends, strict=True):
            at_block = chunk.start % page == 0 and chunk.start > 0
            place = self.runner.block_place if at_block else self.runner.step_place
            before.append(place(chunk.row, chunk.start - 1))
            moved = end - chunk.stop
            for position in range(max(chunk.start, chunk.stop - self.runner.size.slots), chunk.stop):
                kept[self.runner.step_place(chunk.row, position)] = position + moved
            first = chunk.start // page * page + page - 1
            for position in range(first, chunk.stop, page):
                kept[self.runner.block_place(chunk.row, position)] = position + moved
        parts = (before, list(kept.values()), list(kept))
        return tuple(torch.tensor(part, dtype=torch.int64) for part in parts)  # pyright: ignore[reportReturnType]

    def _lay_singles(self, stops: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the blocks to gather [b, blocks] and what is seen of them, additive [b, 1, 1, k]."""
        count, runner = len(self.singles), self.runner
        page = runner.size.block_tokens
        most = max((chunk.stop for chunk in self.singles), default=0)
        tables = runner.tables[rows[:count], : -(-most // page)]
        keys = torch.arange(tables.shape[1] * page)
        seen = keys[None] < stops[:count, None]
        if self.first_seen is not None:
            seen &= keys[None] >= torch.tensor(self.first_seen[:count], dtype=torch.int64)[:, None]
        return tables.to(runner.device), self._additive(seen)[:, None, None]

    def _lay_longer(self, chunk: Chunk, place: int) -> tuple[int, Tensor | None, Tensor | None]:
        """Returns the chunk's length, its blocks, and what is seen of them [c, k]; None, None: itself alone."""
        runner, length = self.runner, chunk.stop - chunk.start
        if chunk.start == 0 and self.first_seen is None:
            return length, None, None
        table = runner.tables[chunk.row, : -(-chunk.stop // runner.size.block_tokens)]
        keys = torch.arange(len(table) * runner.size.block_tokens)
        queries = torch.arange(chunk.start, chunk.stop)
        seen = keys[None] <= queries[:, None]
        if self.first_seen is not None:
            seen &= keys[None] >= torch.tensor(self.first_seen[place : place + length])[:, None]
        return length, table.to(runner.device), self._additive(seen)

    def _additive(self, seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self.runner.pool.dtype).masked_fill_(~seen, float("-inf"))
        return mask.to(self.runner.device)

    def attend(self, layer: int, queries_1ntd: Tensor, keys_1ntd: Tensor, values_1ntd: Tensor) -> Tensor:
        """Writes the new keys and values into the pool and returns attention over all, [1, n, t, d]."""
        pool = self.runner.pool[layer]
        pairs_t2nd = torch.stack((keys_1ntd[0], values_1ntd[0])).permute(2, 0, 1, 3)
        pool.flatten(0, 1).index_copy_(0, self.slots, pairs_t2nd)
        if self.runner.flash is not None:
            return self.runner.flash.attend(self._flash_calls, queries_1ntd, pool[:, :, 0], pool[:, :, 1])
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
        before_bi = self.runner.steps[place][layer].index_select(0, self.before)
        self.new_steps[place].append(steps_1ti[0].index_select(0, self.kept_tokens))
        if self.only_singles:
            return before_bi.unsqueeze(0)
        older_ti = torch.cat((steps_1ti[0, :1], steps_1ti[0, :-1]))
        return older_ti.index_copy_(0, self.firsts, before_bi).unsqueeze(0)

    def commit(self) -> None:
        """Keeps the filter's steps that later steps may begin behind."""
        for steps, new in zip(self.runner.steps, self.new_steps, strict=True):
            if new:
                steps.index_copy_(1, self.kept_places, torch.stack(new))


@dataclass(frozen=True)
class _PagedLayer:
    """One layer of a step, as a block asks for its past."""

    step: _Step
    layer: int

    def steps_before(self, place: int, steps_bsi: Tensor) -> Tensor:
        return self.step.steps_before(self.layer, place, steps_bsi)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, segments_bk: Tensor | None) -> Tensor:
        del segments_bk  # the step knows
        return self.step.attend(self.layer, queries, keys, values)
