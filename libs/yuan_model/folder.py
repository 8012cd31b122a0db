"""Reads a model folder tensor by tensor under native names, whichever of the two layouts it has.

Native folders hold `qk_proj` fused; Hugging Face folders hold it cut in the middle into `q_proj` (its first rows) and
`k_proj` (its last): each holds queries *and* keys of half of the heads, so concatenating is the whole of the
conversion (YUAN_FACTS A2). Which files to read says `model.safetensors.index.json`, or it is `model.safetensors`;
never a glob, and never a pickle. Writing is `yuan_checkpoint`'s.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from yuan_model.config import YuanConfig

NATIVE_LAYOUT = "yuan-native"
NATIVE_SCHEMA_VERSION = 1
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TIED_HEAD = "lm_head.weight"
SCALE_SUFFIX = "_scale"
"""Behind the name of an int8 matrix in a native folder: what its rows are multiplied by, fp32 [rows, 1]."""

_SUFFIX = ".safetensors"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_INT8 = "I8"


class ModelFolderError(ValueError):
    """A model folder that cannot be read: one line with the file or tensor and what is wrong there."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a model folder's files have it.

    Attributes:
        name: its name there (a Hugging Face folder has `q_proj` and `k_proj` where the network has `qk_proj`).
        shape: its dimensions.
        dtype: as safetensors writes it, `F32` or `BF16`.
        file: where it is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path


def parameter_shapes(config: YuanConfig) -> dict[str, torch.Size]:
    """Returns every parameter's native name and shape, in the order of the network.

    Written down, not taken from a network without memory: making the first one takes torch three seconds.
    """
    hidden, half, feed_forward = config.hidden_size, config.hidden_size // 2, config.intermediate_size
    filtering = {
        "self_attn.lf_gate.conv1.weight": (half, hidden, 2, 1),
        "self_attn.lf_gate.conv1.bias": (half,),
        "self_attn.lf_gate.conv2.weight": (hidden, half, 2, 1),
        "self_attn.lf_gate.conv2.bias": (hidden,),
        "self_attn.lf_gate.output_layernorm.weight": (hidden,),
    }
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.v_proj.weight": (hidden, hidden),
        "self_attn.qk_proj.weight": (2 * hidden, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        **(filtering if config.localized_filtering else {}),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.up_proj.weight": (feed_forward, hidden),
        "mlp.gate_proj.weight": (feed_forward, hidden),
        "mlp.down_proj.weight": (hidden, feed_forward),
    }
    shapes = {"model.embed_tokens.weight": torch.Size((config.vocab_size, hidden))}
    for number in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{number}.{name}": torch.Size(shape) for name, shape in layer.items()}
    return {**shapes, "model.norm.weight": torch.Size((hidden,))}


def hugging_face_names(name: str) -> tuple[str, ...]:
    """Returns the Hugging Face tensors that, concatenated along dimension 0, are a native tensor."""
    if name.endswith("self_attn.qk_proj.weight"):
        return name.replace("qk_proj", "q_proj"), name.replace("qk_proj", "k_proj")
    return (name,)


class ModelFolder:
    """A checked native or Hugging Face folder, read lazily.

    Attributes:
        path: the folder.
        config: of the network.
        native: whether its layout is the native one.
        values: `config.json` as it stands.

    Raises:
        ModelFolderError: if a file or tensor is missing, unknown, unreadable or of another shape than the config says.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise ModelFolderError(f"{self.path}: no such folder")
        self.values = _read_json(self.path / CONFIG_FILE)
        self.native = self.values.get("layout") == NATIVE_LAYOUT
        self.config = self._read_config()
        self._shapes = parameter_shapes(self.config)
        self._files = _tensor_files(self.path)
        self._held = {file: _held(file) for file in sorted(set(self._files.values()))}
        self._check_names()
        self._check_shapes()
        self._check_tied_head()

    @property
    def names(self) -> list[str]:
        """Native names of all parameters, in the order of the network."""
        return list(self._shapes)

    @property
    def files(self) -> list[Path]:
        """The files that make the model: config, index where there is one, and those that hold tensors."""
        index = self.path / INDEX_FILE
        return [self.path / CONFIG_FILE, *([index] if index.exists() else []), *sorted(set(self._files.values()))]

    def tensor(self, name: str) -> Tensor:
        """Returns a parameter by its native name, in its stored dtype (of int8: fp32), on the processor."""
        parts = [self._read(stored) for stored in self._stored_names(name)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def part(self, name: str, dimension: int, start: int, stop: int) -> Tensor:
        """Returns what lies between two places of a matrix along a dimension; no more than that is read.

        Args:
            name: native.
            dimension: 0 (rows) or 1.
            start: the first row or column.
            stop: the one behind the last.
        """
        stored = self._stored_names(name)
        rows = self._shapes[name][0] // len(stored)
        parts: list[Tensor] = []
        for number, one in enumerate(stored):
            if dimension == 1:
                parts.append(self._read(one, (slice(None), slice(start, stop))))
                continue
            # Where a matrix is stored as several, their rows lie one behind the other.
            first, last = max(0, start - number * rows), min(rows, stop - number * rows)
            if first < last:
                parts.append(self._read(one, (slice(first, last),)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def dtype(self, name: str) -> torch.dtype:
        """Returns what a parameter is read as."""
        stored = self._stored_names(name)[0]
        return _DTYPES.get(self._held[self._files[stored]][stored][0], torch.float32)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all parameters, one in memory at a time."""
        for name in self._shapes:
            yield name, self.tensor(name)

    def stored_tensors(self) -> list[StoredTensor]:
        """Returns the tensors that make the network, in its order, from the files' headers; none is read."""
        found: list[StoredTensor] = []
        for stored in (stored for name in self._shapes for stored in self._stored_names(name)):
            file = self._files[stored]
            dtype, shape = self._held[file][stored]
            found.append(StoredTensor(stored, tuple(shape), dtype, file))
        return found

    def _read_config(self) -> YuanConfig:
        file = self.path / CONFIG_FILE
        try:
            if not self.native:
                model_type = self.values.get("model_type", "yuan")
                if model_type != "yuan":
                    raise ValueError(f"model_type: {model_type!r} is another network; only 'yuan' is read here")
                return YuanConfig.from_hugging_face(self.values)
            version = self.values.get("schema_version")
            if version != NATIVE_SCHEMA_VERSION:
                raise ValueError(f"schema_version: {version!r} is not {NATIVE_SCHEMA_VERSION}")
            marks = ("layout", "schema_version")
            return YuanConfig.from_dict({key: value for key, value in self.values.items() if key not in marks})
        except (ValueError, TypeError) as error:
            raise ModelFolderError(f"{file}: {error}") from error

    def _stored_names(self, name: str) -> tuple[str, ...]:
        return (name,) if self.native else hugging_face_names(name)

    def _read(self, stored: str, part: tuple[slice, ...] = ()) -> Tensor:
        """Returns a tensor of a file, or a part of it, as a view of the mapped file; of int8 what it stands for."""
        with open_safetensors(self._files[stored]) as file:
            tensor = file.get_slice(stored)[part] if part else file.get_tensor(stored)
            if tensor.dtype != torch.int8:
                return tensor
            scale = file.get_tensor(stored + SCALE_SUFFIX)
            return tensor.float() * (scale[part[0]] if part else scale)

    def _check_names(self) -> None:
        expected = {stored for name in self._shapes for stored in self._stored_names(name)}
        missing = sorted(expected - set(self._files))
        if missing:
            raise ModelFolderError(f"{self.path}: tensor {missing[0]} is missing{_and_more(missing)}")
        for file, held in self._held.items():
            listed = {name for name, where in self._files.items() if where == file}
            for name in sorted(listed - set(held)):
                raise ModelFolderError(f"{file}: tensor {name} is not in this file, where {INDEX_FILE} has it")
            redundant = set[str]() if self.native else {name for name in held if _is_redundant(name)}
            scales = {name + SCALE_SUFFIX for name in expected if self.native and _is_int8(held, name)}
            unknown = sorted(set(held) - expected - redundant - scales)
            if unknown:
                raise ModelFolderError(f"{file}: unknown tensor {unknown[0]}{_and_more(unknown)}")

    def _check_shapes(self) -> None:
        for name, shape in self._shapes.items():
            stored_names = self._stored_names(name)
            wanted = [shape[0] // len(stored_names), *shape[1:]]
            for stored in stored_names:
                file = self._files[stored]
                dtype, found = self._held[file][stored]
                if found != wanted:
                    raise ModelFolderError(f"{file}: tensor {stored} has shape {found}; {CONFIG_FILE} means {wanted}")
                if self.native and dtype == _INT8:
                    scale = self._held[file].get(stored + SCALE_SUFFIX)
                    if scale != ("F32", [found[0], 1]):
                        raise ModelFolderError(
                            f"{file}: tensor {stored} is int8; expected {stored}{SCALE_SUFFIX}, F32 "
                            f"[{found[0]}, 1], beside it"
                        )
                elif dtype not in _DTYPES:
                    raise ModelFolderError(
                        f"{file}: tensor {stored} is stored as {dtype}; expected {', '.join(_DTYPES)}"
                    )

    def _check_tied_head(self) -> None:
        file = self._files.get(TIED_HEAD)
        if file is not None and not torch.equal(self._read(TIED_HEAD), self.tensor("model.embed_tokens.weight")):
            raise ModelFolderError(f"{file}: {TIED_HEAD} differs from the embedding it is tied to")


def _held(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Returns dtype and shape of every tensor in a file, from its header."""
    with open_safetensors(file) as opened:
        names: list[str] = opened.keys()
        slices = {name: opened.get_slice(name) for name in names}
        return {name: (str(part.get_dtype()), list(part.get_shape())) for name, part in slices.items()}


def _tensor_files(folder: Path) -> dict[str, Path]:
    index = folder / INDEX_FILE
    if not index.exists():
        single = folder / SINGLE_FILE
        if not single.exists():
            raise ModelFolderError(f"{folder}: holds neither {INDEX_FILE} nor {SINGLE_FILE}")
        with open_safetensors(single) as file:
            return dict.fromkeys(file.keys(), single)
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFolderError(f"{index}: weight_map is missing")
    files: dict[str, Path] = {}
    for name, file_name in cast("dict[str, object]", weight_map).items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name or not file_name.endswith(_SUFFIX):
            raise ModelFolderError(f"{index}: {name}: {file_name!r} is not the name of a {_SUFFIX} file in this folder")
        files[name] = folder / file_name
    for file in sorted(set(files.values())):
        if not file.exists():
            raise ModelFolderError(f"{file}: missing, though {INDEX_FILE} names it")
    return files


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{file}: missing") from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{file}: not a JSON object")
    return cast("dict[str, Any]", values)


def open_safetensors(file: Path) -> Any:
    """Opens a safetensors file lazily, as the context manager that `safetensors.safe_open` is (it has no types).

    Raises:
        ModelFolderError: if the file is not safetensors.
    """
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(f"{file}: not readable as safetensors: {error}") from error


def _is_redundant(name: str) -> bool:
    """Tensors that published files hold beside the parameters: computed anew here, or tied."""
    return name.endswith(".rotary_emb.inv_freq") or name == TIED_HEAD


def _is_int8(held: Mapping[str, tuple[str, list[int]]], name: str) -> bool:
    return name in held and held[name][0] == _INT8


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
