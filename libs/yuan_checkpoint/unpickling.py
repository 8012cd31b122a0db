"""Reads what `torch.save` wrote without running anything in it: tensors and plain values come out, all else is inert.

Checkpoints of the original hold objects of classes that are not installed here (enums of its `megatron` package) and
whole numpy states, so torch's own `weights_only` refuses them, and its ordinary loading would run whatever a file
says. Here only the few names that make up a tensor are looked up; every other class or function of a pickle is stood
for by `Unknown`, which does nothing, whatever it is called with.
"""

import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

_TENSOR_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module_name, global_name) == ("argparse", "Namespace"):
            return SimpleNamespace
        if (module_name, global_name) in _TENSOR_NAMES:
            return super().find_class(module_name, global_name)
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return getattr(torch, global_name)
        return Unknown


class _PickleModule:
    """What `torch.load` takes for `pickle`."""

    Unpickler = _Unpickler


def load_inertly(file: Path) -> Any:
    """Returns what a file of `torch.save` holds; tensors are mapped from the file, on the processor.

    Raises:
        UnreadableFileError: if it is no such file, or not whole.
    """
    try:
        return torch.load(file, map_location="cpu", pickle_module=_PickleModule, weights_only=False, mmap=True)
    except FileNotFoundError as error:
        raise UnreadableFileError(f"{file}: missing") from error
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, IndexError) as error:
        raise UnreadableFileError(f"{file}: not readable as a file of torch.save: {_first_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise UnreadableFileError(f"{file}: not readable as a file of torch.save: {_first_line(error)}") from error


def namespace_values(value: object) -> dict[str, Any]:
    """Returns the values of an `argparse.Namespace` of such a file, by name; nothing where it is none."""
    return dict(vars(value)) if isinstance(value, SimpleNamespace | Namespace) else {}


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
