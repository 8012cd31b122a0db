"""The state of a training run in files that no topology shows through: full tensors under global names.

    step-00000100/
      layer-00000.safetensors …    per transformer layer: `master/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, all fp32
      embedding.safetensors, norm.safetensors
      state.json                   written last: step, position in the data, seeds, and sha256 and size of every file

A folder without `state.json` was never finished and is not a state. Ranks write their own files; whoever leads them
writes `state.json` once all are on disk. What a state means to an optimizer is not known here.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yuan_checkpoint.files import write_json, write_tensors
from yuan_model.folder import open_safetensors

FORMAT_VERSION = 1
STATE_FILE = "state.json"
PARTS = ("master", "exp_avg", "exp_avg_sq")
"""What is kept of every parameter: fp32 weights and Adam's two moments."""


class TrainingStateError(ValueError):
    """A training state is incomplete, damaged or of another format; names the file."""


@dataclass(frozen=True)
class FileRecord:
    """A file of a state. size: bytes. sha256: hex digest of its contents."""

    size: int
    sha256: str


@dataclass(frozen=True)
class TrainingState:
    """A finished state.

    Attributes:
        folder: where it lies.
        step: optimizer steps that it contains.
        metadata: what the run keeps beside tensors (position in the data, seeds, topology).
        files: file name to its record.
    """

    folder: Path
    step: int
    metadata: Mapping[str, Any]
    files: Mapping[str, FileRecord]

    def verify(self) -> None:
        """Reads every file and compares it with its record.

        Raises:
            TrainingStateError: naming the first file that is missing or differs.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:
            for name, found in zip(self.files, pool.map(self._record, self.files), strict=True):
                if found != self.files[name]:
                    raise TrainingStateError(f"{self.folder / name}: its sha256 is not that of what was written")

    def _record(self, name: str) -> FileRecord:
        path = self.folder / name
        if not path.is_file():
            raise TrainingStateError(f"{path}: missing")
        if path.stat().st_size != self.files[name].size:
            raise TrainingStateError(f"{path}: {path.stat().st_size} bytes, {self.files[name].size} were written")
        return file_record(path)

    def read(self, file: str, names: list[str]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """Yields each parameter's name and its fp32 tensors by part, one parameter in memory at a time.

        Raises:
            TrainingStateError: if a tensor is missing.
        """
        with open_safetensors(self.folder / file) as opened:
            present: set[str] = set(opened.keys())
            for name in names:
                missing = [part for part in PARTS if f"{part}/{name}" not in present]
                if missing:
                    raise TrainingStateError(f"{self.folder / file}: has no {missing[0]}/{name}")
                yield name, {part: opened.get_tensor(f"{part}/{name}") for part in PARTS}


def state_file_of(name: str) -> str:
    """Returns the file that holds a parameter, by its global name."""
    if name.startswith("model.layers."):
        return f"layer-{int(name.split('.')[2]):05d}.safetensors"
    return "norm.safetensors" if name == "model.norm.weight" else "embedding.safetensors"


def file_record(path: Path) -> FileRecord:
    """Returns size and sha256 of a file."""
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return FileRecord(path.stat().st_size, digest)


def state_folder(root: Path, step: int) -> Path:
    """Returns the folder of the state after a step."""
    return root / f"step-{step:08d}"


def write_state_file(folder: Path, file: str, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> FileRecord:
    """Writes one file of a state: parameter name to its tensors by part; on disk when this returns.

    Raises:
        OSError: if the disk refuses it (full, read-only).
    """
    flat = {
        f"{part}/{name}": tensor.to(torch.float32) for name, parts in tensors.items() for part, tensor in parts.items()
    }
    write_tensors(folder / file, flat)
    return file_record(folder / file)


def finish_state(folder: Path, step: int, metadata: Mapping[str, Any], files: Mapping[str, FileRecord]) -> None:
    """Writes `state.json`, by which the folder becomes a state."""
    write_json(
        folder / STATE_FILE,
        {
            "format_version": FORMAT_VERSION,
            "step": step,
            "metadata": dict(metadata),
            "files": {name: {"size": record.size, "sha256": record.sha256} for name, record in sorted(files.items())},
        },
    )


def open_state(folder: Path) -> TrainingState:
    """Reads a state's description; its tensors stay on disk.

    Raises:
        TrainingStateError: if the folder is not a finished state of a known format.
    """
    path = folder / STATE_FILE
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if data["format_version"] != FORMAT_VERSION:
            raise TrainingStateError(f"{path}: format {data['format_version']} is not known here, {FORMAT_VERSION} is")
        files = {name: FileRecord(entry["size"], entry["sha256"]) for name, entry in data["files"].items()}
        return TrainingState(folder, int(data["step"]), data["metadata"], files)
    except FileNotFoundError as error:
        raise TrainingStateError(f"{folder}: not a finished training state, {STATE_FILE} is missing") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, TrainingStateError):
            raise
        raise TrainingStateError(f"{path}: not a readable description of a training state") from error


def finished_states(root: Path) -> list[Path]:
    """Returns the folders under root that hold a finished state, newest step first."""
    if not root.is_dir():
        return []
    return sorted((folder for folder in root.glob("step-*") if (folder / STATE_FILE).is_file()), reverse=True)


def newest_whole_state(root: Path) -> tuple[TrainingState | None, list[str]]:
    """Finds the newest state that is whole, every byte of it.

    Returns:
        The state, or None where there is none; and one line for each newer one that was passed over.
    """
    passed_over: list[str] = []
    for folder in finished_states(root):
        try:
            state = open_state(folder)
            state.verify()
        except TrainingStateError as error:
            passed_over.append(str(error))
        else:
            return state, passed_over
    return None, passed_over


def prune_states(root: Path, keep: int) -> None:
    """Deletes finished states beyond the newest `keep`, and folders that were never finished.

    A state loses its `state.json` first, so that one half deleted is never taken for whole.
    """
    finished = finished_states(root)
    for folder in finished[max(1, keep) :]:
        (folder / STATE_FILE).unlink()
        shutil.rmtree(folder)
    if root.is_dir():
        for folder in root.glob("step-*"):
            if not (folder / STATE_FILE).is_file():
                shutil.rmtree(folder)
