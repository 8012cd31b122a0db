"""What a checkpoint is, from its headers, and on request from its values; and in what two of them differ."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yuan_checkpoint.checkpoint import Checkpoint, Held
from yuan_checkpoint.description import Area, matrix_of
from yuan_checkpoint.entries import Entry, OpenFiles
from yuan_checkpoint.safetensors_files import DTYPE_NAMES
from yuan_checkpoint.training_state import file_record

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Statistics:
    """Of a tensor's values; smallest, largest, mean and deviation are those of the finite ones."""

    smallest: float
    largest: float
    mean: float
    deviation: float
    zeros: int
    nans: int
    infinities: int


@dataclass(frozen=True)
class TensorFacts:
    """A tensor as a file has it.

    Attributes:
        name: there.
        shape: its dimensions.
        dtype: as safetensors writes it, `F32` or `BF16`.
        file: below the folder.
        parameters: native names of what it is of the network.
        statistics: if they were asked for.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str
    parameters: tuple[str, ...] = ()
    statistics: Statistics | None = None


@dataclass(frozen=True)
class FileFacts:
    """A file. sha256: where it is known."""

    name: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is.

    Attributes:
        path: its folder.
        layout: `native`, `megatron`, `huggingface` or `deepspeed`.
        tensor: tensor ranks.
        stages: layers per pipeline stage.
        step: or iteration, where it says one.
        dtypes: number formats of the tensors, with how many values each.
        parameters: numbers of the network by part; the tied embedding counts once.
        size_bytes: of all files.
        config: of the network.
        files: all that belong to it.
        tensors: in the order of the network; those that are no part of it last.
        unknown: names of the latter.
        differing: lines on copies that are not like their first, where values were read.
    """

    path: str
    layout: str
    tensor: int
    stages: tuple[int, ...]
    step: int | None
    dtypes: Mapping[str, int]
    parameters: Mapping[str, int]
    size_bytes: int
    config: Mapping[str, Any]
    files: Sequence[FileFacts]
    tensors: Sequence[TensorFacts]
    unknown: Sequence[str] = field(default_factory=tuple[str, ...])
    differing: Sequence[str] = field(default_factory=tuple[str, ...])

    @property
    def parameter_count(self) -> int:
        """All of the network's numbers."""
        return sum(self.parameters.values())


def inspect(
    checkpoint: Checkpoint,
    *,
    values: bool,
    hashes: Mapping[str, str] | None = None,
    hash_files: bool = False,
) -> Inspection:
    """Describes a checkpoint.

    Args:
        checkpoint: opened.
        values: read all tensors for statistics and to compare copies; else headers alone are read.
        hashes: sha256 of files by name below the folder, where they are known.
        hash_files: read all files for their sha256.
    """
    known = hashes or {}
    files = [
        FileFacts(_below(checkpoint.path, Path(name)), size, known.get(_below(checkpoint.path, Path(name))))
        for name, size, _, _ in checkpoint.identity
    ]
    if hash_files:
        files = [
            one if one.sha256 else FileFacts(one.name, one.size_bytes, file_record(checkpoint.path / one.name).sha256)
            for one in files
        ]
    opened = OpenFiles()
    tensors = [_facts(checkpoint, held, opened, values=values) for held in checkpoint.held]
    opened.close()
    dtypes: dict[str, int] = {}
    for one in tensors:
        dtypes[one.dtype] = dtypes.get(one.dtype, 0) + math.prod(one.shape)
    origin = checkpoint.origin
    return Inspection(
        path=str(checkpoint.path),
        layout=origin.layout,
        tensor=origin.tensor,
        stages=origin.stages,
        step=origin.step,
        dtypes=dtypes,
        parameters=parameters_by_part(checkpoint),
        size_bytes=checkpoint.size_bytes,
        config=checkpoint.config.to_dict(),
        files=sorted(files, key=lambda one: one.name),
        tensors=tensors,
        unknown=checkpoint.unknown,
        differing=checkpoint.differing_copies() if values else (),
    )


def parameters_by_part(checkpoint: Checkpoint) -> dict[str, int]:
    """Returns how many numbers each part of a network has."""
    parts: dict[str, int] = {}
    for part in ("embedding", "attention", "localized_filter", "feed_forward", "norms"):
        parts[part] = 0
    for name, shape in checkpoint.network.shapes.items():
        parts[_part(name)] += shape.numel()
    return parts


def _part(name: str) -> str:
    if "embed_tokens" in name:
        return "embedding"
    if ".lf_gate." in name:
        return "localized_filter"
    if ".self_attn." in name:
        return "attention"
    return "feed_forward" if ".mlp." in name else "norms"


def _facts(checkpoint: Checkpoint, held: Held, opened: OpenFiles, *, values: bool) -> TensorFacts:
    entry = held.entry
    if entry is None:
        raise ValueError("checked when it was opened")
    statistics = None
    if values:
        opened.add(entry.file)
        statistics = _statistics(entry, opened)
    names = tuple(dict.fromkeys(piece.name for piece in held.stored.pieces))
    dtype = DTYPE_NAMES[entry.dtype]
    return TensorFacts(entry.key, entry.shape, dtype, _below(checkpoint.path, entry.file), names, statistics)


def _statistics(entry: Entry, opened: OpenFiles) -> Statistics:
    smallest, largest, total, squares = math.inf, -math.inf, 0.0, 0.0
    zeros = nans = infinities = count = 0
    rows, columns = matrix_of(entry.shape)
    step = max(1, _BLOCK_BYTES // max(1, columns * entry.dtype.itemsize))
    for first in range(0, rows, step):
        block = torch.empty(min(step, rows - first), columns, dtype=entry.dtype)
        opened.read_into(entry, Area(first, block.shape[0], 0, columns), block)
        numbers = block.double()
        finite = numbers.isfinite()
        if not bool(finite.all()):
            nans += int(numbers.isnan().sum())
            infinities += int(numbers.isinf().sum())
            numbers = numbers[finite]
        if not numbers.numel():
            continue
        zeros += int((numbers == 0).sum())
        count += numbers.numel()
        smallest, largest = min(smallest, float(numbers.min())), max(largest, float(numbers.max()))
        total += float(numbers.sum())
        squares += float(numbers.square().sum())
    mean = total / count if count else math.nan
    deviation = math.sqrt(max(0.0, squares / count - mean * mean)) if count else math.nan
    return Statistics(smallest, largest, mean, deviation, zeros, nans, infinities)


def _below(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


# --- differences -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How a parameter of two checkpoints compares, whatever layouts they have.

    Attributes:
        name: native.
        same: every value is the same, and so are shape and number format.
        remark: what is otherwise besides values: a shape, a number format, or that one side has no such.
        largest: of the differences, over the rows that both have.
        relative: root of the mean squared difference, over that of the first side's values.
        values: how many differ.
    """

    name: str
    same: bool
    remark: str = ""
    largest: float = 0.0
    relative: float = 0.0
    values: int = 0


def differences(first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    """Yields one for every parameter of either, in the order of the network."""
    names = [*first.network.shapes, *(name for name in second.network.shapes if name not in first.network.shapes)]
    for name in names:
        sides = [one.network.shapes.get(name) for one in (first, second)]
        ours, theirs = sides
        if ours is None or theirs is None:
            yield Difference(name, same=False, remark="only in the " + ("second" if ours is None else "first"))
        elif ours[1:] != theirs[1:]:
            yield Difference(name, same=False, remark=f"shape {list(ours)} and {list(theirs)}")
        else:
            yield _difference(name, first, second)


def _difference(name: str, first: Checkpoint, second: Checkpoint) -> Difference:
    ours, theirs = (one.network.shapes[name] for one in (first, second))
    rows, columns = min(ours[0], theirs[0]), matrix_of(ours)[1]
    dtypes = first.dtype(name), second.dtype(name)
    remarks = [
        *([f"shape {list(ours)} and {list(theirs)}"] if ours != theirs else []),
        *([" and ".join(str(one).removeprefix("torch.") for one in dtypes)] if dtypes[0] != dtypes[1] else []),
    ]
    largest = squares = whole = 0.0
    count = 0
    step = max(1, _BLOCK_BYTES // max(1, columns * 4))
    for row in range(0, rows, step):
        a, b = (_block(one, name, row, min(step, rows - row), columns) for one in (first, second))
        if dtypes[0] == dtypes[1] and torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
            whole += float(a.double().square().sum())
            continue
        x, y = a.double(), b.double()
        apart = (x - y).abs()
        apart[(x == y) | (x.isnan() & y.isnan())] = 0.0
        count += int((apart != 0).sum())
        largest = max(largest, float(apart.nan_to_num(nan=math.inf).max()))
        squares += float(apart.square().sum())
        whole += float(x.square().sum())
    relative = math.sqrt(squares / whole) if whole else math.sqrt(squares)
    return Difference(name, not count and not remarks, ", ".join(remarks), largest, relative, count)


def _block(checkpoint: Checkpoint, name: str, row: int, rows: int, columns: int) -> Tensor:
    out = torch.empty(rows, columns, dtype=checkpoint.dtype(name))
    checkpoint.read(name, Area(row, rows, 0, columns), out)
    return out
