"""Low-rank additions (LoRA, arXiv 2106.09685): W x + alpha / rank * B A x, of which only A and B are trained.

They are put into a block from outside, where its matrices stand, under the names of those: beside
`self_attn.qk_proj.weight` come `self_attn.qk_proj.lora_a` [rank, in] and `self_attn.qk_proj.lora_b` [out, rank]. A
starts at random and B at zero, so that training begins with the model as it is. Everything else of the block is frozen.
The written model has them merged into its weights; they themselves are kept beside it.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torch.nn import functional

from yuan_checkpoint.files import write_json, write_tensors
from yuan_manifest.schema import LoraSection, as_plain
from yuan_model import Block, generator_of
from yuan_parallel.tensor import (
    ALONE,
    ColumnParallel,
    RowParallel,
    TensorGroup,
    leave_matrices,
    shard_dimension,
    shard_parameter,
    sum_gradient,
)

ADAPTER_FILE = "adapter.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_PARTS = "adapter-*.safetensors"


Layer = nn.Linear | ColumnParallel | RowParallel
"""What additions can be made to; without bias."""


class LowRankLinear(nn.Module):
    """A frozen linear layer without bias, and its low-rank addition; divided over tensor ranks as the layer is."""

    def __init__(self, layer: Layer, section: LoraSection, name: str, seed: int, group: TensorGroup) -> None:
        """Takes a linear layer's weight over.

        Args:
            layer: this rank's part of it.
            section: rank, alpha, dropout.
            name: the weight's full native name, without `.weight`: seeds A.
            seed: of the run.
            group: the ranks that share the layer.
        """
        super().__init__()
        self.weight = layer.weight.requires_grad_(False)
        self.group = group
        self.sums_gradient = isinstance(layer, ColumnParallel)
        self.sums_output = isinstance(layer, RowParallel)
        outputs, inputs = (
            size * (group.size if shard_dimension(f"{name}.weight") == dimension else 1)
            for dimension, size in enumerate(layer.weight.shape)
        )
        # As peft has it: evenly within 1 / sqrt(inputs). Drawn whole, so that it does not depend on the division.
        bound = 1.0 / math.sqrt(inputs)
        drawn = torch.empty(section.rank, inputs).uniform_(
            -bound, bound, generator=generator_of(f"{name}.lora_a", seed)
        )
        self.lora_a = shard_parameter(f"{name}.lora_a", drawn, group)
        self.lora_b = shard_parameter(f"{name}.lora_b", torch.zeros(outputs, section.rank), group)
        self.scale = scale_of(section)
        self.dropout = section.dropout

    def forward(self, input_bsi: Tensor) -> Tensor:
        """Returns [b, s, o]; of tensor ranks this one's outputs, or the sum of all."""
        if self.sums_gradient:
            input_bsi = sum_gradient(input_bsi, self.group)
        seen_bsi = functional.dropout(input_bsi, self.dropout, self.training)
        # The factor that every rank has whole sees a part of the outputs or inputs on each: its gradient is their sum.
        a, b = self.lora_a, self.lora_b
        if self.group.size > 1:
            a, b = (a, sum_gradient(b, self.group)) if self.sums_output else (sum_gradient(a, self.group), b)
        added_bso = functional.linear(functional.linear(seen_bsi, a), b)
        output_bso = functional.linear(input_bsi, self.weight) + self.scale * added_bso
        return leave_matrices(output_bso, self.group) if self.sums_output else output_bso


def scale_of(section: LoraSection) -> float:
    """Returns what an addition is multiplied by."""
    return section.alpha / section.rank


def add_lora_(block: Block, section: LoraSection, prefix: str, seed: int, group: TensorGroup = ALONE) -> None:
    """Freezes a block and puts additions to its targets, in place.

    Args:
        block: with its first weights; divided over the group already.
        section: which matrices, and how.
        prefix: of the block's native names, `model.layers.3.`.
        seed: of the run.
        group: the ranks that share its matrices.
    """
    block.requires_grad_(False)
    for name, module in list(block.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, Layer) and last in section.targets:
            setattr(block.get_submodule(parent), last, LowRankLinear(module, section, prefix + name, seed, group))
    if section.dropout > 0:
        block.draws_inside = True


def is_addition(name: str) -> bool:
    """Says whether a parameter is a part of an addition, by its name."""
    return name.endswith((".lora_a", ".lora_b"))


def merged(tensors: Mapping[str, Tensor], section: LoraSection) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns native weights with the additions among the tensors merged in, and those additions."""
    additions = {name: tensor for name, tensor in tensors.items() if is_addition(name)}
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if is_addition(name):
            continue
        matrix = name.removesuffix("weight")
        weights[name] = tensor
        if f"{matrix}lora_a" in additions:
            a, b = additions[f"{matrix}lora_a"].float(), additions[f"{matrix}lora_b"].float()
            weights[name] = (tensor.float() + scale_of(section) * b @ a).to(tensor.dtype)
    return weights, additions


def write_adapter_part(folder: Path, stage: int, additions: Mapping[str, Tensor]) -> None:
    """Writes a pipeline stage's additions.

    Raises:
        OSError: if the disk refuses it.
    """
    write_tensors(folder / f"adapter-{stage:05d}.safetensors", additions)


def finish_adapter(folder: Path, section: LoraSection) -> None:
    """Makes one adapter of the stages' parts: `adapter.safetensors` and `adapter_config.json`.

    Args:
        folder: of the written model.
        section: rank, alpha, dropout, targets.

    Raises:
        OSError: if the disk refuses it.
    """
    parts = sorted(folder.glob(_PARTS))
    additions: dict[str, Tensor] = {}
    for part in parts:
        additions |= load_file(part)
    write_tensors(folder / ADAPTER_FILE, additions)
    write_json(folder / ADAPTER_CONFIG_FILE, {"method": "lora", **as_plain(section)})
    for part in parts:
        part.unlink()
