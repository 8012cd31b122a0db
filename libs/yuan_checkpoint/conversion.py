"""Writes a checkpoint from a source, file by file and block by block: memory is that of a few blocks.

Files are written side by side under temporary names; one that has its own name is whole. A folder that was begun is
gone on with, where `identity` says that it is the same conversion. What makes the folder a checkpoint (config, tracker)
comes last, once every value was seen to be finite and no file of the source has changed.
"""

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from yuan_checkpoint.checkpoint import Source, read_parameter
from yuan_checkpoint.description import Area, Network, Piece, StoredTensor, matrix_of
from yuan_checkpoint.entries import CheckpointError, memory_of
from yuan_checkpoint.files import TEMPORARY_SUFFIX, commit, write_text
from yuan_checkpoint.native import is_quantized
from yuan_checkpoint.safetensors_files import header_bytes
from yuan_checkpoint.targets import FileKind, TargetFile, TargetLayout, file_size, packed_order, tensor_bytes
from yuan_checkpoint.torch_files import torch_pickle, write_torch_zip
from yuan_model.folder import SCALE_SUFFIX

BLOCK_BYTES = 8 << 20
"""Of a target tensor, read, changed and written at once."""

_WRITE_BYTES = 1 << 17
"""Handed to the system at once, as `cp` does: ext4 takes many times as long for pieces of some MiB."""

MOST_WORKERS = 4
_IDENTITY_FILE = ".conversion"
_ERRORS_FOLDER = ".errors"
"""Both are hidden, no part of the checkpoint, and only there where the conversion has an identity or writes int8."""
_SECONDS_BETWEEN_LOOKS = 0.2
_LARGEST_INT8 = 127.0
_SHOWN_NAMES = 5

Watch = Callable[[int], None]
"""Is told how many bytes of tensors are written, every now and then; what it raises ends the conversion."""


@dataclass(frozen=True)
class QuantizationError:
    """What int8 has cost a tensor.

    Attributes:
        name: native.
        largest: of the differences to the stored values.
        relative: root of the mean squared difference, over that of the values.
    """

    name: str
    largest: float
    relative: float


@dataclass(frozen=True)
class Conversion:
    """What is written from what.

    Attributes:
        source: of the parameters.
        network: that is written; as the source's, perhaps with another vocabulary.
        target: its files.
        dtype: that is written; int8: of layers' matrices; None: each tensor's own.
    """

    source: Source
    network: Network
    target: TargetLayout
    dtype: torch.dtype | None = None

    def dtypes(self, file: TargetFile) -> dict[str, torch.dtype]:
        """Returns the number format of a file's tensors by name."""
        return {one.key: self.dtype_of(one) for one in file.tensors}

    def dtype_of(self, stored: StoredTensor) -> torch.dtype:
        """Returns the number format in which a tensor is written."""
        if stored.constant or stored.key.endswith(SCALE_SUFFIX):
            return torch.float32
        if self.dtype == torch.int8 and is_quantized(stored.pieces[0].name):
            return torch.int8
        if self.dtype is not None and self.dtype != torch.int8:
            return self.dtype
        found = {self.source.dtype(piece.name) for piece in stored.pieces}
        return max(found, key=lambda dtype: (dtype.itemsize, str(dtype)))

    @property
    def tensor_bytes(self) -> int:
        """Of all tensors of all files."""
        return sum(tensor_bytes(file, self.dtypes(file)) for file in self.target.files)

    @property
    def file_bytes(self) -> int:
        """Of all files with tensors."""
        return sum(file_size(file, self.dtypes(file)) for file in self.target.files)

    def bytes_to_write(self, folder: Path) -> int:
        """Returns what is still to be written into a folder that may have been begun."""
        waiting = (file for file in self.target.files if not (folder / file.path).is_file())
        return sum(file_size(file, self.dtypes(file)) for file in waiting)

    def workers(self) -> int:
        """Returns how many files are written side by side."""
        return max(1, min(MOST_WORKERS, os.cpu_count() or 1, len(self.target.files)))

    def peak_bytes(self) -> int:
        """Returns about how much memory the blocks that are held at one time need."""
        widest = max((matrix_of(one.shape)[1] for file in self.target.files for one in file.tensors), default=1)
        block = max(BLOCK_BYTES, widest * 4)
        return self.workers() * block * (3 if self.dtype is None else 6)


@dataclass
class _Run:
    conversion: Conversion
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: int = 0
    not_finite: set[str] = field(default_factory=set[str])
    local: threading.local = field(default_factory=threading.local)

    def memory(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Returns a matrix in this thread's memory, which the next one takes: fresh memory costs as much as reading."""
        size = rows * columns * dtype.itemsize
        held: Tensor | None = getattr(self.local, "held", None)
        if held is None or len(held) < size:
            held = self.local.held = torch.empty(size, dtype=torch.uint8)
        return held[:size].view(dtype).reshape(rows, columns)

    def advance(self, count: int) -> None:
        with self.lock:
            self.done += count


class _StoppedError(Exception):
    """Another file's failure, or a wish from outside, ends this one."""


def write_checkpoint(
    conversion: Conversion,
    folder: Path,
    *,
    identity: str | None = None,
    watch: Watch = lambda _: None,
) -> list[QuantizationError]:
    """Writes a checkpoint.

    Args:
        conversion: what.
        folder: made if it is not there; what it has of the same conversion is kept, of another one removed.
        identity: by which a conversion that was begun is known; None: it begins anew.
        watch: see there.

    Returns:
        What int8 has cost, by tensor in the order of the network; nothing in other formats.

    Raises:
        CheckpointError: if a value is not finite, or fits the number format no more, or the source is cut off or has
            changed meanwhile; the folder is no checkpoint then.
        OSError: if the disk refuses it.
    """
    _begin(folder, identity)
    run = _Run(conversion, folder)
    run.done = sum(
        tensor_bytes(file, conversion.dtypes(file))
        for file in conversion.target.files
        if (folder / file.path).is_file()
    )
    watch(run.done)
    # Threads of torch's own within these would only wait for each other.
    alone = partial(torch.set_num_threads, 1)
    with ThreadPoolExecutor(conversion.workers(), thread_name_prefix="convert", initializer=alone) as pool:
        futures = [pool.submit(_write_file, run, file) for file in conversion.target.files]
        try:
            _follow(futures, run, watch)
        except BaseException:
            run.stop.set()
            for future in futures:
                future.cancel()
            raise
    conversion.source.check_unchanged()
    if run.not_finite:
        raise CheckpointError(_not_finite(conversion.source, run.not_finite))
    return _finish(conversion, folder)


def conversion_identity(conversion: Conversion, source: object) -> str:
    """Returns a digest that two conversions share only if their files are the same.

    Args:
        conversion: what is written.
        source: what identifies its source, plain values.
    """
    files = [
        (file.path, [(one.key, one.shape, one.pieces) for one in file.tensors]) for file in conversion.target.files
    ]
    told = repr((source, conversion.target.layout, str(conversion.dtype), conversion.network.config, files))
    return hashlib.sha256(told.encode()).hexdigest()


# --- the folder --------------------------------------------------------------------------------------------------


def _begin(folder: Path, identity: str | None) -> None:
    mark = folder / _IDENTITY_FILE
    if folder.is_dir():
        same = identity is not None and mark.is_file() and mark.read_text(encoding="ascii") == identity
        if not same and (mark.is_file() or identity is not None):
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.rglob(f"*{TEMPORARY_SUFFIX}"):
        left.unlink()
    if identity is not None:
        write_text(mark, identity)


def _finish(conversion: Conversion, folder: Path) -> list[QuantizationError]:
    dtypes: dict[str, torch.dtype] = {}
    for file in conversion.target.files:
        dtypes |= conversion.dtypes(file)
    for name, text in conversion.target.texts(conversion.tensor_bytes, dtypes):
        write_text(folder / name, text)
    errors: dict[str, QuantizationError] = {}
    for told in sorted((folder / _ERRORS_FOLDER).glob("*.json")):
        for values in json.loads(told.read_text(encoding="utf-8")):
            errors[values["name"]] = QuantizationError(**values)
    return [errors[name] for name in conversion.network.shapes if name in errors]


def _follow(futures: list[Future[None]], run: _Run, watch: Watch) -> None:
    """Waits for all files; raises what the first one that failed raised."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=_SECONDS_BETWEEN_LOOKS, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        watch(run.done)


# --- one file ----------------------------------------------------------------------------------------------------


def _write_file(run: _Run, file: TargetFile) -> None:
    path = run.folder / file.path
    dtypes = run.conversion.dtypes(file)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    order = packed_order(file, dtypes)
    described = [(one.key, dtype, one.shape) for one, dtype in order]
    errors: list[QuantizationError] = []
    try:
        with temporary.open("wb") as out:
            if file.kind == FileKind.safetensors:
                out.write(header_bytes(described))
                for stored, dtype in order:
                    _write_tensor(run, stored, dtype, out.write, errors)
            else:
                _write_torch(run, file, order, out)
        if errors:
            told = run.folder / _ERRORS_FOLDER / f"{path.name}.json"
            told.parent.mkdir(exist_ok=True)
            told.write_text(json.dumps([asdict(one) for one in errors]), encoding="utf-8")
        commit(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_torch(run: _Run, file: TargetFile, order: list[tuple[StoredTensor, torch.dtype]], out: BinaryIO) -> None:
    described = [(one.key, dtype, one.shape) for one, dtype in order]
    sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in described]

    def write(number: int, take: Callable[[memoryview], None]) -> None:
        stored, dtype = order[number]
        _write_tensor(run, stored, dtype, take, [])

    write_torch_zip(out, torch_pickle(file.tree, described), sizes, write)


def _write_tensor(
    run: _Run,
    stored: StoredTensor,
    dtype: torch.dtype,
    write: Callable[[memoryview], Any],
    errors: list[QuantizationError],
) -> None:
    rows, columns = stored.matrix
    step = max(1, BLOCK_BYTES // max(1, columns * dtype.itemsize))
    cost = _Cost()
    for first in range(0, rows, step):
        if run.stop.is_set():
            raise _StoppedError
        count = min(step, rows - first)
        block = _block(run, stored, range(first, first + count), dtype, cost)
        memory = memory_of(block)
        for start in range(0, len(memory), _WRITE_BYTES):
            write(memory[start : start + _WRITE_BYTES])
        run.advance(len(memory))
    if dtype == torch.int8:
        errors.append(cost.of(stored.pieces[0].name))


# --- one block ---------------------------------------------------------------------------------------------------


@dataclass
class _Cost:
    largest: float = 0.0
    squares: float = 0.0
    whole: float = 0.0

    def add(self, values: Tensor, stored: Tensor) -> None:
        difference = values - stored
        self.largest = max(self.largest, float(difference.abs().max()))
        self.squares += float(difference.double().square().sum())
        self.whole += float(values.double().square().sum())

    def of(self, name: str) -> QuantizationError:
        return QuantizationError(name, self.largest, math.sqrt(self.squares / self.whole) if self.whole else 0.0)


def _block(run: _Run, stored: StoredTensor, rows: range, dtype: torch.dtype, cost: _Cost) -> Tensor:
    """Returns rows of a tensor as they are written."""
    columns = stored.matrix[1]
    if stored.constant:
        return torch.tensor(stored.constant, dtype=dtype).reshape(-1, columns)[rows.start : rows.stop].contiguous()
    is_scale = stored.key.endswith(SCALE_SUFFIX)
    if dtype != torch.int8 and not is_scale:
        out = run.memory(len(rows), columns, dtype)
        _fill(run, stored.pieces, rows.start, out)
        return out
    values = torch.empty(len(rows), stored.pieces[0].columns)
    _fill(run, stored.pieces, rows.start, values)
    scale = values.abs().amax(dim=1, keepdim=True) / _LARGEST_INT8
    if is_scale:
        return scale
    whole = (values / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_().clamp_(-_LARGEST_INT8, _LARGEST_INT8)
    cost.add(values, whole * scale)
    return whole.to(torch.int8)


def _fill(run: _Run, pieces: tuple[Piece, ...], row: int, out: Tensor) -> None:
    """Fills rows of a stored tensor from its pieces; what none covers, or the source does not have, is zero."""
    source, rows, covered = run.conversion.source, out.shape[0], 0
    for piece in pieces:
        top, bottom = max(row, piece.at), min(row + rows, piece.at + piece.rows)
        first = piece.row + top - piece.at
        count = min(bottom - top, matrix_of(source.network.shapes[piece.name])[0] - first)
        if count <= 0:
            continue
        part = out[top - row : top - row + count]
        if top - row > covered:
            out[covered : top - row].zero_()
        covered = top - row + count
        _read(run, piece, first, count, part)
    if covered < rows:
        out[covered:].zero_()


def _read(run: _Run, piece: Piece, first: int, count: int, part: Tensor) -> None:
    source = run.conversion.source
    own = source.dtype(piece.name)
    values = part if own == part.dtype else torch.empty(part.shape, dtype=own)
    source.read(piece.name, Area(first, count, piece.column, piece.columns), values)
    finite = _is_finite(values)
    if not finite:
        with run.lock:
            run.not_finite.add(piece.name)
    if own == part.dtype:
        return
    part.copy_(values)
    if finite and part.dtype in (torch.float16, torch.bfloat16) and not _is_finite(part):
        largest = torch.finfo(part.dtype).max
        name = str(part.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"tensor {piece.name} has values beyond {name}'s largest, {largest:g}; set target.dtype to bf16 or fp32"
        )


def _is_finite(values: Tensor) -> bool:
    """Says whether no value is NaN or infinite. A sum is so, but may also grow out of bounds without one."""
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())


def _not_finite(source: Source, names: set[str]) -> str:
    told: list[str] = []
    in_order = [name for name in source.network.shapes if name in names]
    for name in in_order[:_SHOWN_NAMES]:
        values = read_parameter(source, name)
        told.append(f"{name} ({int(values.isnan().sum())} NaN, {int(values.isinf().sum())} infinite)")
    more = f" and {len(in_order) - _SHOWN_NAMES} more" if len(in_order) > _SHOWN_NAMES else ""
    return f"values that are not finite in {', '.join(told)}{more}; the source is damaged or its training diverged"


def plain_errors(errors: list[QuantizationError]) -> list[Mapping[str, Any]]:
    """Returns them as JSON's types."""
    return [asdict(one) for one in errors]
