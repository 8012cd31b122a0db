"""Headers of safetensors files, read and written: the places of tensors, checked before anything is allocated."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from yuan_checkpoint.entries import CheckpointError, Entry

LARGEST_HEADER = 100_000_000
"""Bytes, as the library has it."""

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def read_header(file: Path) -> dict[str, Entry]:
    """Returns the tensors of a file by name.

    Raises:
        CheckpointError: if the file is missing, no safetensors, cut off, or its tensors do not lie within it, one
            behind the other.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise CheckpointError(f"{file}: not readable as safetensors: its header of {length} bytes is not there")
            header: Any = json.loads(opened.read(length))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: missing") from error
    except OSError as error:
        raise CheckpointError(f"{file}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not readable as safetensors: its header is no JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: not readable as safetensors: its header is no table")
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, value in cast("dict[str, Any]", header).items():
        if name == "__metadata__":
            continue
        entry, end = _entry(file, name, value, 8 + length)
        entries[name] = entry
        spans.append((entry.offset, end, name))
    position = 8 + length
    for begin, end, name in sorted(spans):
        if begin != position:
            raise CheckpointError(f"{file}: tensor {name} does not begin where the one before it ends")
        position = end
    if position != size:
        what = "is cut off" if position > size else "has bytes of no tensor at its end"
        raise CheckpointError(f"{file}: {what}: its header speaks of {position} bytes, the file has {size}")
    return entries


def header_bytes(tensors: Sequence[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """Returns the beginning of a file whose tensors follow in this order without gaps.

    Args:
        tensors: name, dtype and shape of each.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _entry(file: Path, name: str, value: Any, base: int) -> tuple[Entry, int]:
    try:
        dtype, shape = value["dtype"], tuple(value["shape"])
        begin, end = value["data_offsets"]
        right = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        dtype, shape, begin, end, right = "", (), 0, 0, False
    if not right:
        raise CheckpointError(f"{file}: tensor {name} is not described as safetensors describe tensors")
    if dtype not in _DTYPES:
        raise CheckpointError(f"{file}: tensor {name} is stored as {dtype}; expected one of {', '.join(_DTYPES)}")
    entry = Entry(file, name, _DTYPES[dtype], shape, base + begin)
    if end - begin != entry.size_bytes:
        raise CheckpointError(f"{file}: tensor {name} has {end - begin} bytes; {dtype} {list(shape)} is another size")
    return entry, base + end
