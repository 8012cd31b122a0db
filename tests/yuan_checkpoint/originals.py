"""Checkpoints as the original writes them, made here by hand from native tensors: no code of ours divides anything."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yuan_model import YuanConfig, parameter_shapes

SHARD_FILE = "model_optim_rng.pt"
TRACKER_FILE = "latest_checkpointed_iteration.txt"
_WHOLE = {
    "input_layernorm.weight": "input_layernorm.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.lf_gate.conv1.weight": "self_attn.lf_gate.conv1.weight",
    "self_attention.lf_gate.conv1.bias": "self_attn.lf_gate.conv1.bias",
    "self_attention.lf_gate.conv2.weight": "self_attn.lf_gate.conv2.weight",
    "self_attention.lf_gate.conv2.bias": "self_attn.lf_gate.conv2.bias",
    "self_attention.lf_gate.output_layernorm.weight": "self_attn.lf_gate.output_layernorm.weight",
}


def random_tensors(config: YuanConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in parameter_shapes(config).items()}


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.contiguous().view(torch.uint8).numpy().tobytes()


def rows_of(tensor: Tensor, rank: int, ranks: int) -> Tensor:
    size = len(tensor) // ranks
    return tensor[rank * size : (rank + 1) * size]


def columns_of(tensor: Tensor, rank: int, ranks: int) -> Tensor:
    size = tensor.shape[1] // ranks
    return tensor[:, rank * size : (rank + 1) * size]


def rank_model(
    config: YuanConfig, tensors: dict[str, Tensor], place: tuple[int, int], grid: tuple[int, list[int]], rows: int
) -> dict[str, Any]:
    """What `model` of one file is: place is (tensor rank, stage), grid (ranks, stages); the embedding has `rows`."""
    (rank, stage), (ranks, stages) = place, grid
    encoder: dict[str, Tensor] = {}
    first = sum(stages[:stage])
    for local in range(stages[stage]):
        native, ours = f"model.layers.{first + local}.", f"layers.{local}."
        for megatron, name in _WHOLE.items():
            if native + name in tensors:
                encoder[ours + megatron] = tensors[native + name]
        encoder[ours + "self_attention.get_value.weight"] = rows_of(
            tensors[native + "self_attn.v_proj.weight"], rank, ranks
        )
        encoder[ours + "self_attention.get_query_key.weight"] = rows_of(
            tensors[native + "self_attn.qk_proj.weight"], rank, ranks
        )
        encoder[ours + "self_attention.dense.weight"] = columns_of(
            tensors[native + "self_attn.o_proj.weight"], rank, ranks
        )
        up, gate = (rows_of(tensors[native + f"mlp.{name}_proj.weight"], rank, ranks) for name in ("up", "gate"))
        encoder[ours + "mlp.dense_h_to_4h.weight"] = torch.cat([up, gate])
        encoder[ours + "mlp.dense_4h_to_h.weight"] = columns_of(tensors[native + "mlp.down_proj.weight"], rank, ranks)
    body: dict[str, Any] = {"encoder": encoder}
    model: dict[str, Any] = {"language_model": body}
    whole = tensors["model.embed_tokens.weight"]
    padded = torch.cat([whole, torch.zeros(rows - len(whole), config.hidden_size, dtype=whole.dtype)])
    embedding = rows_of(padded, rank, ranks)
    if stage == 0:
        body["embedding"] = {"word_embeddings": {"weight": embedding}}
    if stage == len(stages) - 1:
        encoder["final_layernorm.weight"] = tensors["model.norm.weight"]
        if stage:
            model["word_embeddings_for_head"] = {"weight": embedding}
    return model


def write_original(folder: Path, config: YuanConfig, tensors: dict[str, Tensor], ranks: int, stages: list[int]) -> Path:
    """Writes a checkpoint of iteration 20 as the original does."""
    folder.mkdir()
    (folder / TRACKER_FILE).write_text("20\n")
    arguments = Namespace(
        num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        ffn_hidden_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        tensor_model_parallel_size=ranks,
        pipeline_model_parallel_size=len(stages),
    )
    for rank in range(ranks):
        for stage in range(len(stages)):
            name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if len(stages) > 1 else "")
            place = folder / "iter_0000020" / name
            place.mkdir(parents=True)
            model = rank_model(config, tensors, (rank, stage), (ranks, stages), config.vocab_size)
            content = {"args": arguments, "checkpoint_version": 3.0, "iteration": 20, "model": cloned(model)}
            torch.save(content, place / SHARD_FILE)
    return folder


def cloned(tree: Any) -> Any:
    """Tensors of their own memory, as a training has them: a view is saved with all that it is a view of."""
    return {key: cloned(value) for key, value in tree.items()} if isinstance(tree, dict) else tree.clone()


def flat(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Nested tables as one, keys joined by points."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {key: value for name, below in tree.items() for key, value in flat(below, f"{prefix}/{name}").items()}
