"""The layout of the original's checkpoints: which file has what, for any tensor size and pipeline stages.

    FOLDER/latest_checkpointed_iteration.txt     a number, or `release`
    FOLDER/iter_0001000/mp_rank_TT[_PPP]/model_optim_rng.pt      TT: tensor rank, PPP: pipeline stage, if more than one

A stage numbers its layers from 0, so counting them gives every layer its place, however uneven the stages are. The last
of several stages has a copy of the tied embedding. Vocabulary rows beyond the arguments' `vocab_size`, where there is
one, are padding. Optimizer states are neither read nor written.
"""

import math
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from yuan_checkpoint.checkpoint import Checkpoint, Held, Origin
from yuan_checkpoint.description import (
    EMBEDDING,
    FINAL_NORM,
    Network,
    StoredTensor,
    TensorRank,
    layer_prefix,
    places_of_layers,
)
from yuan_checkpoint.entries import CheckpointError, Entry
from yuan_checkpoint.targets import FileKind, LayoutError, TargetFile, TargetLayout
from yuan_checkpoint.torch_files import Reference, open_torch_file, tensors_below
from yuan_checkpoint.unpickling import UnreadableFileError, namespace_values
from yuan_model import YuanConfig

TRACKER_FILE = "latest_checkpointed_iteration.txt"
SHARD_FILE = "model_optim_rng.pt"
RELEASE = "release"
HEAD_COPY = "word_embeddings_for_head.weight"
VOCABULARY_MULTIPLE = 128
"""Rows of an embedding are padded to a multiple of it (`make_vocab_size_divisible_by` of the original's scripts)."""

_BODY = "language_model."
_ENCODER = "language_model.encoder."
_SHARD_FOLDER = re.compile(r"mp_rank_(\d{2})(?:_(\d{3}))?")
_ITERATION_FOLDER = re.compile(r"iter_(\d{7,})|release")
_LAYER = re.compile(r"language_model\.encoder\.layers\.(\d+)\.(.+)")
_ROTARY = "rotary_pos_emb"


def rank_tensors(
    network: Network, stages: Sequence[int], rank: TensorRank, stage: int, rows: int
) -> list[StoredTensor]:
    """Returns the tensors of one file, under their paths below `model`.

    Args:
        network: whose.
        stages: layers per pipeline stage.
        rank: tensor rank.
        stage: pipeline stage.
        rows: of the padded embedding.
    """
    found: list[StoredTensor] = []
    if stage == 0:
        found.append(network.share(EMBEDDING, "", _BODY + EMBEDDING.megatron, rank, rows=rows))
    for layer, place, local in places_of_layers(stages):
        if place != stage:
            continue
        for matrix in network.layer_matrices:
            key = f"{_ENCODER}layers.{local}.{matrix.megatron}"
            found.append(network.share(matrix, layer_prefix(layer), key, rank))
    if stage == len(stages) - 1:
        found.append(network.share(FINAL_NORM, "", _ENCODER + FINAL_NORM.megatron, rank))
        if stage:
            found.append(network.share(EMBEDDING, "", HEAD_COPY, rank, rows=rows))
    return found


# --- reading -----------------------------------------------------------------------------------------------------


def is_megatron(folder: Path) -> bool:
    """Says whether a folder is a checkpoint of the original, or one of its iterations."""
    if not folder.is_dir():
        return False
    return (folder / TRACKER_FILE).is_file() or bool(_shard_folders(folder)) or bool(_iterations(folder))


def open_megatron(path: Path, *, strict: bool = True) -> Checkpoint:
    """Opens a checkpoint of the original.

    Raises:
        CheckpointError: if a file or tensor is missing, unreadable, or of another shape than the others mean.
    """
    return _Reader(path).checkpoint(strict=strict)


@dataclass(frozen=True)
class _Shard:
    """One file: where its tensors are by path below `model`, its arguments, its iteration."""

    path: Path
    entries: Mapping[str, Entry]
    arguments: Mapping[str, Any]
    iteration: int | None


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.iteration = _iteration_folder(path)
        self.shards = {place: _read_shard(file) for place, file in _shard_places(self.iteration).items()}
        said = [shard.arguments for shard in self.shards.values() if shard.arguments]
        self.arguments: Mapping[str, Any] = said[0] if said else {}
        self.tensor = 1 + max(rank for rank, _ in self.shards)
        self.pipeline = 1 + max(stage for _, stage in self.shards)
        self._check_whole()
        self._check_iterations()
        self.stages = tuple(_layer_count(self.shards[0, stage]) for stage in range(self.pipeline))

    def checkpoint(self, *, strict: bool) -> Checkpoint:
        rows = self.shards[0, 0].entries[_BODY + EMBEDDING.megatron].shape[0] * self.tensor
        network = Network(self._config(rows))
        held: list[Held] = []
        known: set[tuple[Path, str]] = set()
        for stage in range(self.pipeline):
            for rank in range(self.tensor):
                shard = self.shards[rank, stage]
                for stored in rank_tensors(network, self.stages, TensorRank(rank, self.tensor), stage, rows):
                    entry = shard.entries.get(stored.key)
                    if stored.key == HEAD_COPY and entry is None:
                        continue
                    held.append(Held(shard.path, stored, entry))
                    known.add((shard.path, stored.key))
        unknown = [
            f"{shard.path}: {key.removeprefix(_ENCODER)}"
            for shard in self.shards.values()
            for key in shard.entries
            if (shard.path, key) not in known and _ROTARY not in key
        ]
        tracker = self.path / TRACKER_FILE
        files = [*([tracker] if tracker.is_file() else []), *(shard.path for shard in self.shards.values())]
        step = self.shards[0, 0].iteration
        origin = Origin("megatron", self.tensor, self.stages, step, self.arguments)
        return Checkpoint(self.path, origin, network, held, files=files, unknown=unknown, strict=strict)

    def _check_whole(self) -> None:
        """Checks that no file is missing: neither inside the grid of those that are there, nor behind its last."""
        first = self.shards.get((0, 0))
        values = None if first is None else first.entries.get(f"{_ENCODER}layers.0.self_attention.get_value.weight")
        if values is not None and len(values.shape) == 2:
            self.tensor = max(self.tensor, values.shape[1] // max(1, values.shape[0]))
        said = self.arguments.get("pipeline_model_parallel_size")
        last = self.shards.get((0, self.pipeline - 1))
        norm = _ENCODER + FINAL_NORM.megatron
        if (last is None or norm not in last.entries) and isinstance(said, int):
            self.pipeline = max(self.pipeline, said)
        for stage in range(self.pipeline):
            for rank in range(self.tensor):
                if (rank, stage) not in self.shards:
                    file = self.iteration / rank_folder(rank, stage, self.pipeline) / SHARD_FILE
                    grid = f"tensor size {self.tensor} and {self.pipeline} pipeline stages"
                    raise CheckpointError(f"{file}: missing; the checkpoint has {grid}")
        for stage, name in ((0, _BODY + EMBEDDING.megatron), (self.pipeline - 1, norm)):
            shard = self.shards[0, stage]
            if name not in shard.entries:
                short = name.removeprefix(_ENCODER).removeprefix(_BODY)
                raise CheckpointError(f"{shard.path}: tensor {short} is missing; is a stage missing?")
            if not shard.entries[name].shape:
                raise CheckpointError(f"{shard.path}: tensor {name} has no dimensions")

    def _check_iterations(self) -> None:
        first = self.shards[0, 0]
        for shard in self.shards.values():
            if shard.iteration != first.iteration:
                raise CheckpointError(
                    f"{shard.path}: is of iteration {shard.iteration}, {first.path} of {first.iteration}; "
                    "files of two iterations are mixed"
                )

    def _config(self, rows: int) -> YuanConfig:
        file, said = self.shards[0, 0].path, self.arguments

        def argument(name: str) -> Any:
            if said.get(name) is None:
                raise CheckpointError(f"{file}: its args have no {name}")
            return said[name]

        if said.get("untie_embeddings_and_output_weights"):
            raise CheckpointError(f"{file}: untied output weights are another network than Yuan's")
        layers, counted = argument("num_layers"), sum(self.stages)
        if layers != counted:
            raise CheckpointError(f"{self.path}: its stages have {counted} layers, its args say {layers}")
        embedding = self.shards[0, 0].entries[_BODY + EMBEDDING.megatron]
        heads, hidden = argument("num_attention_heads"), math.prod(embedding.shape[1:])
        vocabulary = said.get("vocab_size")
        padded = type(vocabulary) is int and 0 < vocabulary <= rows
        # Of what was written here; the original's own arguments have no such thing.
        eod = said.get("eod_token_id")
        ended = isinstance(eod, int)
        try:
            if said.get("kv_channels") not in (None, hidden // heads):
                raise CheckpointError(f"{file}: heads of width {said['kv_channels']} are not Yuan's")
            return YuanConfig(
                vocab_size=cast("int", vocabulary) if padded else rows,
                hidden_size=hidden,
                num_hidden_layers=counted,
                num_attention_heads=heads,
                intermediate_size=argument("ffn_hidden_size"),
                max_position_embeddings=argument("max_position_embeddings"),
                localized_filtering=any(".lf_gate." in key for one in self.shards.values() for key in one.entries),
                eod_token_id=eod if isinstance(eod, int) else None,
                initializer_range=said.get("init_method_std") or 0.02,
                rope_precision=said.get("rope_precision", "fp32"),
                attention_reset_at_eod=ended and said.get("reset_attention_mask") is True,
            )
        except (ArithmeticError, ValueError, TypeError) as error:
            raise CheckpointError(f"{file}: {error}") from error


def rank_folder(rank: int, stage: int, stages: int) -> str:
    """Returns the name of a rank's folder."""
    return f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if stages > 1 else "")


def _iteration_folder(folder: Path) -> Path:
    if _shard_folders(folder):
        return folder
    tracker = folder / TRACKER_FILE
    there = _iterations(folder)
    if not tracker.is_file():
        if len(there) == 1:
            return folder / there[0]
        raise CheckpointError(f"{folder}: holds {' and '.join(there)} and no {TRACKER_FILE}; name one of those folders")
    try:
        said = tracker.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{tracker}: not readable: {error}") from error
    if said != RELEASE and not (said.isascii() and said.isdecimal() and int(said) > 0):
        raise CheckpointError(f"{tracker}: expected the number of an iteration or `release`, found {said[:40]!r}")
    iteration = folder / iteration_folder(said)
    if not _shard_folders(iteration):
        others = f"; {', '.join(there)} is there" if there else ""
        raise CheckpointError(f"{iteration}: holds no mp_rank_ folder, though {TRACKER_FILE} names it{others}")
    return iteration


def iteration_folder(said: str) -> str:
    """Returns the folder that a tracker's word means."""
    return said if said == RELEASE else f"iter_{int(said):07d}"


def _iterations(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if _ITERATION_FOLDER.fullmatch(one.name) and _shard_folders(one))


def _shard_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("mp_rank_*") if _SHARD_FOLDER.fullmatch(path.name))


def _shard_places(iteration: Path) -> dict[tuple[int, int], Path]:
    """Returns every shard's file by tensor rank and pipeline stage."""
    places: dict[tuple[int, int], Path] = {}
    for folder in _shard_folders(iteration):
        tensor, stage = cast("re.Match[str]", _SHARD_FOLDER.fullmatch(folder.name)).groups()
        place = int(tensor), int(stage or 0)
        if place in places:
            raise CheckpointError(
                f"{folder}: is the same rank as {places[place].parent.name}; two checkpoints are mixed"
            )
        places[place] = folder / SHARD_FILE
    return places


def _read_shard(file: Path) -> _Shard:
    try:
        opened = open_torch_file(file)
    except UnreadableFileError as error:
        raise CheckpointError(str(error)) from error
    whole: Any = opened.content
    content = cast("dict[str, Any]", whole) if isinstance(whole, dict) else {}
    if "model0" in content:
        raise CheckpointError(f"{file}: virtual pipeline stages (model0, model1 …) are not read; save without them")
    model = content.get("model")
    body = cast("dict[str, Any]", model).get("language_model") if isinstance(model, dict) else None
    if not isinstance(body, dict):
        raise CheckpointError(f"{file}: has no model.language_model; it is not a checkpoint of Yuan 2.0")
    entries = {key: opened.entry(key, tensor) for key, tensor in tensors_below(model)}
    iteration = content.get("iteration")
    said = namespace_values(content.get("args"))
    return _Shard(file, entries, said, iteration if type(iteration) is int else None)


def _layer_count(shard: _Shard) -> int:
    found = {int(match[1]) for name in shard.entries if (match := _LAYER.fullmatch(name))}
    return max(found) + 1 if found else 0


# --- writing -----------------------------------------------------------------------------------------------------


def megatron_target(
    network: Network,
    tensor: int,
    stages: Sequence[int],
    *,
    iteration: str = RELEASE,
    multiple: int = VOCABULARY_MULTIPLE,
    values: Mapping[str, Any] | None = None,
) -> TargetLayout:
    """Returns what files a checkpoint of the original has.

    Args:
        network: whose.
        tensor: tensor ranks.
        stages: layers per pipeline stage.
        iteration: a number, or `release`.
        multiple: rows of the embedding are padded to a multiple of it and of `tensor`.
        values: arguments to take over, where the source has some.

    Raises:
        LayoutError: if tensor size or stages do not fit to the network, or the original has no such network.
    """
    config = network.config
    _check_division(config, tensor, stages)
    whole = math.lcm(multiple, tensor)
    rows = -(-config.vocab_size // whole) * whole
    step = 0 if iteration == RELEASE else int(iteration)
    division = {
        "tensor_model_parallel_size": tensor,
        "pipeline_model_parallel_size": len(stages),
        "transformer_pipeline_model_parallel_size": len(stages),
        "pipeline_model_parallel_method": "block" if len(stages) > 1 else None,
        "pipeline_model_parallel_blocks": ",".join(str(count) for count in stages) if len(stages) > 1 else None,
        "pipeline_blocks": list(stages),
        "virtual_pipeline_model_parallel_size": None,
        "make_vocab_size_divisible_by": multiple,
        "padded_vocab_size": rows,
        "iteration": step,
    }
    arguments = {**_arguments(config, values or {}), **division}
    files: list[TargetFile] = []
    for stage in range(len(stages)):
        for rank in range(tensor):
            tensors = rank_tensors(network, stages, TensorRank(rank, tensor), stage, rows)
            tree = {
                "args": Namespace(**arguments),
                "checkpoint_version": 3.0,
                "iteration": step,
                "model": _nested(tensors),
            }
            path = f"{iteration_folder(iteration)}/{rank_folder(rank, stage, len(stages))}/{SHARD_FILE}"
            files.append(TargetFile(path, FileKind.torch, tuple(tensors), tree))
    return TargetLayout("megatron", tuple(files), lambda _bytes, _dtypes: [(TRACKER_FILE, iteration)])


def _check_division(config: YuanConfig, tensor: int, stages: Sequence[int]) -> None:
    if sum(stages) != config.num_hidden_layers:
        told = ", ".join(str(count) for count in stages)
        raise LayoutError(f"stages: {told} are {sum(stages)} layers; the model has {config.num_hidden_layers}")
    for what, size in (
        ("attention heads", config.num_attention_heads),
        ("intermediate size", config.intermediate_size),
    ):
        if size % tensor:
            raise LayoutError(f"tensor: {tensor} does not divide the model's {what}, {size}")
    if config.rope_theta != 10000.0:
        raise LayoutError(f"rope_theta: {config.rope_theta} has no Megatron form; the original has 10000")
    if config.rms_norm_eps != 1e-6:
        raise LayoutError(f"rms_norm_eps: {config.rms_norm_eps} has no Megatron form; the original has 1e-6")


def _nested(tensors: Sequence[StoredTensor]) -> dict[str, Any]:
    """Returns the tables in which the original looks for its tensors; those of the encoder lie flat in one."""
    encoder: dict[str, Any] = {}
    model: dict[str, Any] = {"language_model": {"encoder": encoder}}
    for one in tensors:
        if one.key.startswith(_ENCODER):
            encoder[one.key.removeprefix(_ENCODER)] = Reference(one.key)
        elif one.key == HEAD_COPY:
            model["word_embeddings_for_head"] = {"weight": Reference(one.key)}
        else:
            model["language_model"]["embedding"] = {"word_embeddings": {"weight": Reference(one.key)}}
    return model


def _arguments(config: YuanConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the original's arguments as far as they say which network it is."""
    plain = (bool, int, float, str, type(None))
    kept = {key: value for key, value in values.items() if isinstance(value, plain)}
    return {
        "position_embedding_type": "rope",
        "rotary_percent": 1.0,
        "norm_dtype": "RMSNorm",
        "swiglu": True,
        "add_bias_linear": False,
        "add_position_embedding": True,
        "use_lf_gate": config.localized_filtering,
        "lf_conv2d_group": 1,
        "lf_conv2d_num_pad": 1,
        "reset_position_ids": True,
        "reset_attention_mask": config.attention_reset_at_eod,
        "tokenizer_type": "YuanTokenizer",
        **kept,
        "num_layers": config.num_hidden_layers,
        "encoder_num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "kv_channels": config.head_dim,
        "seq_length": kept.get("seq_length", config.max_position_embeddings),
        "max_position_embeddings": config.max_position_embeddings,
        "untie_embeddings_and_output_weights": False,
        "vocab_size": config.vocab_size,
        "eod_token_id": config.eod_token_id,
        "rope_precision": config.rope_precision,
        "init_method_std": config.initializer_range,
    }
