"""Unpickles what `torch.save` wrote without running anything in it: tensors as places, plain values; all else is inert.

Checkpoints of the original hold objects of classes that are not installed here (enums of its `megatron` package) and
whole numpy states, so torch's own `weights_only` refuses them, and its ordinary loading would run whatever a file
says. Here no name of a pickle is ever imported: those few that make up a tensor mean functions of this module, made
anew for each file, and every other class or function is stood for by `Unknown`, which does nothing, whatever it is
called with.
"""

import io
import pickle
import pickletools
from argparse import Namespace
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch

LARGEST_PICKLE = 256 << 20
"""Bytes of a pickle that is looked at: tensors are not in it."""

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class UnreadableFileError(ValueError):
    """A file that `torch.save` did not write, or that is cut short; one line with its name."""


class Unknown:
    """Stands for an object of a class that is not looked up; takes every step of a pickle and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> "Unknown":
        """Takes any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> "Unknown":
        """Is what a function of a pickle would have returned."""
        return self

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    def append(self, _: object) -> None:
        """Takes an item of what would have been a list."""

    def extend(self, _: object) -> None:
        """Takes items of what would have been a list."""


@dataclass(frozen=True)
class StorageKind:
    """A class of torch's storages. dtype: of their values."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """The values that tensors share. key: in the file. size: number of values."""

    key: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True)
class PickledTensor:
    """A tensor whose values are elsewhere in the file. offset: values of the storage before its first."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        whole = (self.offset, *self.shape, *self.stride)
        if not all(type(number) is int and number >= 0 for number in whole) or len(self.shape) != len(self.stride):
            raise ValueError("a tensor has no possible size")
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if all(self.shape) and last >= self.storage.size:
            raise ValueError(f"a tensor of size {list(self.shape)} is larger than its storage of {self.storage.size}")


_PLAIN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("argparse", "Namespace"): SimpleNamespace,
    ("torch", "Size"): tuple,
}


def _rebuilding() -> dict[str, Any]:
    """Returns what stands for torch's functions that make tensors of stored values."""

    def rebuild(storage: Storage, offset: int, shape: Any, stride: Any, *_: object) -> PickledTensor:
        return PickledTensor(storage, offset, tuple(shape), tuple(stride))

    def parameter(tensor: PickledTensor, *_: object) -> PickledTensor:
        return tensor

    return {"_rebuild_tensor": rebuild, "_rebuild_tensor_v2": rebuild, "_rebuild_parameter": parameter}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch._utils":
            # Functions made anew for every mention: a pickle can put attributes on what it is given.
            return _rebuilding().get(global_name, Unknown)
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return getattr(torch, global_name)
        if module_name in {"torch", "torch.storage"} and global_name in _STORAGE_DTYPES:
            return StorageKind(_STORAGE_DTYPES[global_name])
        return _PLAIN.get((module_name, global_name), Unknown)

    def persistent_load(self, pid: Any, /) -> Any:
        parts = cast("tuple[Any, ...]", pid) if isinstance(pid, tuple) else ()
        if len(parts) < 5 or parts[0] != "storage":
            raise pickle.UnpicklingError("a reference to something else than a tensor's values")
        _, kind, key, _, size = parts[:5]
        if not isinstance(kind, StorageKind) or type(size) is not int or size < 0:
            raise pickle.UnpicklingError("a tensor's values are of no known kind")
        return Storage(str(key), kind.dtype, size)


def unpickle(data: io.BytesIO, where: str) -> Any:
    """Reads one pickle, up to its end.

    Args:
        data: positioned at its beginning.
        where: of the file, for messages.

    Raises:
        UnreadableFileError: if it is none, or says what no file of torch.save says.
    """
    try:
        start = data.tell()
        _check_memo(data)
        data.seek(start)
        return _Unpickler(data, encoding="utf-8").load()
    except RecursionError as error:
        raise UnreadableFileError(f"{where}: not readable as a file of torch.save: nested too deeply") from error
    except (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError) as error:
        raise UnreadableFileError(f"{where}: not readable as a file of torch.save: {_first_line(error)}") from error
    except (MemoryError, TypeError, ValueError) as error:
        raise UnreadableFileError(f"{where}: not readable as a file of torch.save: {_first_line(error)}") from error


def namespace_values(value: object) -> dict[str, Any]:
    """Returns the values of an `argparse.Namespace` of such a file, by name; nothing where it is none."""
    return dict(vars(value)) if isinstance(value, SimpleNamespace | Namespace) else {}


def _check_memo(data: io.BytesIO) -> None:
    """Refuses numbers of remembered objects that no pickle of this size has: the unpickler reserves room for them."""
    size = len(data.getbuffer())
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in {"LONG_BINPUT", "PUT"} and int(cast("int", argument)) > size:
            raise pickle.UnpicklingError("it remembers more than it holds")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
