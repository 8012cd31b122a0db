"""Steps of a network by the compiled library: fp32, bf16 or int8 weights on a processor, one call a step.

Weights are packed once (bf16 weights stay bf16, int8 has one scale an output); keys, values and the filter's inputs are
kept in the activations' format (fp32, else bf16), sums and the residual stream in fp32. Every number of a sequence is
summed in an order that depends on nothing but its own position, so that the same tokens give the same bits in any
batch, cut in any way, beside or behind anything.
"""

import ctypes
import math
import mmap
import weakref
from array import array
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor

from yuan_model.localized_filter import FILTER_NORM_EPS
from yuan_model.model import Yuan
from yuan_model.native.building import Chunks, NativeUnavailable, Reduce, Shape, give_back_memory, native_library
from yuan_model.paging import BLOCK_TOKENS, Chunk, DocumentStarts, Factors, PoolSize
from yuan_model.rotary import RotaryTable
from yuan_model.weights import EMBEDDING, NetworkWeights, Weights


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


_PLAIN = {"self_attn.qk_proj": Part.qk, "self_attn.v_proj": Part.v}
"""Matrices that are packed as they are, by their names within a layer."""

_GROUP = 16
"""Outputs of up_proj, and behind them those of gate_proj, that lie side by side."""


class NativeRunner:
    """A packed network and the pasts of many sequences; see `Runner`."""

    def __init__(
        self,
        model: Yuan | Weights,
        size: PoolSize,
        *,
        int8: bool = False,
        threads: int | None = None,
        drawable: int = 0,
        all_reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Packs the weights layer by layer; none is kept as it was read but for the embedding.

        Args:
            model: on a processor, fp32 or bf16, or where to read it; with `all_reduce` a rank's part of one.
            size: of the pool and of a step.
            int8: hold the matrices in 8 bits.
            threads: None: as torch has.
            drawable: ids below this one may be drawn: `likeliest` tells of them.
            all_reduce: sums a tensor over all ranks in place, where the model is divided; called in a thread of the
                compiled step's.

        Raises:
            NativeUnavailable: if there is no library or it cannot compute such a model.
        """
        self._library = native_library()
        self.size = size
        weights = NetworkWeights(model) if isinstance(model, Yuan) else model
        _check(weights, size)
        config, ranks = weights.config, weights.division.size
        heads = config.num_attention_heads // ranks
        own = weights.division.rows(config.vocab_size)
        self._format = Format.int8 if int8 else Format.fp32 if weights.dtype == torch.float32 else Format.bf16
        self.dtype = torch.float32 if self._format is Format.fp32 else torch.bfloat16
        self._wide = -(-config.head_dim // _GROUP) * _GROUP
        width = -(-config.max_position_embeddings // BLOCK_TOKENS)
        shape = Shape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            dim=config.head_dim,
            feed_forward=-(-config.intermediate_size // ranks // _GROUP) * _GROUP,
            vocabulary=own[1] - own[0],
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
        self._pack(weights)
        layers, steps = config.num_hidden_layers, config.hidden_size + config.hidden_size // 2
        items = heads * (config.head_dim + self._wide) * BLOCK_TOKENS
        # Not touched, and hence not taken from the machine, before they are used.
        self.pool = _untouched((layers, size.blocks, items), self.dtype)
        self.ring = _untouched((layers, size.rows, size.slots, steps), self.dtype)
        self.ends = _untouched((layers, size.blocks, steps), self.dtype)
        self.tables = torch.zeros(size.rows, width, dtype=torch.int32)
        self._logits = torch.zeros(size.outputs, own[1] - own[0])
        self._outputs = 0  # of the last step
        self._views: dict[int, Tensor] = {}  # of so many logits: torch makes one in the time of several tokens
        self._likeliest = np.zeros(size.outputs, np.int32)
        self._call = Chunks(
            drawable=min(drawable, own[1] - own[0]),
            logits=self._logits.data_ptr(),
            likeliest=self._likeliest.ctypes.data,
        )
        self._embedding = weights.embedding().contiguous()
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
        """Lists blocks as those that hold a sequence's tokens from number `first * size.block_tokens` on."""
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
        tokens, starts, stops, rows, outputs, adapters = zip(*chunks, strict=True)
        if len(chunks) == sum(stops) - sum(starts) == sum(outputs):  # of each one token, which is most steps
            begins = wanted = range(len(chunks))
            ids = [of[start] for of, start in zip(tokens, starts, strict=True)]
        else:
            ends = list(accumulate(stop - start for start, stop in zip(starts, stops, strict=True)))
            begins = [0, *ends[:-1]]
            wanted = [end - back for end, some in zip(ends, outputs, strict=True) for back in range(some, 0, -1)]
            ids = [id_ for of, start, stop in zip(tokens, starts, stops, strict=True) for id_ in of[start:stop]]
        if len(ids) > self.size.step_tokens or len(wanted) > self.size.outputs:
            raise ValueError(f"a step of {len(ids)} tokens and {len(wanted)} outputs is larger than {self.size}")
        first_seen = self._starts.of(chunks) or bytes(len(ids))
        # One array for all of them: a step of few tokens is shorter than the making of seven.
        columns = (begins, (len(ids),), starts, rows, adapters, ids, first_seen, wanted)
        numbers = array("i", chain.from_iterable(columns))
        call, count, total = self._call, len(chunks), len(ids)
        call.chunks, call.tokens, call.outputs = count, total, len(wanted)
        begin, _ = numbers.buffer_info()
        call.begins = begin
        call.positions = begin = begin + 4 * (count + 1)
        call.rows = begin = begin + 4 * count
        call.adapters = begin = begin + 4 * count
        call.ids = begin = begin + 4 * count
        call.first_seen = begin = begin + 4 * total
        call.wanted = begin + 4 * total
        if self._library.yuan_step(self._handle, ctypes.byref(call)):
            error, self._reduce_error = self._reduce_error, None
            raise error or RuntimeError("the step failed")
        count = self._outputs = len(wanted)
        if count not in self._views:
            self._views[count] = self._logits[:count]
        return self._views[count]

    def likeliest(self) -> list[int]:
        """Returns the likeliest of `drawable` tokens by each of the last step's logits; -1: they are no numbers."""
        return self._likeliest[: self._outputs].tolist()

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

    def add_adapter(self, layers: Sequence[Factors]) -> int:
        """Takes low-rank additions and returns their number, for `Chunk.adapter`.

        Args:
            layers: of each layer (this rank's part of) the factors of its matrices.
        """
        number = self._library.yuan_adapter(self._handle)
        for layer, factors in enumerate(layers):
            for part, (a, b) in self._arranged(factors).items():
                exact_a, exact_b = (one.detach().float().contiguous() for one in (a, b))
                self._library.yuan_adapter_part(
                    self._handle, number, layer, int(part), exact_a.data_ptr(), exact_b.data_ptr(), len(exact_a)
                )
        return number

    def remove_adapter(self, number: int) -> None:
        """Gives the memory of an adapter back; its number is not used again."""
        self._library.yuan_adapter_free(self._handle, number)

    def _pack(self, weights: Weights) -> None:
        config = weights.config
        for number in range(config.num_hidden_layers):
            self._pack_layer(number, partial(_of_layer, weights, number), filtering=config.localized_filtering)
            give_back_memory()
        first, last = weights.division.rows(config.vocab_size)
        self._matrix(0, Part.head, weights.tensor(EMBEDDING)[first:last])
        self._vector(0, _Vector.final_norm, weights.tensor("model.norm.weight"))
        cosine, sine = RotaryTable(config).between(0, config.max_position_embeddings, torch.device("cpu"))
        half = config.head_dim // 2
        self._vector(0, _Vector.cosine, cosine[:, :half])
        self._vector(0, _Vector.sine, sine[:, :half])
        give_back_memory()

    def _pack_layer(self, number: int, tensor: Callable[[str], Tensor], *, filtering: bool) -> None:
        self._vector(number, _Vector.input_norm, tensor("input_layernorm.weight"))
        self._vector(number, _Vector.mlp_norm, tensor("post_attention_layernorm.weight"))
        if filtering:
            gate = "self_attn.lf_gate"
            self._matrix(number, Part.conv1, _older_then_newer(tensor(f"{gate}.conv1.weight")))
            self._matrix(number, Part.conv2, _older_then_newer(tensor(f"{gate}.conv2.weight")))
            self._vector(number, _Vector.conv1_bias, tensor(f"{gate}.conv1.bias"))
            self._vector(number, _Vector.conv2_bias, tensor(f"{gate}.conv2.bias"))
            self._vector(number, _Vector.filter_norm, tensor(f"{gate}.output_layernorm.weight"))
        self._matrix(number, Part.qk, tensor("self_attn.qk_proj.weight"))
        self._matrix(number, Part.v, tensor("self_attn.v_proj.weight"))
        self._matrix(number, Part.o, self._widened(tensor("self_attn.o_proj.weight")))
        up, gate_rows = tensor("mlp.up_proj.weight"), tensor("mlp.gate_proj.weight")
        self._matrix(number, Part.up_gate, self._interleaved(up, gate_rows))
        self._matrix(number, Part.down, self._padded(tensor("mlp.down_proj.weight"), 1))

    def _widened(self, rows: Tensor) -> Tensor:
        """Returns o_proj's weight (or an adapter's a) for heads of `wide` inputs, which is a multiple of 16."""
        heads = rows.view(rows.shape[0], self._heads, -1)
        return torch.nn.functional.pad(heads, (0, self._wide - heads.shape[2])).flatten(1)

    def _padded(self, rows: Tensor, dim: int) -> Tensor:
        """Returns a weight whose feed-forward dimension is padded with zeros to a multiple of 16."""
        missing = self._feed - rows.shape[dim]
        return torch.nn.functional.pad(rows, (0, missing) if dim else (0, 0, 0, missing))

    def _interleaved(self, up: Tensor, gate: Tensor) -> Tensor:
        """Returns the rows of up_proj and gate_proj in groups of 16."""
        groups = [self._padded(part, 0).view(-1, _GROUP, part.shape[1]) for part in (up, gate)]
        return torch.stack(groups, 1).flatten(0, 2)

    def _arranged(self, factors: Factors) -> dict[Part, tuple[Tensor, Tensor]]:
        """Arranges a layer's factors as the packed matrices are."""
        parts = {part: factors[name] for name, part in _PLAIN.items() if name in factors}
        if "self_attn.o_proj" in factors:
            a, b = factors["self_attn.o_proj"]
            parts[Part.o] = (self._widened(a), b)
        if "mlp.down_proj" in factors:
            a, b = factors["mlp.down_proj"]
            parts[Part.down] = (self._padded(a, 1), b)
        halves = [factors.get("mlp.up_proj"), factors.get("mlp.gate_proj")]
        there = [half for half in halves if half is not None]
        if there:
            # One matrix makes both: its low-rank inputs lie side by side, and each half's outputs look at its own.
            nothing = (there[0][0][:0], there[0][1][:, :0])
            (up_a, up_b), (gate_a, gate_b) = (half or nothing for half in halves)
            up = torch.cat((up_b, torch.zeros(len(up_b), len(gate_a))), dim=1)
            gate = torch.cat((torch.zeros(len(gate_b), len(up_a)), gate_b), dim=1)
            parts[Part.up_gate] = (torch.cat((up_a, gate_a)), self._interleaved(up, gate))
        return parts

    def _matrix(self, layer: int, part: Part, rows: Tensor) -> None:
        exact = rows.detach().float().contiguous()
        if self._library.yuan_matrix(self._handle, layer, int(part), exact.data_ptr(), *exact.shape):
            raise MemoryError(self._failure())

    def _vector(self, layer: int, which: _Vector, values: Tensor) -> None:
        exact = values.detach().float().contiguous()
        self._library.yuan_vector(self._handle, layer, int(which), exact.data_ptr(), exact.numel())

    def _failure(self) -> str:
        return self._library.yuan_failure().decode()


def _untouched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns zeros that the system gives where they are first touched; `torch.zeros` writes all of them."""
    count = math.prod(shape)
    return torch.frombuffer(
        mmap.mmap(-1, max(1, count) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=dtype
    )[:count].view(shape)


def _of_layer(weights: Weights, layer: int, name: str) -> Tensor:
    return weights.tensor(f"model.layers.{layer}.{name}")


def _older_then_newer(kernel: Tensor) -> Tensor:
    return torch.cat((kernel[:, :, 0, 0], kernel[:, :, 1, 0]), dim=1)


def _check(weights: Weights, size: PoolSize) -> None:
    if size.block_tokens != BLOCK_TOKENS:
        raise NativeUnavailable(f"blocks have {size.block_tokens} tokens, not {BLOCK_TOKENS}")
    if weights.device.type != "cpu":
        raise NativeUnavailable(f"the model is on {weights.device}")
    if weights.dtype not in {torch.float32, torch.bfloat16}:
        raise NativeUnavailable(f"weights are {weights.dtype}")
    if weights.config.head_dim > 1024:
        raise NativeUnavailable(f"heads have {weights.config.head_dim} dimensions, more than 1024")
