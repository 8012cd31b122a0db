"""Tensors as they lie in files: where their bytes are, and reading blocks of them without the rest.

Bytes are read with `pread` into memory of ours, never mapped: memory stays bounded, and a file that is cut off
underneath is an error instead of a signal. Sizes and places were checked against the file before (`safetensors_files`,
`torch_files`).
"""

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from yuan_checkpoint.description import Area, matrix_of
from yuan_events import InputError

_DIRECT_BYTES = 4096
"""Parts of rows from this size on are read one by one; of smaller ones whole rows are read and cut."""

_CHUNK_BYTES = 16 << 20
_ANNOUNCED_BYTES = 1 << 20


class CheckpointError(InputError):
    """A checkpoint that cannot be read as it is: one line with the file or tensor, and what is wrong there."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Attributes:
        file: where.
        key: its name there.
        dtype: of its values.
        shape: its dimensions.
        offset: byte at which its first value is.
        stride: values from one to the next, by dimension; empty: row after row without gaps.
    """

    file: Path
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    stride: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of its values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether its values lie row after row without gaps."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=False):
            if size != 1 and step != expected:
                return False
            expected *= size
        return True


class OpenFiles:
    """Descriptors of files that are read, and what those files were when they were opened."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[int, tuple[int, int, int]]] = {}

    def add(self, file: Path) -> None:
        """Opens a file.

        Raises:
            CheckpointError: if that is impossible.
        """
        if file in self._open:
            return
        try:
            descriptor = os.open(file, os.O_RDONLY)
            self._open[file] = descriptor, _likeness(os.fstat(descriptor))
        except OSError as error:
            raise CheckpointError(f"{file}: {(error.strerror or str(error)).lower()}") from error

    def close(self) -> None:
        """Closes all."""
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def __del__(self) -> None:
        self.close()

    @property
    def identity(self) -> list[tuple[str, int, int, int]]:
        """Path, size, inode and time of change of every file."""
        return [(str(file), *likeness) for file, (_, likeness) in sorted(self._open.items())]

    def check_unchanged(self) -> None:
        """Checks that every file is still what was opened.

        Raises:
            CheckpointError: naming the first that is not.
        """
        for file, (_, before) in self._open.items():
            try:
                now = _likeness(file.stat())
            except OSError:
                now = None
            if now != before:
                raise CheckpointError(f"{file}: changed while it was read; convert it again once nothing writes to it")

    def read_into(self, entry: Entry, area: Area, out: Tensor) -> None:
        """Reads a block of a tensor looked at as a matrix.

        Args:
            entry: whose file was added.
            area: the block.
            out: of that size and the entry's dtype; its rows may lie apart.

        Raises:
            CheckpointError: if the file ends before.
        """
        row, rows, column, columns = area
        if not rows or not columns:
            return
        width, item = matrix_of(entry.shape)[1], entry.dtype.itemsize
        if not entry.plain:
            out.copy_(self._scattered(entry).reshape(-1, width)[row : row + rows, column : column + columns])
            return
        start = entry.offset + (row * width + column) * item
        self._announce(entry.file, entry.offset + row * width * item, rows * width * item)
        if columns == width and out.is_contiguous():
            self._fill(entry.file, start, out)
        elif columns * item >= _DIRECT_BYTES:
            for number in range(rows):
                self._fill(entry.file, start + number * width * item, out[number])
        else:
            step = max(1, _CHUNK_BYTES // (width * item))
            for first in range(0, rows, step):
                count = min(step, rows - first)
                whole = torch.empty(count, width, dtype=entry.dtype)
                self._fill(entry.file, entry.offset + (row + first) * width * item, whole)
                out[first : first + count].copy_(whole[:, column : column + columns])

    def read(self, entry: Entry) -> Tensor:
        """Returns a whole tensor."""
        out = torch.empty(matrix_of(entry.shape), dtype=entry.dtype)
        self.read_into(entry, Area(0, out.shape[0], 0, out.shape[1]), out)
        return out.reshape(entry.shape)

    def _scattered(self, entry: Entry) -> Tensor:
        values = 1 + sum((size - 1) * step for size, step in zip(entry.shape, entry.stride, strict=True))
        held = torch.empty(values, dtype=entry.dtype)
        self._fill(entry.file, entry.offset, held)
        return held.as_strided(entry.shape, entry.stride)

    def _announce(self, file: Path, offset: int, size: int) -> None:
        """Has the system read a block and the one behind it: it foresees one reader of a file, not several."""
        if size >= _ANNOUNCED_BYTES:
            with suppress(OSError):
                os.posix_fadvise(self._open[file][0], offset, 2 * size, os.POSIX_FADV_WILLNEED)

    def _fill(self, file: Path, offset: int, out: Tensor) -> None:
        memory = memory_of(out)
        descriptor = self._open[file][0]
        while memory:
            try:
                count = os.preadv(descriptor, [memory], offset)
            except OSError as error:
                raise CheckpointError(f"{file}: {(error.strerror or str(error)).lower()}") from error
            if not count:
                raise CheckpointError(f"{file}: ends at byte {offset}, where a tensor goes on; it was cut off")
            memory, offset = memory[count:], offset + count


def memory_of(tensor: Tensor) -> memoryview:
    """Returns the bytes of a tensor whose values lie without gaps; they are the tensor's own."""
    return memoryview(cast("Any", tensor.detach().reshape(-1).view(torch.uint8).numpy()))


def _likeness(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_ino, status.st_mtime_ns
