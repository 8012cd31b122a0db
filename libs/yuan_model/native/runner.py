"""Steps of a network by the compiled library: fp32, bf16 or int8 weights on a processor, one call a step.

Weights are packed once (bf16 weights stay bf16, int8 has one scale an output); keys, values and the filter's inputs are
kept in the activations' format (fp32, else bf16), sums and the residual stream in fp32. Every number of a sequence is
summed in an order that depends on nothing but its own position, so that the same tokens give the same bits in any
batch, cut in any way, beside or behind anything.
"""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor

from yuan_model.block import Block
from yuan_model.localized_filter import FILTER_NORM_EPS, CausalConvolution
from yuan_model.model import Yuan
from yuan_model.native.building import Chunks, NativeUnavailable, Reduce, Shape, native_library
from yuan_model.paging import BLOCK_TOKENS, Chunk, DocumentStarts, PoolSize


class Format(IntEnum):
    """How weights are held."""

    fp32 = 0
    bf16 = 1
    int8 = 2


class Part(IntEnum):
    """A layer's matrices, as step.cpp numbers them."""

    conv1 = 0
    conv2 = 1
    qk = 2
    v = 3
    o = 4
    up_gate = 5
    down = 6
    head = 7


class _Vector(IntEnum):
    conv1_bias = 0
    conv2_bias = 1
    filter_norm = 2
    input_norm = 3
    mlp_norm = 4
    final_norm = 5
    cosine = 6
    sine = 7


_GROUP = 16
"""Outputs of up_proj, and behind them those of gate_proj, that lie side by side."""


class NativeRunner:
    """A packed network and the pasts of many sequences; see `Runner`."""

    def __init__(
        self,
        model: Yuan,
        size: PoolSize,
        *,
        int8: bool = False,
        threads: int | None = None,
        all_reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Packs the weights; they are read from the model and not kept but for the embedding.

        Args:
            model: on a processor, fp32 or bf16; with `all_reduce` this rank's part of it.
            size: of the pool and of a step.
            int8: hold the matrices in 8 bits.
            threads: None: as torch has.
            all_reduce: sums a tensor over all ranks in place, where the model is divided.

        Raises:
            NativeUnavailable: if there is no library or it cannot compute such a model.
        """
        self._library = native_library()
        self.size = size
        weight = model.embed_tokens.weight
        _check(model)
        first = model.layers[0].self_attn
        config = model.config
        heads = first.qk_proj.weight.shape[0] // (2 * config.head_dim)
        self._format = Format.int8 if int8 else Format.fp32 if weight.dtype == torch.float32 else Format.bf16
        self.dtype = torch.float32 if self._format is Format.fp32 else torch.bfloat16
        self._wide = -(-config.head_dim // _GROUP) * _GROUP
        width = -(-config.max_position_embeddings // BLOCK_TOKENS)
        shape = Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            dim=config.head_dim,
            feed_forward=-(-model.layers[0].mlp.up_proj.weight.shape[0] // _GROUP) * _GROUP,
            vocabulary=config.vocab_size,
            filtering=int(config.localized_filtering),
            format=int(self._format),
            threads=threads or torch.get_num_threads(),
            blocks=size.blocks,
            rows=size.rows,
            slots=size.slots,
            table_width=width,
            tokens=size.step_tokens,
            outputs=size.outputs,
            context=config.max_position_embeddings,
            sharded=int(all_reduce is not None),
            norm_eps=config.rms_norm_eps,
            filter_eps=FILTER_NORM_EPS,
        )
        handle = self._library.yuan_make(ctypes.byref(shape))
        if not handle:
            raise MemoryError(self._failure())
        self._handle = ctypes.c_void_p(handle)
        weakref.finalize(self, self._library.yuan_free, self._handle)
        self._heads, self._feed = heads, shape.feed_forward
        self._pack(model)
        layers, steps = config.num_hidden_layers, config.hidden_size + config.hidden_size // 2
        items = heads * (config.head_dim + self._wide) * BLOCK_TOKENS
        # Not touched, and hence not taken from the machine, before they are used.
        self.pool = torch.zeros(layers, size.blocks, items, dtype=self.dtype)
        self.ring = torch.zeros(layers, size.rows, size.slots, steps, dtype=self.dtype)
        self.ends = torch.zeros(layers, size.blocks, steps, dtype=self.dtype)
        self.tables = torch.zeros(size.rows, width, dtype=torch.int32)
        self._logits = torch.zeros(size.outputs, config.vocab_size)
        self._embedding = weight.detach().contiguous()
        self._starts = DocumentStarts(config, size.rows)
        self._reduce_error: BaseException | None = None
        self._reduce = Reduce(self._reducer(all_reduce))
        self._library.yuan_memory(
            self._handle,
            *(part.data_ptr() for part in (self.pool, self.ring, self.ends, self.tables, self._embedding)),
            int(self._embedding.dtype == torch.bfloat16),
            self._reduce,
        )

    # --- the pool -----------------------------------------------------------------------------------------------

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """Lists blocks as those that hold a sequence's tokens from number `first * BLOCK_TOKENS` on."""
        if first == 0:
            self._starts.forget(row)
        self.tables[row, first : first + len(blocks)] = torch.tensor(blocks, dtype=torch.int32)

    def copy(self, block: int, to_block: int, row: int, to_row: int) -> None:
        """Copies a block and the filter's last steps, for a sequence that goes on from another's tokens."""
        self.pool[:, to_block] = self.pool[:, block]
        self.ends[:, to_block] = self.ends[:, block]
        self.ring[:, to_row] = self.ring[:, row]

    def clear(self, blocks: Sequence[int]) -> None:
        """Empties blocks of a sequence that went wrong."""
        self.pool[:, list(blocks)] = 0
        self.ends[:, list(blocks)] = 0

    # --- a step -------------------------------------------------------------------------------------------------

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Computes new tokens and returns the logits that are wanted, fp32 [outputs, v], until the next step."""
        begins = list(accumulate((chunk.stop - chunk.start for chunk in chunks), initial=0))
        wanted = [
            end - back for chunk, end in zip(chunks, begins[1:], strict=True) for back in range(chunk.outputs, 0, -1)
        ]
        if begins[-1] > self.size.step_tokens or len(wanted) > self.size.outputs:
            raise ValueError(f"a step of {begins[-1]} tokens and {len(wanted)} outputs is larger than {self.size}")
        columns = [
            begins,
            [chunk.start for chunk in chunks],
            [chunk.row for chunk in chunks],
            [chunk.adapter for chunk in chunks],
            [token for chunk in chunks for token in chunk.tokens[chunk.start : chunk.stop]],
            self._starts.of(chunks) or [0] * begins[-1],
            wanted,
        ]
        # One array for all of them: a step of few tokens is shorter than the making of seven.
        numbers = np.array(list(chain.from_iterable(columns)), np.int32)
        arrays = accumulate((4 * len(column) for column in columns[:-1]), initial=numbers.ctypes.data)
        call = Chunks(len(chunks), begins[-1], len(wanted), *arrays, self._logits.data_ptr())
        if self._library.yuan_step(self._handle, ctypes.byref(call)):
            error, self._reduce_error = self._reduce_error, None
            raise error or RuntimeError("the step failed")
        return self._logits[: len(wanted)]

    def _reducer(self, all_reduce: Callable[[Tensor], None] | None) -> Callable[[int, int], int]:
        def reduce(address: int, count: int) -> int:
            if all_reduce is None:
                return 1
            try:
                values = torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32)
                all_reduce(values)
            except BaseException as error:  # noqa: BLE001 - it must not pass through C++
                self._reduce_error = error
                return 1
            return 0

        return reduce

    # --- weights ------------------------------------------------------------------------------------------------

    def add_adapter(self, parts: Sequence[dict[Part, tuple[Tensor, Tensor]]]) -> int:
        """Takes low-rank additions and returns their number, for `Chunk.adapter`.

        Args:
            parts: for each layer, of each matrix a [rank, inputs] and b [outputs, rank], the scale within b; outputs
                and inputs as `arranged` has them.
        """
        number = self._library.yuan_adapter(self._handle)
        for layer, matrices in enumerate(parts):
            for part, factors in matrices.items():
                a, b = (one.detach().float().contiguous() for one in factors)
                self._library.yuan_adapter_part(
                    self._handle, number, layer, int(part), a.data_ptr(), b.data_ptr(), a.shape[0]
                )
        return number

    def remove_adapter(self, number: int) -> None:
        """Gives the memory of an adapter back; its number is not used again."""
        self._library.yuan_adapter_free(self._handle, number)

    def _pack(self, model: Yuan) -> None:
        for number, block in enumerate(model.layers):
            for part, rows in self._matrices(block).items():
                self._matrix(number, part, rows)
            attention = block.self_attn
            self._vector(number, _Vector.input_norm, block.input_layernorm.weight)
            self._vector(number, _Vector.mlp_norm, block.post_attention_layernorm.weight)
            if attention.lf_gate is not None:
                self._vector(number, _Vector.conv1_bias, attention.lf_gate.conv1.bias)
                self._vector(number, _Vector.conv2_bias, attention.lf_gate.conv2.bias)
                self._vector(number, _Vector.filter_norm, attention.lf_gate.output_layernorm.weight)
        self._matrix(0, Part.head, model.embed_tokens.weight)
        self._vector(0, _Vector.final_norm, model.norm.weight)
        cosine, sine = model.rotary.between(0, model.config.max_position_embeddings, torch.device("cpu"))
        half = model.config.head_dim // 2
        self._vector(0, _Vector.cosine, cosine[:, :half])
        self._vector(0, _Vector.sine, sine[:, :half])

    def _matrices(self, block: Block) -> dict[Part, Tensor]:
        attention, mlp = block.self_attn, block.mlp
        found = {
            Part.qk: attention.qk_proj.weight,
            Part.v: attention.v_proj.weight,
            Part.o: self.widened(attention.o_proj.weight),
            Part.up_gate: self.interleaved(mlp.up_proj.weight, mlp.gate_proj.weight),
            Part.down: self.padded(mlp.down_proj.weight, 1),
        }
        if attention.lf_gate is not None:
            found[Part.conv1] = _older_then_newer(attention.lf_gate.conv1)
            found[Part.conv2] = _older_then_newer(attention.lf_gate.conv2)
        return found

    def widened(self, rows: Tensor) -> Tensor:
        """Returns o_proj's weight (or an adapter's a) for heads of `wide` inputs, which is a multiple of 16."""
        heads = rows.view(rows.shape[0], self._heads, -1)
        return torch.nn.functional.pad(heads, (0, self._wide - heads.shape[2])).flatten(1)

    def padded(self, rows: Tensor, dim: int) -> Tensor:
        """Returns a weight whose feed-forward dimension is padded with zeros to a multiple of 16."""
        missing = self._feed - rows.shape[dim]
        return torch.nn.functional.pad(rows, (0, missing) if dim else (0, 0, 0, missing))

    def interleaved(self, up: Tensor, gate: Tensor) -> Tensor:
        """Returns the rows of up_proj and gate_proj in groups of 16."""
        groups = [self.padded(part, 0).view(-1, _GROUP, part.shape[1]) for part in (up, gate)]
        return torch.stack(groups, 1).flatten(0, 2)

    def _matrix(self, layer: int, part: Part, rows: Tensor) -> None:
        exact = rows.detach().float().contiguous()
        if self._library.yuan_matrix(self._handle, layer, int(part), exact.data_ptr(), *exact.shape):
            raise MemoryError(self._failure())

    def _vector(self, layer: int, which: _Vector, values: Tensor) -> None:
        exact = values.detach().float().contiguous()
        self._library.yuan_vector(self._handle, layer, int(which), exact.data_ptr(), exact.numel())

    def _failure(self) -> str:
        return self._library.yuan_failure().decode()


def _older_then_newer(convolution: CausalConvolution) -> Tensor:
    weight = convolution.weight
    return torch.cat((weight[:, :, 0, 0], weight[:, :, 1, 0]), dim=1)


def _check(model: Yuan) -> None:
    weight = model.embed_tokens.weight
    if weight.device.type != "cpu":
        raise NativeUnavailable(f"the model is on {weight.device}")
    if weight.dtype not in {torch.float32, torch.bfloat16}:
        raise NativeUnavailable(f"weights are {weight.dtype}")
    if model.config.head_dim > 1024:
        raise NativeUnavailable(f"heads have {model.config.head_dim} dimensions, more than 1024")
