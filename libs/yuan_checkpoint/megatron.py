"""Reads checkpoints of the original (Megatron layout), of any tensor and pipeline size, under native names.

    FOLDER/latest_checkpointed_iteration.txt     a number, or `release`
    FOLDER/iter_0001000/mp_rank_TT[_PPP]/model_optim_rng.pt      TT: tensor rank, PPP: pipeline stage, if more than one

A stage numbers its layers from 0, so counting them gives every layer its place, however uneven the stages are. How each
matrix is divided over tensor ranks is said once, in `LAYER_RULES` and `TensorRule`; sizes that a file does not
say follow from its tensors. Optimizer states are not read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from yuan_checkpoint.unpickling import UnreadableFileError, load_inertly, namespace_values
from yuan_model import ModelFolderError, YuanConfig, parameter_shapes

TRACKER_FILE = "latest_checkpointed_iteration.txt"
SHARD_FILE = "model_optim_rng.pt"
EMBEDDING = "embedding.word_embeddings.weight"
"""How the embedding is called here: its place in the nested tables of a first stage."""

_SHARD_FOLDER = re.compile(r"mp_rank_(\d{2})(?:_(\d{3}))?")
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


class Split(Enum):
    """How a matrix is divided over tensor ranks.

    WHOLE: not at all, every rank has it. ROWS, COLUMNS: in equal runs of them. ROWS_OF_HALVES: in equal runs of the
    rows of its upper half, and the same of its lower half below (a rank's own SwiGLU cuts its matrix in two).
    """

    WHOLE = "whole"
    ROWS = "rows"
    COLUMNS = "columns"
    ROWS_OF_HALVES = "rows of halves"


@dataclass(frozen=True)
class TensorRule:
    """One tensor of the layout.

    Attributes:
        name: in the layout; of a layer, without `layers.N.`.
        native: the network's tensors that it is, one below the other; of a layer, without `model.layers.N.`.
        split: how tensor ranks share it.
    """

    name: str
    native: tuple[str, ...]
    split: Split

    def join(self, shards: Sequence[Tensor]) -> Tensor:
        """Returns the whole matrix from the tensor ranks' shares, in the order of ranks."""
        if self.split == Split.WHOLE or len(shards) == 1:
            return shards[0]
        if self.split == Split.ROWS_OF_HALVES:
            halves = [shard.chunk(2) for shard in shards]
            return torch.cat([half[part] for part in (0, 1) for half in halves])
        return torch.cat(list(shards), dim=0 if self.split == Split.ROWS else 1)

    def divide(self, whole: Tensor, ranks: int) -> list[Tensor]:
        """Returns the tensor ranks' shares of the whole matrix: what `join` puts together again."""
        if self.split == Split.WHOLE:
            return [whole] * ranks
        if self.split == Split.ROWS_OF_HALVES:
            upper, lower = (half.chunk(ranks) for half in whole.chunk(2))
            return [torch.cat(pair) for pair in zip(upper, lower, strict=True)]
        return list(whole.chunk(ranks, dim=0 if self.split == Split.ROWS else 1))


LAYER_RULES = (
    TensorRule("input_layernorm.weight", ("input_layernorm.weight",), Split.WHOLE),
    TensorRule("self_attention.get_value.weight", ("self_attn.v_proj.weight",), Split.ROWS),
    # Rows are grouped by head (its query, its key), so equal runs of them are whole heads: what is native here.
    TensorRule("self_attention.get_query_key.weight", ("self_attn.qk_proj.weight",), Split.ROWS),
    TensorRule("self_attention.dense.weight", ("self_attn.o_proj.weight",), Split.COLUMNS),
    TensorRule("post_attention_layernorm.weight", ("post_attention_layernorm.weight",), Split.WHOLE),
    TensorRule("mlp.dense_h_to_4h.weight", ("mlp.up_proj.weight", "mlp.gate_proj.weight"), Split.ROWS_OF_HALVES),
    TensorRule("mlp.dense_4h_to_h.weight", ("mlp.down_proj.weight",), Split.COLUMNS),
    *(
        TensorRule(f"self_attention.lf_gate.{name}", (f"self_attn.lf_gate.{name}",), Split.WHOLE)
        for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "output_layernorm.weight")
    ),
)
"""Of every layer."""

EMBEDDING_RULE = TensorRule(EMBEDDING, ("model.embed_tokens.weight",), Split.ROWS)
NORM_RULE = TensorRule("final_layernorm.weight", ("model.norm.weight",), Split.WHOLE)

Shard = Mapping[str, Tensor]
"""Tensors of one file: those of the encoder under their names there, and `EMBEDDING` on a first stage."""


def is_megatron(folder: Path) -> bool:
    """Says whether a folder is a checkpoint of the original, or one of its iterations."""
    return (folder / TRACKER_FILE).is_file() or bool(_shard_folders(folder))


class MegatronFolder:
    """A checked Megatron checkpoint, whose tensors are joined as they are read.

    Attributes:
        path: the folder.
        config: of the network, as its tensors and its arguments say; `eod_token_id` is not said there.
        files: those that hold the model.
        tensor: tensor ranks. stages: layers per pipeline stage.

    Raises:
        ModelFolderError: if a file or tensor is missing, unreadable, or of another shape than the others mean.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        iteration = _iteration_folder(self.path)
        places = _shard_places(iteration)
        self._shards: dict[tuple[int, int], Shard] = {}
        arguments: dict[str, Any] = {}
        for place, file in places.items():
            tensors, said = _read_shard(file)
            self._shards[place] = tensors
            arguments = arguments or said
        self._files = places
        self.tensor = 1 + max(tensor for tensor, _ in places)
        self.pipeline = 1 + max(stage for _, stage in places)
        self._check_whole(iteration, arguments)
        self.stages = tuple(_layer_count(self._shards[0, stage]) for stage in range(self.pipeline))
        self.config = self._config(arguments)
        self._check_shapes()

    @property
    def files(self) -> list[Path]:
        """The files that make the model."""
        tracker = self.path / TRACKER_FILE
        return [*([tracker] if tracker.is_file() else []), *self._files.values()]

    @property
    def names(self) -> list[str]:
        """Native names of all parameters, in the order of the network."""
        return list(parameter_shapes(self.config))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all parameters under their native names, one layout tensor in memory at a time."""
        yield from self._joined(EMBEDDING_RULE, 0, EMBEDDING, "")
        for index, (stage, local) in enumerate(_places_of_layers(self.stages)):
            for rule in self._layer_rules():
                yield from self._joined(rule, stage, f"layers.{local}.{rule.name}", f"model.layers.{index}.")
        yield from self._joined(NORM_RULE, self.pipeline - 1, NORM_RULE.name, "")

    def _joined(self, rule: TensorRule, stage: int, name: str, prefix: str) -> Iterator[tuple[str, Tensor]]:
        whole = rule.join([self._shards[rank, stage][name] for rank in range(self.tensor)])
        yield from zip((prefix + native for native in rule.native), whole.chunk(len(rule.native)), strict=True)

    def _layer_rules(self) -> list[TensorRule]:
        filtered = self.config.localized_filtering
        return [rule for rule in LAYER_RULES if filtered or ".lf_gate." not in rule.name]

    def _check_whole(self, iteration: Path, arguments: Mapping[str, Any]) -> None:
        """Checks that no file is missing: neither inside the grid of those that are there, nor behind its last."""
        first = self._shards.get((0, 0))
        if first is not None and "layers.0.self_attention.get_value.weight" in first:
            values = first["layers.0.self_attention.get_value.weight"]
            self.tensor = max(self.tensor, values.shape[1] // max(1, values.shape[0]))
        said = arguments.get("pipeline_model_parallel_size")
        last = self._shards.get((0, self.pipeline - 1), {})
        if NORM_RULE.name not in last and isinstance(said, int):
            self.pipeline = max(self.pipeline, said)
        for stage in range(self.pipeline):
            for rank in range(self.tensor):
                if (rank, stage) not in self._shards:
                    name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if self.pipeline > 1 else "")
                    grid = f"tensor size {self.tensor} and {self.pipeline} pipeline stages"
                    raise ModelFolderError(f"{iteration / name / SHARD_FILE}: missing; the checkpoint has {grid}")
        for stage, name in ((0, EMBEDDING), (self.pipeline - 1, NORM_RULE.name)):
            if name not in self._shards[0, stage]:
                raise ModelFolderError(f"{self._files[0, stage]}: tensor {name} is missing; is a stage missing?")

    def _config(self, arguments: Mapping[str, Any]) -> YuanConfig:
        def argument(name: str) -> Any:
            if arguments.get(name) is None:
                raise ModelFolderError(f"{self._files[0, 0]}: its args have no {name}")
            return arguments[name]

        if arguments.get("untie_embeddings_and_output_weights"):
            raise ModelFolderError(f"{self._files[0, 0]}: untied output weights are another network than Yuan's")
        said, counted = argument("num_layers"), sum(self.stages)
        if said != counted:
            raise ModelFolderError(f"{self.path}: its stages have {counted} layers, its args say {said}")
        first = self._shards[0, 0]
        heads, hidden = argument("num_attention_heads"), first[EMBEDDING].shape[1]
        if arguments.get("kv_channels") not in (None, hidden // heads):
            raise ModelFolderError(f"{self._files[0, 0]}: heads of width {arguments['kv_channels']} are not Yuan's")
        try:
            return YuanConfig(
                vocab_size=first[EMBEDDING].shape[0] * self.tensor,
                hidden_size=hidden,
                num_hidden_layers=counted,
                num_attention_heads=heads,
                intermediate_size=argument("ffn_hidden_size"),
                max_position_embeddings=argument("max_position_embeddings"),
                localized_filtering=any(".lf_gate." in name for shard in self._shards.values() for name in shard),
            )
        except (ValueError, TypeError) as error:
            raise ModelFolderError(f"{self._files[0, 0]}: {error}") from error

    def _check_shapes(self) -> None:
        shapes = parameter_shapes(self.config)
        places = _places_of_layers(self.stages)
        wanted = [(EMBEDDING_RULE, 0, EMBEDDING, ""), (NORM_RULE, self.pipeline - 1, NORM_RULE.name, "")]
        for index, (stage, local) in enumerate(places):
            prefix = f"model.layers.{index}."
            wanted += [(rule, stage, f"layers.{local}.{rule.name}", prefix) for rule in self._layer_rules()]
        known = {(stage, name) for _, stage, name, _ in wanted}
        for rule, stage, name, prefix in wanted:
            rows = sum(shapes[prefix + native][0] for native in rule.native)
            whole = torch.empty(rows, *shapes[prefix + rule.native[0]][1:], device="meta")
            for rank, share in enumerate(rule.divide(whole, self.tensor)):
                self._check_shard(rank, stage, name, share.shape)
        for (rank, stage), shard in self._shards.items():
            unknown = sorted(name for name in shard if (stage, name) not in known)
            if unknown:
                raise ModelFolderError(f"{self._files[rank, stage]}: unknown tensor {unknown[0]}")

    def _check_shard(self, rank: int, stage: int, name: str, shape: torch.Size) -> None:
        file, tensor = self._files[rank, stage], self._shards[rank, stage].get(name)
        if tensor is None:
            raise ModelFolderError(f"{file}: tensor {name} is missing")
        if tensor.shape != shape:
            raise ModelFolderError(f"{file}: tensor {name} has shape {list(tensor.shape)}; expected {list(shape)}")


def _iteration_folder(folder: Path) -> Path:
    if _shard_folders(folder):
        return folder
    tracker = folder / TRACKER_FILE
    try:
        said = tracker.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{tracker}: not readable: {error}") from error
    if said != "release" and not (said.isascii() and said.isdecimal() and int(said) > 0):
        raise ModelFolderError(f"{tracker}: expected the number of an iteration or `release`, found {said[:40]!r}")
    iteration = folder / (said if said == "release" else f"iter_{int(said):07d}")
    if not _shard_folders(iteration):
        raise ModelFolderError(f"{iteration}: holds no mp_rank_ folder, though {TRACKER_FILE} names it")
    return iteration


def _shard_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("mp_rank_*") if _SHARD_FOLDER.fullmatch(path.name))


def _shard_places(iteration: Path) -> dict[tuple[int, int], Path]:
    """Returns every shard's file by tensor rank and pipeline stage."""
    places: dict[tuple[int, int], Path] = {}
    for folder in _shard_folders(iteration):
        tensor, stage = cast("re.Match[str]", _SHARD_FOLDER.fullmatch(folder.name)).groups()
        places[int(tensor), int(stage or 0)] = folder / SHARD_FILE
    return places


def _read_shard(file: Path) -> tuple[Shard, dict[str, Any]]:
    """Returns a file's tensors of the model, and its arguments."""
    try:
        content = load_inertly(file)
    except UnreadableFileError as error:
        raise ModelFolderError(str(error)) from error
    if isinstance(content, dict) and "model0" in content:
        raise ModelFolderError(f"{file}: virtual pipeline stages (model0, model1 …) are not read; save without them")
    model = _below(content, "model", "language_model")
    if model is None:
        raise ModelFolderError(f"{file}: has no model.language_model; it is not a checkpoint of Yuan 2.0")
    tensors = {name: value for name, value in (_below(model, "encoder") or {}).items() if isinstance(value, Tensor)}
    embedding = _below(model, "embedding", "word_embeddings")
    if embedding is not None and isinstance(embedding.get("weight"), Tensor):
        tensors[EMBEDDING] = embedding["weight"]
    # `word_embeddings_for_head` of a last stage is a copy of the tied embedding.
    return tensors, namespace_values(cast("dict[str, Any]", content).get("args"))


def _below(tree: Any, *keys: str) -> dict[str, Any] | None:
    for key in keys:
        tree = cast("dict[str, Any]", tree).get(key) if isinstance(tree, dict) else None
    return cast("dict[str, Any]", tree) if isinstance(tree, dict) else None


def _layer_count(shard: Shard) -> int:
    found = {int(match[1]) for name in shard if (match := _LAYER.fullmatch(name))}
    return max(found) + 1 if found else 0


def _places_of_layers(stages: Sequence[int]) -> list[tuple[int, int]]:
    """Returns stage and number there of every layer, in the order of the network."""
    return [(stage, local) for stage, count in enumerate(stages) for local in range(count)]
