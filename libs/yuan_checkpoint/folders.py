"""Opens native and Hugging Face folders, the latter also with the older pickled `.bin` files, which are not run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from yuan_checkpoint.checkpoint import Checkpoint, Held, Origin
from yuan_checkpoint.description import EMBEDDING, Network, StoredTensor
from yuan_checkpoint.entries import CheckpointError, Entry
from yuan_checkpoint.huggingface import PICKLE_FILE, PICKLE_INDEX_FILE, huggingface_tensors
from yuan_checkpoint.native import native_tensors
from yuan_checkpoint.safetensors_files import read_header
from yuan_checkpoint.torch_files import open_torch_file, tensors_below
from yuan_checkpoint.unpickling import UnreadableFileError
from yuan_model import YuanConfig
from yuan_model.folder import (
    CONFIG_FILE,
    INDEX_FILE,
    NATIVE_LAYOUT,
    NATIVE_SCHEMA_VERSION,
    SCALE_SUFFIX,
    SINGLE_FILE,
    TIED_HEAD,
)

_MARKS = ("layout", "schema_version")
_ROTARY = ".rotary_emb.inv_freq"


def is_model_folder(folder: Path) -> bool:
    """Says whether a folder may be a native or Hugging Face one."""
    return (folder / CONFIG_FILE).is_file()


def open_folder(path: Path, *, strict: bool = True) -> Checkpoint:
    """Opens a native or Hugging Face folder.

    Raises:
        CheckpointError: naming the file or tensor that is missing, unreadable, unknown or of another shape.
    """
    values = read_json(path / CONFIG_FILE)
    native = values.get("layout") == NATIVE_LAYOUT
    network = Network(_config(path / CONFIG_FILE, values, native=native))
    tensor_files, index = _tensor_files(path)
    entries: dict[str, Entry] = {}
    for file in tensor_files:
        for name, entry in _entries(file).items():
            if name in entries:
                raise CheckpointError(f"{file}: tensor {name} is also in {entries[name].file.name}")
            entries[name] = entry
    _check_index(path, index, entries)
    stored = _native(network) if native else _huggingface(network, entries)
    held = [_held(path, one, entries) for one in stored]
    known = {one.stored.key for one in held} | {name for name in entries if name.endswith(_ROTARY) and not native}
    known |= {one.scale.key for one in held if one.scale is not None}
    unknown = [f"{entry.file}: {name}" for name, entry in entries.items() if name not in known]
    files = [path / CONFIG_FILE, *([index] if index else []), *tensor_files]
    origin = Origin("native" if native else "huggingface", stages=(network.config.num_hidden_layers,), values=values)
    return Checkpoint(path, origin, network, held, files=files, unknown=unknown, strict=strict)


def read_json(file: Path) -> Mapping[str, Any]:
    """Returns a JSON object.

    Raises:
        CheckpointError: if the file is missing or holds something else.
    """
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return cast("dict[str, Any]", values)


def _config(file: Path, values: Mapping[str, Any], *, native: bool) -> YuanConfig:
    try:
        if native:
            version = values.get("schema_version")
            if version != NATIVE_SCHEMA_VERSION:
                raise ValueError(f"schema_version: {version!r} is not {NATIVE_SCHEMA_VERSION}")
            return YuanConfig.from_dict({key: value for key, value in values.items() if key not in _MARKS})
        model_type = values.get("model_type", "yuan")
        if model_type != "yuan":
            raise ValueError(f"model_type: {model_type!r} is another network; only 'yuan' is read here")
        return YuanConfig.from_hugging_face(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _tensor_files(folder: Path) -> tuple[list[Path], Path | None]:
    """Returns the files with tensors, and the index that names them, where there is one."""
    for name in (INDEX_FILE, SINGLE_FILE, PICKLE_INDEX_FILE, PICKLE_FILE):
        found = folder / name
        if not found.is_file():
            continue
        if name in (SINGLE_FILE, PICKLE_FILE):
            return [found], None
        return _named_by(found), found
    raise CheckpointError(f"{folder}: holds neither {INDEX_FILE} nor {SINGLE_FILE} nor {PICKLE_FILE}")


def _named_by(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: weight_map is missing")
    suffix = ".safetensors" if index.name == INDEX_FILE else ".bin"
    files: dict[Path, None] = {}
    for name, file_name in cast("dict[str, object]", weight_map).items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name or not file_name.endswith(suffix):
            raise CheckpointError(f"{index}: {name}: {file_name!r} is not the name of a {suffix} file in this folder")
        files[index.parent / file_name] = None
    for file in sorted(files):
        if not file.exists():
            raise CheckpointError(f"{file}: missing, though {index.name} names it")
    return sorted(files)


def _check_index(folder: Path, index: Path | None, entries: Mapping[str, Entry]) -> None:
    if index is None:
        return
    for name, file_name in cast("dict[str, str]", read_json(index)["weight_map"]).items():
        if name not in entries or entries[name].file.name != file_name:
            raise CheckpointError(f"{folder / file_name}: tensor {name} is not in this file, where {index.name} has it")


def _entries(file: Path) -> Mapping[str, Entry]:
    if file.suffix == ".safetensors":
        return read_header(file)
    try:
        opened = open_torch_file(file)
    except UnreadableFileError as error:
        raise CheckpointError(str(error)) from error
    return {key: opened.entry(key, tensor) for key, tensor in tensors_below(opened.content)}


def _native(network: Network) -> list[StoredTensor]:
    return [native_tensors(network, name, int8=False)[0] for name in network.shapes]


def _huggingface(network: Network, entries: Mapping[str, Entry]) -> list[StoredTensor]:
    found = huggingface_tensors(network)
    if TIED_HEAD in entries:
        found += network.parts(EMBEDDING, "", (TIED_HEAD,))
    return found


def _held(folder: Path, stored: StoredTensor, entries: Mapping[str, Entry]) -> Held:
    entry = entries.get(stored.key)
    if entry is None or entry.dtype != torch.int8:
        return Held(folder if entry is None else entry.file, stored, entry)
    scale = entries.get(stored.key + SCALE_SUFFIX)
    rows = stored.shape[0]
    if scale is None or scale.shape != (rows, 1) or scale.dtype != torch.float32:
        raise CheckpointError(
            f"{entry.file}: tensor {stored.key} is int8; expected {stored.key}{SCALE_SUFFIX} of float32 and shape "
            f"[{rows}, 1] beside it"
        )
    return Held(entry.file, stored, entry, scale)
