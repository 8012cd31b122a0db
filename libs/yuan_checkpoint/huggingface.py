"""Writes the layout of the published Hugging Face files. Reading it is `yuan_model.ModelFolder`.

The fused query and key matrix is cut in the middle (`q_proj`, `k_proj`: each queries and keys of half of the heads),
`rotary_emb.inv_freq` is written too since the published code keeps it as a persistent buffer, and the tied
`lm_head.weight` is not. The code that `transformers` runs is ours and goes along (`huggingface_files`).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yuan_checkpoint.files import TEMPORARY_SUFFIX, write_json, write_tensors, write_text
from yuan_checkpoint.huggingface_files import companion_config, companion_texts
from yuan_events import InputError
from yuan_model import ModelFolderError, YuanConfig, parameter_shapes
from yuan_model.folder import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, hugging_face_names

SHARD_BYTES = 5 * 10**9
"""Tensors of one file at most, as `transformers` does."""


class LayoutError(InputError):
    """A network that a layout has no way to say."""


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
    """Writes a whole model; holds one shard's tensors at a time.

    Args:
        folder: made if it is not there.
        config: of the network.
        tensors: (native name, tensor) pairs, in any order.
        dtype: to write in; None keeps each tensor's own.
        sep_token_id: written to the config, where known; the network has no use for it.
        tokenizer: folder with the `tokenizer.model` that the caller copies beside the weights; None: there is none.
        shard_bytes: a new file is begun where the next tensor would go beyond.

    Raises:
        ModelFolderError: naming the tensor that is missing, unknown or of another shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[tuple[Path, list[str]]] = []
    total_bytes, stored_dtype = 0, dtype or torch.float32
    for shard in _shards(_checked(folder, config, tensors, dtype), shard_bytes):
        file = folder / f"model-{len(files) + 1:05d}.safetensors{TEMPORARY_SUFFIX}"
        write_tensors(file, shard)
        files.append((file, list(shard)))
        total_bytes += sum(tensor.nbytes for tensor in shard.values())
        stored_dtype = shard.get("model.embed_tokens.weight", torch.empty(0, dtype=stored_dtype)).dtype
    weight_map: dict[str, str] = {}
    for number, (file, names) in enumerate(files, start=1):
        final = SINGLE_FILE if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        file.replace(folder / final)
        weight_map.update(dict.fromkeys(names, final))
    if len(files) > 1:
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
    for name, text in companion_texts(config, tokenizer):
        write_text(folder / name, text)
    write_json(folder / CONFIG_FILE, hugging_face_config(config, stored_dtype, sep_token_id))


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


def _checked(
    folder: Path, config: YuanConfig, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """Yields tensors under their Hugging Face names, each native one checked, then the rotary buffers."""
    shapes = parameter_shapes(config)
    for name, tensor in tensors:
        shape = shapes.pop(name, None)
        if shape is None:
            raise ModelFolderError(f"{folder}: tensor {name} is unknown or came twice")
        if tensor.shape != shape:
            raise ModelFolderError(f"{folder}: tensor {name} has shape {list(tensor.shape)}, not {list(shape)}")
        names = hugging_face_names(name)
        yield from zip(names, tensor.to(dtype=dtype).chunk(len(names)), strict=True)
    if shapes:
        raise ModelFolderError(f"{folder}: tensor {min(shapes)} is missing")
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    for layer in range(config.num_hidden_layers):
        yield f"model.layers.{layer}.self_attn.rotary_emb.inv_freq", 1.0 / config.rope_theta**exponents


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        if shard and held + tensor.nbytes > shard_bytes:
            yield shard
            shard, held = {}, 0
        shard[name] = tensor
        held += tensor.nbytes
    yield shard
