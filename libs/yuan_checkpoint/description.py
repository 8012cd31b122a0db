"""The one description of a network's tensors: what they are called, and how they are divided, in every layout.

A layout is a mapping of stored tensors to blocks of the network's parameters (`Piece`). Reading, writing and checking
follow from those alone: a stored tensor is filled, or read, block by block, whatever the layouts on both sides are. All
tensors are looked at as matrices [first dimension, all others], which is how each of them lies in a file.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch

from yuan_model import YuanConfig, parameter_shapes

LAYER_PREFIX = "model.layers."


class Split(Enum):
    """How a matrix is divided over tensor ranks.

    WHOLE: not at all, every rank has it. ROWS, COLUMNS: in equal runs of them. ROWS_OF_HALVES: in equal runs of the
    rows of its upper half, and the same of its lower half below (a rank's own SwiGLU cuts its matrix in two).
    """

    WHOLE = "whole"
    ROWS = "rows"
    COLUMNS = "columns"
    ROWS_OF_HALVES = "rows of halves"


@dataclass(frozen=True)
class Matrix:
    """What a layout may fuse, divide over ranks or cut.

    Attributes:
        native: the network's parameters that it is, one below the other; of a layer, without `model.layers.N.`.
        megatron: its name in the original's layout; of a layer, without `layers.N.`.
        split: how tensor ranks share it there.
        huggingface: its equal parts from top to bottom as the published files call them.
    """

    native: tuple[str, ...]
    megatron: str
    split: Split
    huggingface: tuple[str, ...]


def _plain(name: str, megatron: str, split: Split) -> Matrix:
    return Matrix((name,), megatron, split, (name,))


_GATE = "self_attn.lf_gate."

LAYER_MATRICES = (
    _plain("input_layernorm.weight", "input_layernorm.weight", Split.WHOLE),
    _plain("self_attn.v_proj.weight", "self_attention.get_value.weight", Split.ROWS),
    # Rows are grouped by head (its query, its key), so equal runs of them are whole heads. The published files cut it
    # in the middle: each part holds queries and keys of half of the heads (YUAN_FACTS A2).
    Matrix(
        ("self_attn.qk_proj.weight",),
        "self_attention.get_query_key.weight",
        Split.ROWS,
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight"),
    ),
    _plain("self_attn.o_proj.weight", "self_attention.dense.weight", Split.COLUMNS),
    _plain("post_attention_layernorm.weight", "post_attention_layernorm.weight", Split.WHOLE),
    Matrix(
        ("mlp.up_proj.weight", "mlp.gate_proj.weight"),
        "mlp.dense_h_to_4h.weight",
        Split.ROWS_OF_HALVES,
        ("mlp.up_proj.weight", "mlp.gate_proj.weight"),
    ),
    _plain("mlp.down_proj.weight", "mlp.dense_4h_to_h.weight", Split.COLUMNS),
    *(
        _plain(f"{_GATE}{name}", f"self_attention.lf_gate.{name}", Split.WHOLE)
        for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "output_layernorm.weight")
    ),
)
"""Of every layer."""

EMBEDDING = _plain("model.embed_tokens.weight", "embedding.word_embeddings.weight", Split.ROWS)
FINAL_NORM = _plain("model.norm.weight", "final_layernorm.weight", Split.WHOLE)


class Area(NamedTuple):
    """A block of a matrix: where it begins, and its size."""

    row: int
    rows: int
    column: int
    columns: int


class TensorRank(NamedTuple):
    """One of the ranks that share matrices. number: from 0. of: how many there are."""

    number: int
    of: int


@dataclass(frozen=True)
class Piece:
    """A block of a parameter, and where it is in a stored tensor.

    Attributes:
        name: the parameter's native name.
        row, column: where the block begins in the parameter.
        rows, columns: its size.
        at: the row of the stored tensor at which it begins; it always begins at column 0.
    """

    name: str
    row: int
    column: int
    rows: int
    columns: int
    at: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        key: its name there.
        shape: its dimensions.
        pieces: the blocks that it is; rows that none covers are zero.
        constant: its values, where it is no part of the network; else empty.
    """

    key: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()
    constant: tuple[float, ...] = ()

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns."""
        return matrix_of(self.shape)


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """Returns rows and columns of a tensor looked at as a matrix."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


class Network:
    """The parameters of one network, and the blocks of them that layouts store.

    Attributes:
        config: its sizes.
        shapes: of every parameter by native name, in the order of the network.
    """

    def __init__(self, config: YuanConfig) -> None:
        self.config = config
        self.shapes: Mapping[str, torch.Size] = parameter_shapes(config)

    @property
    def layer_matrices(self) -> list[Matrix]:
        """The matrices of a layer."""
        return [one for one in LAYER_MATRICES if self.config.localized_filtering or _GATE not in one.native[0]]

    def share(self, matrix: Matrix, prefix: str, key: str, rank: TensorRank, *, rows: int = 0) -> StoredTensor:
        """Returns what a tensor rank has of a matrix.

        Args:
            matrix: which.
            prefix: of its native names, `model.layers.3.`; empty for embedding and final norm.
            key: its name in the file.
            rank: whose.
            rows: of the whole matrix where it is padded at its end; 0: as many as the network has.
        """
        number, ranks = rank
        whole_rows, columns = self._size(matrix, prefix)
        rows = rows or whole_rows
        share = rows // ranks
        blocks = [(0, 0, rows, columns)]
        if matrix.split == Split.ROWS:
            blocks = [(number * share, 0, share, columns)]
        elif matrix.split == Split.COLUMNS:
            width = columns // ranks
            blocks = [(0, number * width, rows, width)]
        elif matrix.split == Split.ROWS_OF_HALVES:
            half = share // 2
            blocks = [(start + number * half, 0, half, columns) for start in (0, rows // 2)]
        return self._stored(matrix, prefix, key, blocks)

    def parts(self, matrix: Matrix, prefix: str, keys: Sequence[str]) -> list[StoredTensor]:
        """Returns equal parts of a matrix from top to bottom, one for each key."""
        rows, columns = self._size(matrix, prefix)
        part = rows // len(keys)
        return [
            self._stored(matrix, prefix, key, [(number * part, 0, part, columns)]) for number, key in enumerate(keys)
        ]

    def _size(self, matrix: Matrix, prefix: str) -> tuple[int, int]:
        sizes = [matrix_of(self.shapes[prefix + name]) for name in matrix.native]
        return sum(rows for rows, _ in sizes), sizes[0][1]

    def _stored(
        self, matrix: Matrix, prefix: str, key: str, blocks: Iterable[tuple[int, int, int, int]]
    ) -> StoredTensor:
        """Returns blocks of a matrix (row, column, rows, columns), one below the other."""
        pieces: list[Piece] = []
        at = width = 0
        for row, column, rows, columns in blocks:
            first = 0
            for name in matrix.native:
                held = matrix_of(self.shapes[prefix + name])[0]
                begin, end = max(row, first), min(row + rows, first + held)
                if begin < end:
                    piece = Piece(prefix + name, begin - first, column, end - begin, columns, at + begin - row)
                    pieces.append(piece)
                first += held
            at, width = at + rows, columns
        if not pieces:  # a rank that has padding alone still says of what
            pieces.append(Piece(prefix + matrix.native[-1], 0, 0, 0, width, 0))
        trailing = self.shapes[prefix + matrix.native[0]][1:]
        shape = (at, *((width,) if len(trailing) == 1 else trailing))
        return StoredTensor(key, shape, tuple(pieces))


def layer_prefix(layer: int) -> str:
    """Returns what the native names of a layer begin with."""
    return f"{LAYER_PREFIX}{layer}."


def places_of_layers(stages: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yields layer, pipeline stage and number within the stage, in the order of the network."""
    layer = 0
    for stage, count in enumerate(stages):
        for local in range(count):
            yield layer, stage, local
            layer += 1
