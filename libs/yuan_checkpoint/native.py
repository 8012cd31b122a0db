"""The native layout: full tensors, one safetensors file a layer and one for embedding and final norm.

`model.safetensors.index.json` and then `config.json` come last, so a folder with `config.json` is whole. Written at
once (`write_native`), or piecewise by ranks that each hold some layers (`write_layer_file`, `write_embedding_file`,
and once all of them are done, on one rank, `finish_native`). `native_target` says the same to a conversion, which may
also write matrices of layers in int8: `NAME` and `NAME_scale`, one factor a row. `yuan_model.ModelFolder` reads it too.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from yuan_checkpoint.description import LAYER_PREFIX, Network, Piece, StoredTensor, matrix_of
from yuan_checkpoint.files import json_text, write_tensors, write_text
from yuan_checkpoint.targets import FileKind, TargetFile, TargetLayout
from yuan_model import ModelFolderError, YuanConfig, parameter_shapes
from yuan_model.folder import (
    CONFIG_FILE,
    INDEX_FILE,
    NATIVE_LAYOUT,
    NATIVE_SCHEMA_VERSION,
    SCALE_SUFFIX,
    open_safetensors,
)

EMBEDDING_FILE = "model-embedding.safetensors"
"""Holds what belongs to no layer: `model.embed_tokens.weight` and `model.norm.weight`."""


def layer_file(index: int) -> str:
    """Returns the name of the file of layer `index`, counted from 0 over the whole model."""
    return f"model-layer-{index:05d}.safetensors"


def file_of(name: str) -> str:
    """Returns the name of the file that a native tensor belongs in."""
    if name.startswith(LAYER_PREFIX):
        return layer_file(int(name.removeprefix(LAYER_PREFIX).split(".")[0]))
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
    for name, text in _texts(config, total_bytes, {name: file_of(name) for name in shapes}):
        write_text(folder / name, text)


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


def native_tensors(network: Network, name: str, *, int8: bool) -> list[StoredTensor]:
    """Returns what a native folder has of a parameter: itself, and in int8 its scale."""
    shape = network.shapes[name]
    rows, columns = matrix_of(shape)
    whole = (Piece(name, 0, 0, rows, columns, 0),)
    found = [StoredTensor(name, tuple(shape), whole)]
    if int8 and is_quantized(name):
        found.append(StoredTensor(name + SCALE_SUFFIX, (rows, 1), whole))
    return found


def native_target(network: Network, *, int8: bool = False) -> TargetLayout:
    """Returns what files a native folder has.

    Args:
        network: whose.
        int8: matrices of layers are stored in 8 bits.
    """
    files = tuple(
        TargetFile(
            file,
            FileKind.safetensors,
            tuple(one for name in names for one in native_tensors(network, name, int8=int8)),
        )
        for file, names in _names_by_file(network.shapes).items()
    )

    def texts(total: int, _: Mapping[str, torch.dtype]) -> list[tuple[str, str]]:
        names = (one.key for name in network.shapes for one in native_tensors(network, name, int8=int8))
        return _texts(network.config, total, {name: file_of(name) for name in names})

    return TargetLayout("native", files, texts)


def is_quantized(name: str) -> bool:
    """Says whether a parameter is stored in 8 bits where that is asked for: the matrices of layers, but filters."""
    return name.startswith(LAYER_PREFIX) and name.endswith("_proj.weight")


def _texts(config: YuanConfig, total: int, weight_map: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the files that make a folder a model."""
    marks = {"layout": NATIVE_LAYOUT, "schema_version": NATIVE_SCHEMA_VERSION}
    return [
        (INDEX_FILE, json_text({"metadata": {"total_size": total}, "weight_map": dict(weight_map)})),
        (CONFIG_FILE, json_text({**marks, **config.to_dict()})),
    ]


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
