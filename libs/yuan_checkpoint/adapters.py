"""Low-rank additions (LoRA) merged into a source as it is read: W + alpha / rank * B A, in fp32, block by block.

Additions come from a fine-tuned model's folder (`adapter.safetensors`, `adapter_config.json`) or from a training state
of such a run. What trains them is `yuan_trainer`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from yuan_checkpoint.checkpoint import Source
from yuan_checkpoint.description import Area, Network, matrix_of
from yuan_checkpoint.entries import CheckpointError, Entry, OpenFiles
from yuan_checkpoint.folders import read_json
from yuan_checkpoint.safetensors_files import read_header
from yuan_checkpoint.training_state import STATE_FILE

ADAPTER_FILE = "adapter.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_PARTS = ("lora_a", "lora_b")
_MASTER = "master/"


@dataclass(frozen=True)
class Addition:
    """To one matrix. a: fp32 [rank, columns], with alpha / rank in it. b: fp32 [rows, rank]."""

    a: Tensor
    b: Tensor


class Merged:
    """A source whose matrices have additions in them.

    Attributes:
        additions: by the matrix's native name.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        """Reads an adapter.

        Args:
            source: the model that it was trained on.
            folder: see above.

        Raises:
            CheckpointError: if it is none, or not one of this network's.
        """
        self._source = source
        self.additions = _read(folder, source.network)

    @property
    def network(self) -> Network:
        """The source's."""
        return self._source.network

    def dtype(self, name: str) -> torch.dtype:
        """Returns the source's number format of a parameter."""
        return self._source.dtype(name)

    def read(self, name: str, area: Area, out: Tensor) -> None:
        """Reads a block of a parameter with its addition."""
        self._source.read(name, area, out)
        addition = self.additions.get(name)
        if addition is not None:
            row, rows, column, columns = area
            added = addition.b[row : row + rows] @ addition.a[:, column : column + columns]
            out.copy_(added.add_(out))

    def check_unchanged(self) -> None:
        """Checks the source; the additions are in memory."""
        self._source.check_unchanged()


def _read(folder: Path, network: Network) -> dict[str, Addition]:
    files, values, prefix = _described(folder)
    try:
        scale = float(values["alpha"]) / int(values["rank"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder}: its adapter has no rank and alpha") from error
    entries: dict[str, Entry] = {}
    opened = OpenFiles()
    for file in files:
        opened.add(file)
        entries |= {
            name.removeprefix(prefix): entry for name, entry in read_header(file).items() if name.startswith(prefix)
        }
    found: dict[str, dict[str, Tensor]] = {}
    for name, entry in entries.items():
        matrix, _, part = name.rpartition(".")
        if part not in _PARTS or f"{matrix}.weight" not in network.shapes:
            raise CheckpointError(f"{entry.file}: tensor {name} is no addition to a matrix of this network")
        found.setdefault(f"{matrix}.weight", {})[part] = opened.read(entry).float()
    opened.close()
    if not found:
        raise CheckpointError(f"{folder}: holds no low-rank addition")
    return {name: _addition(folder, name, parts, scale, network) for name, parts in found.items()}


def _addition(folder: Path, name: str, parts: Mapping[str, Tensor], scale: float, network: Network) -> Addition:
    rows, columns = matrix_of(network.shapes[name])
    shapes = [list(parts[part].shape) if part in parts else None for part in _PARTS]
    a, b = parts.get("lora_a"), parts.get("lora_b")
    right = a is not None and b is not None and len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
    if a is None or b is None or not right or (b.shape[0], a.shape[1]) != (rows, columns):
        raise CheckpointError(f"{folder}: the addition to {name} [{rows}, {columns}] has parts of shape {shapes}")
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise CheckpointError(f"{folder}: the addition to {name} has values that are not finite")
    return Addition(scale * a, b)


def _described(folder: Path) -> tuple[list[Path], Mapping[str, Any], str]:
    """Returns an adapter's files, its rank and alpha, and what the names of its tensors begin with."""
    if (folder / ADAPTER_FILE).is_file():
        return [folder / ADAPTER_FILE], read_json(folder / ADAPTER_CONFIG_FILE), ""
    if (folder / STATE_FILE).is_file():
        said: Any = read_json(folder / STATE_FILE).get("metadata")
        lora: Any = cast("dict[str, Any]", said).get("lora") if isinstance(said, dict) else None
        if isinstance(lora, dict):
            return sorted(folder.glob("*.safetensors")), cast("dict[str, Any]", lora), _MASTER
        raise CheckpointError(f"{folder}: is a training state of whole weights, no adapter")
    raise CheckpointError(f"{folder}: holds no {ADAPTER_FILE}; expected a folder that a LoRA fine-tuning wrote")
