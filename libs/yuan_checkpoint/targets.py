"""What a conversion writes: files, the tensors in each, and the small texts that make a folder a checkpoint."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from yuan_checkpoint.description import StoredTensor
from yuan_checkpoint.safetensors_files import header_bytes
from yuan_checkpoint.torch_files import torch_pickle, zip_overhead
from yuan_events import InputError


class LayoutError(InputError):
    """A network, or a division of it, that a layout has no way to say."""


class FileKind(Enum):
    """How tensors are packed into a file."""

    safetensors = "safetensors"
    torch = "torch"


@dataclass(frozen=True)
class TargetFile:
    """A file with tensors.

    Attributes:
        path: in the folder, with `/`.
        kind: how it is packed.
        tensors: what is in it.
        tree: of a torch file, what it holds around them.
    """

    path: str
    kind: FileKind
    tensors: tuple[StoredTensor, ...]
    tree: Any = None


@dataclass(frozen=True)
class TargetLayout:
    """A whole checkpoint.

    Attributes:
        layout: its name.
        files: those with tensors.
        texts: name and content of the files that are written when those are all there, in this order; given the bytes
            of all tensors and the number format of each by name.
    """

    layout: str
    files: tuple[TargetFile, ...]
    texts: Callable[[int, Mapping[str, torch.dtype]], list[tuple[str, str]]]


def tensor_bytes(file: TargetFile, dtypes: Mapping[str, torch.dtype]) -> int:
    """Returns the bytes of a file's tensors alone."""
    return sum(math.prod(one.shape) * dtypes[one.key].itemsize for one in file.tensors)


def packed_order(file: TargetFile, dtypes: Mapping[str, torch.dtype]) -> list[tuple[StoredTensor, torch.dtype]]:
    """Returns a file's tensors in the order of their bytes: in safetensors wide numbers before narrow, then by name."""
    found = [(one, dtypes[one.key]) for one in file.tensors]
    if file.kind == FileKind.safetensors:
        found.sort(key=lambda pair: (-pair[1].itemsize, pair[0].key))
    return found


def file_size(file: TargetFile, dtypes: Mapping[str, torch.dtype]) -> int:
    """Returns how many bytes a file will have: exactly for safetensors, to a few hundred for torch."""
    described = [(one.key, dtype, one.shape) for one, dtype in packed_order(file, dtypes)]
    values = tensor_bytes(file, dtypes)
    if file.kind == FileKind.safetensors:
        return values + len(header_bytes(described))
    return values + zip_overhead(len(torch_pickle(file.tree, described)), len(described))
