"""A checkpoint of any layout, opened: checked against the description, its parameters read block by block.

A layout's module says which tensors its files must have (`Held`); what is missing, unknown, misshapen or different
between copies is found here, for all layouts alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from yuan_checkpoint.description import Area, Network, Piece, StoredTensor, matrix_of
from yuan_checkpoint.entries import CheckpointError, Entry, OpenFiles
from yuan_model import YuanConfig

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Number formats of weights."""

_SHOWN_NAMES = 3


class Source(Protocol):
    """Where parameters come from: an opened checkpoint, tensors in memory, or either with additions merged in."""

    @property
    def network(self) -> Network:
        """What parameters there are."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Returns the number format of a parameter."""
        ...

    def read(self, name: str, area: Area, out: Tensor) -> None:
        """Reads a block of a parameter into a tensor of its size and number format."""
        ...

    def check_unchanged(self) -> None:
        """Checks that what is read is still what was opened."""
        ...


@dataclass(frozen=True)
class Held:
    """A tensor that a checkpoint has, or must have.

    Attributes:
        file: where it is to be.
        stored: its name there and what it is of the network.
        entry: where it is; None: missing.
        scale: of int8, one factor a row [rows, 1]; None: stored as it is.
    """

    file: Path
    stored: StoredTensor
    entry: Entry | None
    scale: Entry | None = None


@dataclass(frozen=True)
class Origin:
    """What a checkpoint says of itself.

    Attributes:
        layout: `native`, `megatron`, `huggingface` or `deepspeed`.
        tensor: tensor ranks.
        stages: layers per pipeline stage.
        step: training steps or the original's iteration; None: not said.
        values: `config.json`, or the original's arguments.
    """

    layout: str
    tensor: int = 1
    stages: tuple[int, ...] = ()
    step: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Checkpoint:
    """An opened checkpoint.

    Attributes:
        path: as it was named.
        origin: its layout and topology.
        network: its parameters.
        files: all that belong to it, also those without tensors.
        held: its tensors, in the order of the network.
        unknown: names of tensors that are no part of the network, each behind its file's.

    Raises:
        CheckpointError: naming the file or tensor that is missing, of another shape, or (`strict`) unknown.
    """

    def __init__(
        self,
        path: Path,
        origin: Origin,
        network: Network,
        held: Sequence[Held],
        *,
        files: Sequence[Path],
        unknown: Sequence[str] = (),
        strict: bool = True,
    ) -> None:
        self.path = path
        self.origin = origin
        self.network = network
        self.files = list(files)
        self.held = list(held)
        self.unknown = list(unknown)
        self._check_held()
        if unknown and strict:
            raise CheckpointError(f"{unknown[0].replace(': ', ': unknown tensor ', 1)}{_and_more(unknown)}")
        self._open = OpenFiles()
        for file in files:
            self._open.add(file)
        self._places: dict[str, list[tuple[Piece, Held]]] = {}
        self.copies: list[tuple[Held, Held]] = []
        for one in self.held:
            self._place(one)

    @property
    def config(self) -> YuanConfig:
        """Of the network."""
        return self.network.config

    @property
    def native(self) -> bool:
        """Whether its layout is the native one, in numbers that can be computed with."""
        return self.origin.layout == "native" and all(one.scale is None for one in self.held)

    @property
    def names(self) -> list[str]:
        """Native names of all parameters, in the order of the network."""
        return list(self.network.shapes)

    @property
    def identity(self) -> list[tuple[str, int, int, int]]:
        """Path, size, inode and time of change of every file, as they were opened."""
        return self._open.identity

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size, _, _ in self.identity)

    def dtype(self, name: str) -> torch.dtype:
        """Returns the number format of a parameter; of int8 weights, that of their scale."""
        found = {_dtype_of(held) for _, held in self._places[name]}
        return max(found, key=lambda dtype: (dtype.itemsize, str(dtype)))

    def read(self, name: str, area: Area, out: Tensor) -> None:
        """Reads a block of a parameter into a tensor of its size and number format.

        Raises:
            CheckpointError: if a file ends before its tensors do.
        """
        row, rows, column, columns = area
        for piece, held in self._places[name]:
            top, bottom = max(row, piece.row), min(row + rows, piece.row + piece.rows)
            left, right = max(column, piece.column), min(column + columns, piece.column + piece.columns)
            if top < bottom and left < right:
                part = out[top - row : bottom - row, left - column : right - column]
                here = Area(top - piece.row + piece.at, bottom - top, left - piece.column, right - left)
                self._read(held, here, part)

    def tensor(self, name: str) -> Tensor:
        """Returns a whole parameter, in its number format."""
        return read_parameter(self, name)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all parameters under their native names, one in memory at a time."""
        for name in self.network.shapes:
            yield name, self.tensor(name)

    def read_held(self, held: Held) -> Tensor:
        """Returns a whole tensor as it is stored."""
        if held.entry is None:
            raise ValueError("checked when it was opened")
        return self._open.read(held.entry)

    def differing_copies(self) -> list[str]:
        """Returns one line for each copy (of a replicated tensor, of the tied head) that is not as the first one."""
        lines: list[str] = []
        for first, second in self.copies:
            if not torch.equal(_bits(self.read_held(first)), _bits(self.read_held(second))):
                lines.append(f"{second.file}: tensor {second.stored.key} differs from its copy in {first.file}")
        return lines

    def check_unchanged(self) -> None:
        """Checks that the files are still what was opened.

        Raises:
            CheckpointError: naming the first that is not.
        """
        self._open.check_unchanged()

    def close(self) -> None:
        """Closes its files."""
        self._open.close()

    def _read(self, held: Held, area: Area, out: Tensor) -> None:
        if held.entry is None:
            raise ValueError("checked when it was opened")
        if held.scale is None and held.entry.dtype == out.dtype:
            self._open.read_into(held.entry, area, out)
            return
        values = torch.empty(area.rows, area.columns, dtype=held.entry.dtype)
        self._open.read_into(held.entry, area, values)
        if held.scale is None:
            out.copy_(values)
            return
        scale = torch.empty(area.rows, 1, dtype=held.scale.dtype)
        self._open.read_into(held.scale, Area(area.row, area.rows, 0, 1), scale)
        out.copy_(values.to(scale.dtype) * scale)

    def _place(self, held: Held) -> None:
        for piece in (one for one in held.stored.pieces if one.rows):
            placed = self._places.setdefault(piece.name, [])
            twin = next((other for known, other in placed if _same_block(known, piece)), None)
            if twin is None:
                placed.append((piece, held))
            elif (twin, held) not in self.copies:
                self.copies.append((twin, held))

    def _check_held(self) -> None:
        missing = [one for one in self.held if one.entry is None]
        if missing:
            others = _and_more(missing)
            raise CheckpointError(f"{missing[0].file}: tensor {missing[0].stored.key} is missing{others}")
        for one in self.held:
            entry, wanted = one.entry, one.stored
            if entry is None or not wanted.pieces:
                continue
            if entry.shape != wanted.shape:
                raise CheckpointError(
                    f"{one.file}: tensor {wanted.key} has shape {list(entry.shape)}; the network means "
                    f"{list(wanted.shape)}"
                )
            if entry.dtype not in FLOATS and one.scale is None:
                raise CheckpointError(
                    f"{one.file}: tensor {wanted.key} is stored as {_dtype_name(entry.dtype)}; expected "
                    f"{', '.join(_dtype_name(dtype) for dtype in FLOATS)}"
                )


@dataclass(frozen=True)
class TensorsInMemory:
    """A source of tensors that are at hand.

    Attributes:
        network: whose parameters they are.
        tensors: by native name.
    """

    network: Network
    tensors: Mapping[str, Tensor]

    def dtype(self, name: str) -> torch.dtype:
        """Returns the number format of a parameter."""
        return self.tensors[name].dtype

    def read(self, name: str, area: Area, out: Tensor) -> None:
        """Copies a block of a parameter."""
        tensor = self.tensors[name].detach()
        whole = tensor.reshape(matrix_of(tensor.shape))
        row, rows, column, columns = area
        out.copy_(whole[row : row + rows, column : column + columns])

    def check_unchanged(self) -> None:
        """Does nothing."""


def read_parameter(source: Source, name: str) -> Tensor:
    """Returns a whole parameter of a source, in its number format."""
    shape = source.network.shapes[name]
    rows, columns = matrix_of(shape)
    out = torch.empty(rows, columns, dtype=source.dtype(name))
    source.read(name, Area(0, rows, 0, columns), out)
    return out.reshape(shape)


def _dtype_of(held: Held) -> torch.dtype:
    entry = held.scale or held.entry
    if entry is None:
        raise ValueError("checked when it was opened")
    return entry.dtype


def _same_block(first: Piece, second: Piece) -> bool:
    return (first.row, first.column) == (second.row, second.column)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _and_more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
