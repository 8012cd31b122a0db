"""Writes tensors and JSON so that a reader sees a whole file or none: a temporary name, then a rename."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

TEMPORARY_SUFFIX = ".tmp"


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file; tensors may be on any device, views, or not contiguous.

    Raises:
        OSError: if the disk refuses it (full, read-only); nothing is left behind.
    """
    temporary = file.with_name(file.name + TEMPORARY_SUFFIX)
    try:
        save_file({name: _own_memory(tensor) for name, tensor in tensors.items()}, temporary, metadata={"format": "pt"})
        commit(temporary, file)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        raise OSError(f"{file}: {error}") from error  # safetensors reports a full disk as an error of its own


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented."""
    write_text(file, json_text(values))


def json_text(values: Mapping[str, Any]) -> str:
    """Returns a JSON object, indented, with the line end."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def write_text(file: Path, text: str) -> None:
    """Writes a text."""
    temporary = file.with_name(file.name + TEMPORARY_SUFFIX)
    temporary.write_text(text, encoding="utf-8")
    commit(temporary, file)


def _own_memory(tensor: Tensor) -> Tensor:
    """Returns the tensor on the processor with a storage that holds it alone, as safetensors demands."""
    plain = tensor.detach().to("cpu").contiguous()
    shared = plain.untyped_storage().nbytes() != plain.numel() * plain.element_size()
    return plain.clone() if shared else plain


def commit(temporary: Path, file: Path) -> None:
    """Gives a written file its name, once it is on the disk."""
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(file)
