"""Writes the native layout: full tensors, one safetensors file a layer and one for embedding and final norm.

`model.safetensors.index.json` and then `config.json` come last, so a folder with `config.json` is whole. Written at
once (`write_native`), or piecewise by ranks that each hold some layers (`write_layer_file`, `write_embedding_file`,
and once all of them are done, on one rank, `finish_native`). Reading is `yuan_model.ModelFolder`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from yuan_checkpoint.files import write_json, write_tensors
from yuan_model import ModelFolderError, YuanConfig, parameter_shapes
from yuan_model.folder import CONFIG_FILE, INDEX_FILE, NATIVE_LAYOUT, NATIVE_SCHEMA_VERSION, open_safetensors

EMBEDDING_FILE = "model-embedding.safetensors"
"""Holds what belongs to no layer: `model.embed_tokens.weight` and `model.norm.weight`."""

_LAYER_PREFIX = "model.layers."


def layer_file(index: int) -> str:
    """Returns the name of the file of layer `index`, counted from 0 over the whole model."""
    return f"model-layer-{index:05d}.safetensors"


def file_of(name: str) -> str:
    """Returns the name of the file that a native tensor belongs in."""
    if name.startswith(_LAYER_PREFIX):
        return layer_file(int(name.removeprefix(_LAYER_PREFIX).split(".")[0]))
    return EMBEDDING_FILE


def write_layer_file(folder: Path, index: int, tensors: Mapping[str, Tensor]) -> None:
    """Writes one layer's file; tensors under their full native names (`model.layers.3.input_layernorm.weight`).

    Raises:
        ValueError: if a tensor belongs in another file.
    """
    _write_file(folder, layer_file(index), tensors)


def write_embedding_file(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes embedding and final norm.

    Raises:
        ValueError: if a tensor belongs in another file.
    """
    _write_file(folder, EMBEDDING_FILE, tensors)


def finish_native(folder: Path, config: YuanConfig) -> None:
    """Checks that every file holds just its tensors, in the config's shapes, and makes the folder a model.

    Raises:
        ModelFolderError: naming the file or tensor that is missing, unknown or of another shape.
    """
    shapes = parameter_shapes(config)
    total_bytes = 0
    for file_name, names in _names_by_file(shapes).items():
        total_bytes += _check_file(folder / file_name, {name: shapes[name] for name in names})
    index = {"metadata": {"total_size": total_bytes}, "weight_map": {name: file_of(name) for name in shapes}}
    write_json(folder / INDEX_FILE, index)
    marks = {"layout": NATIVE_LAYOUT, "schema_version": NATIVE_SCHEMA_VERSION}
    write_json(folder / CONFIG_FILE, {**marks, **config.to_dict()})


def write_native(
    folder: Path, config: YuanConfig, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None
) -> None:
    """Writes a whole model; holds one file's tensors at a time if they come in the order of the network.

    Args:
        folder: made if it is not there.
        config: of the network.
        tensors: (native name, tensor) pairs, in any order.
        dtype: to write in; None keeps each tensor's own.

    Raises:
        ModelFolderError: naming the tensor that is missing, unknown or of another shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = {file: set(names) for file, names in _names_by_file(parameter_shapes(config)).items()}
    gathered: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        file = file_of(name)
        if name not in waiting.get(file, ()):
            raise ModelFolderError(f"{folder}: tensor {name} is unknown or came twice")
        waiting[file].remove(name)
        gathered.setdefault(file, {})[name] = tensor.to(dtype=dtype)
        if not waiting[file]:
            write_tensors(folder / file, gathered.pop(file))
    for names in waiting.values():
        if names:
            raise ModelFolderError(f"{folder}: tensor {min(names)} is missing")
    finish_native(folder, config)


def _names_by_file(names: Iterable[str]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in names:
        files.setdefault(file_of(name), []).append(name)
    return files


def _write_file(folder: Path, file_name: str, tensors: Mapping[str, Tensor]) -> None:
    for name in tensors:
        if file_of(name) != file_name:
            raise ValueError(f"tensor {name} belongs in {file_of(name)}, not in {file_name}")
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / file_name, tensors)


def _check_file(file: Path, shapes: Mapping[str, torch.Size]) -> int:
    """Returns the bytes of the file's tensors."""
    if not file.exists():
        raise ModelFolderError(f"{file}: missing")
    with open_safetensors(file) as opened:
        names: list[str] = opened.keys()
        held: dict[str, list[int]] = {name: list(opened.get_slice(name).get_shape()) for name in names}
    for name in sorted(set(held) ^ set(shapes)):
        raise ModelFolderError(f"{file}: tensor {name} is {'unknown' if name in held else 'missing'}")
    for name, shape in shapes.items():
        if held[name] != list(shape):
            raise ModelFolderError(f"{file}: tensor {name} has shape {held[name]}, not {list(shape)}")
    with file.open("rb") as raw:
        header_bytes = int.from_bytes(raw.read(8), "little")
    return file.stat().st_size - 8 - header_bytes
