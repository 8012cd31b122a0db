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

ADAPTER_FILE = "adapter.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_PARTS = "adapter-*.safetensors"


class LowRankLinear(nn.Module):
    """A frozen linear layer without bias, and its low-rank addition."""

    def __init__(self, linear: nn.Linear, section: LoraSection, name: str, seed: int) -> None:
        """Takes a linear layer's weight over.

        Args:
            linear: without bias.
            section: rank, alpha, dropout.
            name: the weight's full native name, without `.weight`: seeds A.
            seed: of the run.
        """
        super().__init__()
        outputs, inputs = linear.weight.shape
        self.weight = linear.weight.requires_grad_(False)
        # As peft has it: evenly within 1 / sqrt(inputs).
        bound = 1.0 / math.sqrt(inputs)
        drawn = torch.empty(section.rank, inputs).uniform_(
            -bound, bound, generator=generator_of(f"{name}.lora_a", seed)
        )
        self.lora_a = nn.Parameter(drawn)
        self.lora_b = nn.Parameter(torch.zeros(outputs, section.rank))
        self.scale = scale_of(section)
        self.dropout = section.dropout

    def forward(self, input_bsi: Tensor) -> Tensor:
        """Returns [b, s, o]."""
        seen_bsi = functional.dropout(input_bsi, self.dropout, self.training)
        added_bso = functional.linear(functional.linear(seen_bsi, self.lora_a), self.lora_b)
        return functional.linear(input_bsi, self.weight) + self.scale * added_bso


def scale_of(section: LoraSection) -> float:
    """Returns what an addition is multiplied by."""
    return section.alpha / section.rank


def add_lora_(block: Block, section: LoraSection, prefix: str, seed: int) -> None:
    """Freezes a block and puts additions to its targets, in place.

    Args:
        block: whole (not divided over tensor ranks), with its first weights.
        section: which matrices, and how.
        prefix: of the block's native names, `model.layers.3.`.
        seed: of the run.
    """
    block.requires_grad_(False)
    for name, module in list(block.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, nn.Linear) and last in section.targets:
            setattr(block.get_submodule(parent), last, LowRankLinear(module, section, prefix + name, seed))
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
