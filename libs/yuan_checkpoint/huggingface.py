"""The layout of the published Hugging Face files, as a conversion writes it; `folders` reads it.

The fused query and key matrix is cut in the middle (`q_proj`, `k_proj`: each queries and keys of half of the heads),
`rotary_emb.inv_freq` is written too since the published code keeps it as a persistent buffer, and the tied
`lm_head.weight` is not. The code that `transformers` runs is ours and goes along (`huggingface_files`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yuan_checkpoint.checkpoint import TensorsInMemory
from yuan_checkpoint.conversion import Conversion, write_checkpoint
from yuan_checkpoint.description import EMBEDDING, FINAL_NORM, Network, StoredTensor, layer_prefix
from yuan_checkpoint.files import json_text
from yuan_checkpoint.huggingface_files import companion_config, companion_texts
from yuan_checkpoint.targets import FileKind, TargetFile, TargetLayout
from yuan_checkpoint.torch_files import Reference
from yuan_model import ModelFolderError, YuanConfig
from yuan_model.folder import CONFIG_FILE, INDEX_FILE, SINGLE_FILE

SHARD_BYTES = 5 * 10**9
"""Tensors of one file at most, as `transformers` does."""

PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"


def huggingface_tensors(network: Network) -> list[StoredTensor]:
    """Returns the tensors that make the network, in its order, under their published names."""
    found = network.parts(EMBEDDING, "", EMBEDDING.huggingface)
    for layer in range(network.config.num_hidden_layers):
        prefix = layer_prefix(layer)
        for matrix in network.layer_matrices:
            found += network.parts(matrix, prefix, [prefix + name for name in matrix.huggingface])
    return found + network.parts(FINAL_NORM, "", FINAL_NORM.huggingface)


def huggingface_target(
    network: Network,
    dtypes: Mapping[str, torch.dtype],
    *,
    kind: FileKind = FileKind.safetensors,
    shard_bytes: int = SHARD_BYTES,
    sep_token_id: int | None = None,
    tokenizer: Path | None = None,
) -> TargetLayout:
    """Returns what files a Hugging Face folder has.

    Args:
        network: whose.
        dtypes: number format that each parameter is written in: it decides where a new file begins.
        kind: safetensors, or the older `.bin` of torch.save.
        shard_bytes: a new file is begun where the next tensor would go beyond.
        sep_token_id: written to the config, where known; the network has no use for it.
        tokenizer: folder with the `tokenizer.model` that the caller copies beside the weights; None: there is none.
    """
    config = network.config
    shards = _shards([*huggingface_tensors(network), *_rotary_buffers(config)], dtypes, shard_bytes)
    single, index, stem = (
        (SINGLE_FILE, INDEX_FILE, "model-{}-of-{}.safetensors")
        if kind == FileKind.safetensors
        else (PICKLE_FILE, PICKLE_INDEX_FILE, "pytorch_model-{}-of-{}.bin")
    )
    files = tuple(
        TargetFile(
            single if len(shards) == 1 else stem.format(f"{number:05d}", f"{len(shards):05d}"),
            kind,
            tuple(shard),
            {one.key: Reference(one.key) for one in shard},
        )
        for number, shard in enumerate(shards, start=1)
    )

    def texts(total: int, written: Mapping[str, torch.dtype]) -> list[tuple[str, str]]:
        weight_map = {one.key: file.path for file in files for one in file.tensors}
        values = hugging_face_config(config, written[EMBEDDING.huggingface[0]], sep_token_id)
        found = companion_texts(config, tokenizer)
        if len(files) > 1:
            found.append((index, json_text({"metadata": {"total_size": total}, "weight_map": weight_map})))
        return [*found, (CONFIG_FILE, json_text(values))]

    return TargetLayout("huggingface", files, texts)


def write_hugging_face(
    folder: Path,
    config: YuanConfig,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype | None = None,
    *,
    sep_token_id: int | None = None,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a whole model that is in memory.

    Args:
        folder: made if it is not there.
        config: of the network.
        tensors: (native name, tensor) pairs, in any order.
        dtype: to write in; None keeps each tensor's own.
        sep_token_id: written to the config, where known; the network has no use for it.
        tokenizer: as of `huggingface_target`.
        shard_bytes: a new file is begun where the next tensor would go beyond.

    Raises:
        ModelFolderError: naming the tensor that is missing, unknown or of another shape.
    """
    network = Network(config)
    source = TensorsInMemory(network, _checked(folder, network, tensors))
    dtypes = {name: dtype or source.dtype(name) for name in network.shapes}
    target = huggingface_target(
        network, dtypes, shard_bytes=shard_bytes, sep_token_id=sep_token_id, tokenizer=tokenizer
    )
    write_checkpoint(Conversion(source, network, target, dtype), folder)


def hugging_face_config(config: YuanConfig, dtype: torch.dtype, sep_token_id: int | None = None) -> dict[str, Any]:
    """Returns `config.json` with the keys of the published ones."""
    eod = config.eod_token_id
    special = ("pad_token_id", "bos_token_id", "eos_token_id", "eod_token")
    return {
        "architectures": ["YuanForCausalLM"],
        "model_type": "yuan",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "hidden_act": "silu",
        "model_max_length": config.max_position_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.rms_norm_eps,
        "use_cache": True,
        "tie_word_embeddings": True,
        "causal_mask": True,
        "use_flash_attention": False,
        "reset_attention_mask": config.attention_reset_at_eod,
        "reset_position_ids": config.attention_reset_at_eod,
        "use_loss_mask": False,
        "dropout": 0,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **({} if eod is None else dict.fromkeys(special, eod)),
        **({} if sep_token_id is None else {"sep_token": sep_token_id}),
        **companion_config(config),
    }


def _checked(folder: Path, network: Network, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the tensors by name, each one checked."""
    shapes = dict(network.shapes)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        shape = shapes.pop(name, None)
        if shape is None:
            raise ModelFolderError(f"{folder}: tensor {name} is unknown or came twice")
        if tensor.shape != shape:
            raise ModelFolderError(f"{folder}: tensor {name} has shape {list(tensor.shape)}, not {list(shape)}")
        found[name] = tensor
    if shapes:
        raise ModelFolderError(f"{folder}: tensor {min(shapes)} is missing")
    return found


def _rotary_buffers(config: YuanConfig) -> list[StoredTensor]:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    values = tuple(float(frequency) for frequency in 1.0 / config.rope_theta**exponents)
    return [
        StoredTensor(f"{layer_prefix(layer)}self_attn.rotary_emb.inv_freq", (len(values),), constant=values)
        for layer in range(config.num_hidden_layers)
    ]


def _shards(
    tensors: Sequence[StoredTensor], dtypes: Mapping[str, torch.dtype], shard_bytes: int
) -> list[list[StoredTensor]]:
    shards: list[list[StoredTensor]] = [[]]
    held = 0
    for one in tensors:
        item = max((dtypes[piece.name].itemsize for piece in one.pieces), default=4)
        size = math.prod(one.shape) * item
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(one)
        held += size
    return shards
